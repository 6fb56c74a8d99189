"""The arguments of train.py about the schedule, augmentation and the loss (timm 1.0.29), in its order."""

from __future__ import annotations

from megabatch.launcher.timm_import.argument import Argument

_NOISE = "no noise is added to the learning rate"
_AUG_MIX = "there is no AugMix and no Jensen-Shannon loss"

SCHEDULE = (
    Argument("--sched", default="cosine", key="schedule.name"),
    Argument("--sched-on-updates", "switch", False, why="as always here: the rate follows every step, not every epoch"),
    Argument("--lr", "float", key="optimizer.base_learning_rate", why="the rate itself: scaling: none"),
    Argument("--lr-base", "float", 0.1, key="optimizer.base_learning_rate"),
    Argument("--lr-base-size", "int", 256, key="optimizer.base_batch"),
    Argument("--lr-base-scale", default="", key="optimizer.scaling", why="timm's choice by optimizer is written out"),
    Argument("--lr-noise", "float", many="+", why=_NOISE),
    Argument("--lr-noise-pct", "float", 0.67, why=_NOISE),
    Argument("--lr-noise-std", "float", 1.0, why=_NOISE),
    Argument("--lr-cycle-mul", "float", 1.0, why="cycles are equally long here"),
    Argument("--lr-cycle-decay", "float", 0.5, why="every cycle of cosine_restarts begins at the peak"),
    Argument("--lr-cycle-limit", "int", 1, key="schedule.cycles, epochs", why="in timm every cycle has all --epochs"),
    Argument("--lr-k-decay", "float", 1.0, why="schedules are functions of the epochs seen themselves"),
    Argument("--warmup-lr", "float", 1e-5, key="schedule.start_factor", why="a fraction of the peak here"),
    Argument("--min-lr", "float", 0.0, key="schedule.end_factor", why="a fraction of the peak here"),
    Argument("--epochs", "int", 300, key="epochs"),
    Argument(
        "--epoch-repeats", "float", 0.0, why="an epoch is every sample once; data.repeats is repeated augmentation"
    ),
    Argument("--start-epoch", "int", why="`megabatch launch --resume RUN_DIR` knows where it was"),
    Argument(
        "--decay-milestones",
        "int",
        [90, 180, 270],
        many="+",
        key="schedule.milestones",
        why="timm drops one epoch earlier",
    ),
    Argument("--decay-epochs", "float", 90.0, key="schedule.every"),
    Argument("--warmup-epochs", "int", 5, key="schedule.warmup"),
    Argument("--warmup-prefix", "switch", False, key="epochs", why="as here; the warmup is added to the epochs"),
    Argument("--cooldown-epochs", "int", 0, why="the training ends where the schedule does"),
    Argument("--patience-epochs", "int", 10, key="schedule.patience", why="counts evaluations here"),
    Argument("--decay-rate --dr", "float", 0.1, key="schedule.gamma, factor_of_drop or power"),
)

AUGMENTATION = (
    Argument("--no-aug", "switch", False, key="data.train_transforms"),
    Argument("--train-crop-mode", why="random_resized_crop (rrc) is what there is"),
    Argument("--scale", "float", [0.08, 1.0], many="+", key="data.train_transforms: random_resized_crop.scale"),
    Argument("--ratio", "float", [3 / 4, 4 / 3], many="+", key="data.train_transforms: random_resized_crop.ratio"),
    Argument("--hflip", "float", 0.5, key="data.train_transforms: horizontal_flip.probability"),
    Argument("--vflip", "float", 0.0, key="data.train_transforms: vertical_flip.probability"),
    Argument(
        "--color-jitter", "float", 0.4, key="data.train_transforms: color_jitter", why="off beside --aa, as in timm"
    ),
    Argument("--color-jitter-prob", "float", key="data.train_transforms: color_jitter.probability"),
    Argument("--grayscale-prob", "float", key="data.train_transforms: grayscale.probability"),
    Argument(
        "--gaussian-blur-prob",
        "float",
        key="data.train_transforms: gaussian_blur.probability",
        why="sigma from 0.1 to 2 in both; timm's kernel is 23 pixels wide",
    ),
    Argument(
        "--aa",
        key="data.train_transforms: rand_augment or auto_augment",
        why="operations as in torchvision: all grow with the magnitude (inc1), and no noise on it (mstd)",
    ),
    Argument(
        "--aug-repeats",
        "float",
        0.0,
        key="data.repeats",
        why="an epoch here has every sample so often, one of timm a part of them: epochs are divided by it",
    ),
    Argument("--aug-splits", "int", 0, why=_AUG_MIX),
    Argument("--jsd-loss", "switch", False, why=_AUG_MIX),
    Argument("--bce-loss", "switch", False, key="loss: binary_cross_entropy"),
    Argument("--bce-sum", "switch", False, key="loss.sum_classes"),
    Argument("--bce-target-thresh", "float", key="loss.target_threshold"),
    Argument("--bce-pos-weight", "float", why="classes are not weighted in binary_cross_entropy; loss: custom can"),
    Argument("--reprob", "float", 0.0, key="data.batch_transforms: random_erasing.probability"),
    Argument("--remode", default="pixel", why="what is erased gets the mean colour (const)"),
    Argument("--recount", "int", 1, why="one rectangle an image"),
    Argument("--resplit", "switch", False, why=_AUG_MIX),
    Argument("--mixup", "float", 0.0, key="data.batch_transforms: mixup.alpha"),
    Argument("--cutmix", "float", 0.0, key="data.batch_transforms: cutmix.alpha"),
    Argument(
        "--cutmix-minmax",
        "float",
        many="+",
        key="data.batch_transforms: cutmix.alpha",
        why="the area comes from Beta(1, 1), without limits",
    ),
    Argument("--mixup-prob", "float", 1.0, key="data.batch_transforms: probability"),
    Argument("--mixup-switch-prob", "float", 0.5, key="data.batch_transforms: mixup_or_cutmix.switch_probability"),
    Argument("--mixup-mode", default="batch", why="one share for a micro-batch (batch)"),
    Argument(
        "--mixup-off-epoch", "int", 0, why="the same transforms to the end; a second run from the first can go without"
    ),
    Argument("--smoothing", "float", 0.1, key="regularization.label_smoothing"),
    Argument("--train-interpolation", default="random", why="resizing is antialiased bilinear"),
    Argument("--drop", "float", 0.0, key="regularization.dropout"),
    Argument("--drop-connect", "float", why="train.py does not read it either: --drop-path"),
    Argument("--drop-path", "float", key="regularization.stochastic_depth"),
    Argument("--drop-block", "float", key="model.options.drop_block_rate"),
)

BATCH_NORM = (
    Argument("--bn-momentum", "float", key="model.options.bn_momentum"),
    Argument("--bn-eps", "float", key="model.options.bn_eps"),
    Argument("--sync-bn", "switch", False, key="model.batch_norm: synchronized"),
    Argument(
        "--dist-bn", default="reduce", why="statistics come from all micro-batches of a step, on any number of ranks"
    ),
    Argument("--split-bn", "switch", False, why="no batch norms by augmentation split"),
)

AVERAGE = (
    Argument("--model-ema", "switch", False, key="averaging: ema"),
    Argument("--model-ema-force-cpu", "switch", False, why="the average stays on the device, and is what is evaluated"),
    Argument(
        "--model-ema-decay",
        "float",
        0.9998,
        key="averaging.decay",
        why="less at the start: min(decay, (1 + n) / (10 + n))",
    ),
    Argument("--model-ema-warmup", "switch", False, why="the average always warms up: min(decay, (1 + n) / (10 + n))"),
)
