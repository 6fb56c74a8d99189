"""Data sets: their description, shards that changed, splits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from support.bad_inputs.bad import LAUNCH, Bad, override


def _described(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        own = folder / "own"
        shutil.copytree(folder / "data", own)
        values = json.loads((own / "dataset.json").read_text())
        change(values)
        (own / "dataset.json").write_text(json.dumps(values))

    return make


OWN = (*LAUNCH, "data.path=own")


def _data(what: str, change: Callable[[dict[str, object]], object], *told: str) -> Bad:
    return Bad(f"data: {what}", told, OWN, _described(change))


def _harmed(what: str, harm: Callable[[Path], object], *told: str) -> Bad:
    def make(folder: Path) -> None:
        shutil.copytree(folder / "data", folder / "own")
        harm(folder / "own")

    return Bad(f"data: {what}", told, OWN, make)


def _linked_to_itself(own: Path) -> None:
    shard = own / "train-000001.tar"
    shard.unlink()
    shard.symlink_to(shard.name)


OF_DATA = [
    _harmed(
        "a shard that is gone",
        lambda own: (own / "train-000001.tar").unlink(),
        "own/train-000001.tar: missing. Copy it back",
    ),
    _harmed(
        "a shard that was cut",
        lambda own: (own / "train-000001.tar").write_bytes(b"x"),
        "train-000001.tar: 1 bytes, dataset.json recorded",
    ),
    _harmed(
        "an index that is gone",
        lambda own: (own / "train-000001.idx").unlink(),
        "train-000001.idx: missing. Make it with",
    ),
    _harmed(
        "a description that is none",
        lambda own: (own / "dataset.json").write_bytes(b"{"),
        "own/dataset.json: no description",
        "makes it anew",
    ),
    _harmed(
        "a description 100,000 deep",
        lambda own: (own / "dataset.json").write_bytes(b"[" * 100_000),
        "own/dataset.json: no description",
    ),
    _harmed("a shard that is a link to itself", _linked_to_itself, "own/train-000001.tar: missing"),
    _data(
        "another format",
        lambda values: values.update(format="megabatch-dataset-9"),
        "format 'megabatch-dataset-9', but this version",
    ),
    _data("no splits", lambda values: values.update(splits={}), "has no splits: there is nothing to read"),
    _data(
        "fewer classes than labels",
        lambda values: values.update(classes=["a"]),
        "has labels 0 to 2, but there are 1 classes",
    ),
    override("a split that there is not", "data.validation_split=valid", "data.validation_split is 'valid'"),
    override("validation on training samples", "data.validation_split=train", "train"),
    override(
        "fewer samples than a batch, of which only whole ones count",
        "batch={global_batch: 4000, micro_batch: 4, last_batch: drop}",
        "4000",
    ),
    override("a micro-batch above the batch", "batch.micro_batch=40", "40"),
    override(
        "cycles that end within an epoch",
        "schedule={name: cosine_restarts, cycles: 3}",
        "schedule.cycles=3",
        "epochs=3",
    ),
    override("more ranks than micro-batches", "cluster.processes_per_node=6", "6 ranks share 5 micro-batches a step"),
    override("more GPUs than there are", "cluster.device=cuda", "GPU"),
]
