"""The arguments of train.py about data, the network, devices and the optimizer (timm 1.0.29), in its order."""

from __future__ import annotations

from megabatch.launcher.timm_import.argument import Argument

_DATA = "data are read from shards, whatever they were before: `megabatch data import` or `index` makes them"
_CLASSES = "the classes are those of the data set"
_RGB = "images are RGB"
_HEAD = "the head begins as its own code says; `model.initialization` is for the whole network"

DATA = (
    Argument("data", many="?", key="data.path", why=_DATA),
    Argument("--data-dir", key="data.path", why=_DATA),
    Argument("--dataset", default="", why=_DATA),
    Argument("--train-split", default="train", key="data.train_split"),
    Argument("--val-split", default="validation", key="data.validation_split"),
    Argument("--train-num-samples", "int", why="samples are counted in the index"),
    Argument("--val-num-samples", "int", why="samples are counted in the index"),
    Argument("--dataset-download", "switch", False, why="nothing is downloaded; import what you have"),
    Argument("--class-map", default="", why="a folder or .cls member says the class; the names are in dataset.json"),
    Argument("--input-img-mode", why=_RGB),
    Argument("--input-key", why="the image is the .jpg, .png or other picture of a sample"),
    Argument("--target-key", why="the class is the .cls of a sample; other targets: data.target (docs/targets.md)"),
    Argument("--dataset-trust-remote-code", "switch", False, why="no code of a data set is ever run"),
)

MODEL = (
    Argument("--model", default="resnet50", key="model.name"),
    Argument("--pretrained", "switch", False, key="model.pretrained"),
    Argument("--pretrained-path", key="model.pretrained.source", why="for other classes name the head in leave_out"),
    Argument(
        "--initial-checkpoint",
        default="",
        key="model.pretrained.source",
        why="only weights, no Python objects, are read",
    ),
    Argument(
        "--resume", default="", why="timm's optimizer state cannot be taken over; its weights can: model.pretrained"
    ),
    Argument(
        "--no-resume-opt",
        "switch",
        False,
        why="model.pretrained takes weights alone; a run here resumes with everything",
    ),
    Argument("--num-classes", "int", why=_CLASSES),
    Argument("--gp", key="model.options.global_pool"),
    Argument("--img-size", "int", key="data.image_size", why="without it timm asks the model; 224 is written here"),
    Argument("--in-chans", "int", why=_RGB),
    Argument("--input-size", "int", many=3, key="data.image_size", why="images are square and RGB"),
    Argument(
        "--crop-pct",
        "float",
        key="data.evaluation_transforms",
        why="without it timm asks the model; 0.875 is written here",
    ),
    Argument(
        "--mean",
        "float",
        many="+",
        key="data.normalize.mean",
        why="without it timm asks the model; here it is ImageNet's",
    ),
    Argument(
        "--std",
        "float",
        many="+",
        key="data.normalize.std",
        why="without it timm asks the model; here it is ImageNet's",
    ),
    Argument("--interpolation", default="", why="resizing is antialiased bilinear"),
    Argument(
        "-b --batch-size",
        "int",
        128,
        key="batch.micro_batch, batch.global_batch",
        why="times processes and --grad-accum-steps it is the global batch",
    ),
    Argument("-vb --validation-batch-size", "int", key="evaluation.micro_batch"),
    Argument("--channels-last", "switch", False, key="model.channels_last"),
    Argument("--fuser", default="", why="model.compile fuses"),
    Argument("--grad-accum-steps", "int", 1, key="batch.global_batch", why="follows from global and micro-batch here"),
    Argument(
        "--grad-checkpointing",
        "switch",
        False,
        why="needs the names of the layers: model.checkpoint_activations, as in ['layer?.*'] or ['blocks.*']",
    ),
    Argument("--fast-norm", "switch", False, why="norms compute as torch has them"),
    Argument("--model-kwargs", "pairs", {}, key="model.options"),
    Argument("--head-init-scale", "float", why=_HEAD),
    Argument("--head-init-bias", "float", why=_HEAD),
    Argument("--torchcompile-mode", key="model.compile.mode"),
    Argument(
        "--torchscript", "switch", False, why="model.compile is what there is; `megabatch export` writes TorchScript"
    ),
    Argument("--torchcompile", many="?", key="model.compile.backend"),
)

DEVICE = (
    Argument("--device", default="cuda", why="the cluster file says it: cluster.device"),
    Argument("--amp", "switch", False, key="precision"),
    Argument("--amp-dtype", default="float16", key="precision"),
    Argument(
        "--model-dtype", key="precision", why="parameters stay in float32; the forward pass is in the lower precision"
    ),
    Argument(
        "--no-ddp-bb",
        "switch",
        False,
        why="buffers are never broadcast: batch norm gets the statistics of the whole step",
    ),
    Argument("--synchronize-step", "switch", False, why="no step waits for the device here"),
    Argument("--local_rank", "int", 0, why="whoever starts the ranks says it"),
    Argument("--device-modules", many="+", why="devices are cpu and cuda"),
)

OPTIMIZER = (
    Argument("--opt", default="sgd", key="optimizer.name"),
    Argument("--opt-eps", "float", key="optimizer.epsilon"),
    Argument("--opt-betas", "float", many="+", key="optimizer.beta1, optimizer.beta2"),
    Argument("--momentum", "float", 0.9, key="optimizer.momentum"),
    Argument(
        "--weight-decay", "float", 2e-5, key="optimizer.weight_decay", why="not for biases and norms, in timm neither"
    ),
    Argument("--clip-grad", "float", key="regularization.clip_norm"),
    Argument("--clip-mode", default="norm", key="regularization.clip_norm, clip_value or clip_adaptive"),
    Argument("--layer-decay", "float", key="optimizer.layer_decay"),
    Argument(
        "--layer-decay-min-scale",
        "float",
        0.0,
        why="no lower limit; optimizer.groups can set the rate of single layers",
    ),
    Argument(
        "--layer-decay-no-opt-scale", "float", why="no layer stands still; model.train: head trains the head alone"
    ),
    Argument("--opt-kwargs", "pairs", {}, key="optimizer.options"),
)
