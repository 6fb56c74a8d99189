"""A data set with one sample that a user's loss cannot bear, and the overrides of short runs over it."""

from __future__ import annotations

from pathlib import Path

from megabatch.data.importer import ImportOptions, import_images
from support.runs import Workplace
from support.shards import image_folder

LOSSES = '''\
import torch
from torch.nn import functional

def nan(outputs, targets):
    """The loss of class 3 is not a number."""
    losses = functional.cross_entropy(outputs, targets, reduction="none")
    return losses * torch.where(targets == 3, float("nan"), 1.0)

def late(outputs, targets):
    """The loss of class 3 looks like any other, but its gradient destroys the weights: the next step shows it."""
    losses = functional.cross_entropy(outputs, targets, reduction="none")
    steep = outputs.square().sum(dim=1) * (targets == 3) * 1e12
    return losses + steep - steep.detach()
'''
SHORT = (
    "epochs=3", "checkpoint.every_epochs=3", "checkpoint.every_steps=4", "regularization={}",
    "batch={global_batch: 4, micro_batch: 2}", "schedule=constant",
)  # fmt: skip
STEPS_PER_EPOCH, STEPS = 8, 24


def poisoned_workplace(folder: Path) -> Workplace:
    """Write 29 samples of three classes and one of a fourth: 8 steps an epoch, the last one short."""
    images = image_folder(folder / "images", {"train": 30, "validation": 15, "test": 15})
    (images / "train" / "class3").mkdir()
    (images / "train" / "class0" / "00000.png").rename(images / "train" / "class3" / "poison.png")
    import_images(images, folder / "data", ImportOptions(samples_per_shard=10), lambda done, total: None)
    place = Workplace(folder)
    place.write()
    (folder / "poison.py").write_text(LOSSES)
    return place
