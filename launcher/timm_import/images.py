"""train.py's augmentation, loss and evaluation as sections of a recipe. The order of transforms is timm's."""

from __future__ import annotations

import math
import re

from megabatch.configs.errors import ConfigError, Problem
from megabatch.launcher.timm_import.values import Section, Values

_SIZE_OF_MODEL = 224
_CROP_OF_MODEL = 0.875
_ASK = "there it is the model's own (timm.get_pretrained_cfg)"
_LEVELS = 10  # of timm's magnitudes; 30 here


def image_size(values: Values) -> int:
    """Return the size of the square images."""
    if values.look("input_size") is not None:
        _, height, width = values.take("input_size")
        if height != width or values.look("input_size")[0] != 3:
            values.note("input_size", f"images are square and RGB here; {width} is written")
        return int(width)
    if values.look("img_size") is not None:
        return int(values.take("img_size"))
    values.note("img_size", f"{_ASK}; {_SIZE_OF_MODEL} is written here")
    return _SIZE_OF_MODEL


def normalization(values: Values) -> Section:
    """Return mean and deviation of the pixels; ImageNet's where the command has none."""
    found: Section = {"name": "fixed", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for name in ("mean", "std"):
        given = values.look(name)
        if given is None:
            values.note(name, f"{_ASK}; ImageNet's is written here")
        elif len(given) in (1, 3):
            found[name] = values.take(name) * (3 // len(given))
        else:
            raise ConfigError([Problem("command line", f"--{name}: {len(given)} numbers: write one, or three")])
    return found


def train_transforms(values: Values, size: int) -> list[Section]:
    """Return what becomes of single images: crop, flips, then colours or a policy."""
    if values.take("no_aug"):
        return [{"name": "resize", "size": size}, {"name": "center_crop"}]
    if values.look("train_interpolation") != "bilinear":
        values.note("train_interpolation", "resizing is antialiased bilinear")
    crop = {name: _pair(values, name) for name in ("scale", "ratio")}
    found: list[Section] = [{"name": "random_resized_crop", **crop}]
    for name, transform in (("hflip", "horizontal_flip"), ("vflip", "vertical_flip")):
        if values.take(name) > 0:
            found.append({"name": transform, "probability": values.look(name)})
    policy = values.take("aa") or ""
    if policy:
        found += _policy(values, policy)
    if values.look("color_jitter") is not None and (not policy or "3a" in policy):
        found += _color_jitter(values)
    for name, transform in (("grayscale_prob", "grayscale"), ("gaussian_blur_prob", "gaussian_blur")):
        if values.take(name):
            found.append({"name": transform, "probability": values.look(name)})
    return found


def evaluation_transforms(values: Values, size: int) -> list[Section]:
    """Return the crop of validation images: of the shorter side resized to size / crop_pct."""
    share = values.take("crop_pct")
    if not share:
        values.note("crop_pct", f"{_ASK}; {_CROP_OF_MODEL} is written here")
        share = _CROP_OF_MODEL
    if not 0.01 <= share <= 1:
        raise ConfigError([Problem("command line", f"--crop-pct: {share:g}: write a number from 0.01 to 1")])
    return [{"name": "resize", "size": math.floor(size / share)}, {"name": "center_crop"}]


def batch_transforms(values: Values) -> list[Section]:
    """Return mixup and cutmix, then erasing, in the order in which timm's loader has them."""
    found: list[Section] = []
    mixup = values.take("mixup")
    if values.look("cutmix_minmax") is None:
        cutmix = values.take("cutmix")
    else:  # which train.py puts in the place of --cutmix
        cutmix = 1.0
        values.note("cutmix_minmax", "the area comes from Beta(1, 1), which has no limits")
    if mixes(values):
        common = {"probability": values.take("mixup_prob")}
        if mixup > 0 and cutmix > 0:
            both = {"mixup_alpha": mixup, "cutmix_alpha": cutmix}
            switch = {"switch_probability": values.take("mixup_switch_prob")}
            found.append({"name": "mixup_or_cutmix", **both, **switch, **common})
        elif mixup > 0:
            found.append({"name": "mixup", "alpha": mixup, **common})
        else:
            found.append({"name": "cutmix", "alpha": cutmix, **common})
    if values.look("reprob") > 0 and not values.look("no_aug"):
        found.append({"name": "random_erasing", "probability": values.take("reprob"), "scale": [0.02, 0.333333],
                      "ratio": [0.3, 3.33333]})  # fmt: skip
        if values.look("remode") != "const":
            values.note("remode", "what is erased gets the mean colour (const), no noise")
    return found


def mixes(values: Values) -> bool:
    """Return whether a micro-batch is mixed."""
    return bool(values.look("mixup") > 0 or values.look("cutmix") > 0 or values.look("cutmix_minmax") is not None)


def loss(values: Values) -> Section:
    """Return the loss; in timm --bce-loss counts only beside label smoothing or mixup."""
    if not values.look("bce_loss"):
        return {"name": "cross_entropy"}
    if not (values.look("smoothing") or mixes(values)):
        values.note("bce_loss", "without --smoothing and mixup train.py takes cross entropy, and so does this recipe")
        return {"name": "cross_entropy"}
    values.take("bce_loss")
    found: Section = {"name": "binary_cross_entropy"}
    if values.look("bce_target_thresh") is not None:
        found["target_threshold"] = values.take("bce_target_thresh")
    if values.take("bce_sum"):
        found["sum_classes"] = True
    return found


def _pair(values: Values, name: str) -> list[float]:
    pair = values.take(name)
    if len(pair) != 2:
        raise ConfigError([Problem("command line", f"--{name}: {len(pair)} numbers: write smallest and largest")])
    return [float(f"{number:.6g}") for number in pair]


def _color_jitter(values: Values) -> list[Section]:
    factor = values.take("color_jitter")
    found: Section = {"name": "color_jitter", "brightness": factor, "contrast": factor, "saturation": factor}
    if values.look("color_jitter_prob") is not None:
        found["probability"] = values.take("color_jitter_prob")
    return [found] if factor else []


def _policy(values: Values, policy: str) -> list[Section]:
    """Return what is nearest to a policy of timm, as in rand-m9-n3-mstd0.5-inc1."""
    kind, *sections = policy.split("-")
    if kind == "rand":
        numbers = {part[0]: int(part[1:]) for part in sections if re.fullmatch(r"[mn]\d+", part)}
        magnitude = min(30, numbers.get("m", _LEVELS) * 30 // _LEVELS)
        left = [part for part in sections if not re.fullmatch(r"(m|n)\d+|inc1", part)]
        without = f" Nothing is like {', '.join(left)}." if left else ""
        values.note("aa", f"magnitude {magnitude} of 30, timm counts to 10; an operation always happens here, in timm "
                    f"with probability 0.5, and all grow with the magnitude (inc1).{without}")  # fmt: skip
        return [{"name": "rand_augment", "num_ops": numbers.get("n", 2), "magnitude": magnitude}]
    if kind in ("original", "v0", "originalr", "v0r"):
        values.note("aa", "auto_augment has the policy of the paper (original), without noise on the magnitude")
        return [{"name": "auto_augment", "policy": "imagenet"}]
    values.note("aa", "nothing here is like it; trivial_augment, rand_augment and auto_augment are what there is")
    return []
