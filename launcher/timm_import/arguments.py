"""All arguments of timm's train.py (1.0.29), each with what becomes of it: docs/from-timm.md is written from here."""

from __future__ import annotations

from megabatch.launcher.timm_import.argument import Argument
from megabatch.launcher.timm_import.data_arguments import DATA, DEVICE, MODEL, OPTIMIZER
from megabatch.launcher.timm_import.schedule_arguments import AUGMENTATION, AVERAGE, BATCH_NORM, SCHEDULE

TRAIN_PY = "1.0.29"
_LOADER = "the loader decides it by itself"
_SIZES = "image_size is one number for a whole run; a second run can begin from the first with another"
_NAFLEX = "images of one size alone; no NaFlex"
_TEACHER = "teachers are runs, or files with their network: `distillation` (docs/distillation.md)"
_AMP = "--amp of today"

MISC = (
    Argument("--seed", "int", 42, key="seed"),
    Argument(
        "--worker-seeding", default="all", why="augmentation is a function of seed, epoch and sample, not of workers"
    ),
    Argument(
        "--log-interval",
        "int",
        50,
        why="metrics.jsonl has every step (tracking.every_steps), the screen every 5 seconds",
    ),
    Argument("--val-interval", "int", 1, key="evaluation.every_epochs, checkpoint.every_epochs"),
    Argument("--recovery-interval", "int", 0, key="checkpoint.every_steps"),
    Argument(
        "--checkpoint-hist",
        "int",
        10,
        why="timm keeps so many of the best; here the last two (checkpoint.keep_last) and the best",
    ),
    Argument("-j --workers", "int", 4, why="threads of the cluster file: cluster.loader_threads"),
    Argument("--save-images", "switch", False, why="`megabatch data inspect` writes a page of augmented samples"),
    Argument("--pin-mem", "switch", False, why=_LOADER),
    Argument("--no-prefetcher", "switch", False, why=_LOADER),
    Argument("--output", default="", why="`megabatch launch --run-dir RUN_DIR`"),
    Argument("--experiment", default="", key="name"),
    Argument("--eval-metric", default="top1", key="evaluation.metric"),
    Argument("--tta", "int", 0, why="every image is evaluated once; train.py does not read it either"),
    Argument("--use-multi-epochs-loader", "switch", False, why=_LOADER),
    Argument("--log-wandb", "switch", False, key="tracking.wandb"),
    Argument("--wandb-project", key="tracking.wandb.project"),
    Argument("--wandb-tags", many="+", default=[], why="runs have groups, no tags: tracking.wandb.group"),
    Argument("--wandb-resume-id", default="", why="a resumed run goes on in W&B by itself"),
)

SIZES = (
    Argument("--train-img-sizes", "int", many="+", why=_SIZES),
    Argument("--train-batch-sizes", "int", many="+", why=_SIZES),
    Argument("--train-size-probs", "float", many="+", why=_SIZES),
    Argument("--train-size-schedule", default="constant", why=_SIZES),
    Argument("--train-size-schedule-spread", "float", 0.65, why=_SIZES),
    Argument("--train-size-random-mix", "float", 0.1, why=_SIZES),
    Argument("--train-batches-per-epoch --train-steps-per-epoch", "int", why="an epoch is every sample once"),
    Argument("--variable-batch-loss-scale", default="none", why=_SIZES),
    Argument("--naflex-loader", "switch", False, why=_NAFLEX),
    Argument("--naflex-train-seq-lens", "int", [128, 256, 576, 784, 1024], many="+", why=_NAFLEX),
    Argument("--naflex-max-seq-len", "int", 576, why=_NAFLEX),
    Argument("--naflex-patch-sizes", "int", many="+", why=_NAFLEX),
    Argument("--naflex-patch-size-probs", "float", many="+", why=_NAFLEX),
    Argument("--naflex-loss-scale", default="linear", why=_NAFLEX),
    Argument("--naflex-patchify-channels-first", "switch", False, why=_NAFLEX),
)

DISTILLATION = (
    Argument("--kd-model-name", why=_TEACHER),
    Argument("--kd-distill-type", default="logit", why=_TEACHER),
    Argument("--kd-loss-type", default="kl", why=_TEACHER),
    Argument("--distill-loss-weight", "float", why="distillation.share"),
    Argument("--task-loss-weight", "float", why="distillation.share"),
    Argument("--kd-temperature", "float", 4.0, why="distillation.temperature"),
    Argument("--kd-student-feature-dim", "int", why="outputs are compared, no features"),
    Argument("--kd-teacher-feature-dim", "int", why="outputs are compared, no features"),
    Argument("--kd-token-distill-type", default="soft", why="no distillation tokens"),
)

EARLIER = (
    Argument("--apex-amp", "switch", False, why=_AMP, older=True),
    Argument("--native-amp", "switch", False, why=_AMP, older=True),
    Argument("--amp-impl", default="native", why="torch's own autocast is what there is", older=True),
    Argument("--aot-autograd", "switch", False, why="model.compile", older=True),
    Argument("--bn-tf", "switch", False, why="model.options has what the model takes", older=True),
    Argument("--jsd", "switch", False, why="there is no Jensen-Shannon loss", older=True),
)

GROUPS = {
    "Data": DATA, "Network": MODEL, "Devices": DEVICE, "Optimizer": OPTIMIZER, "Schedule": SCHEDULE,
    "Augmentation and loss": AUGMENTATION, "Batch norm": BATCH_NORM, "Average of the weights": AVERAGE,
    "Miscellaneous": MISC, "Sizes that change": SIZES, "Distillation": DISTILLATION, "Of earlier versions": EARLIER,
}  # fmt: skip
ARGUMENTS = {argument.dest: argument for group in GROUPS.values() for argument in group}
