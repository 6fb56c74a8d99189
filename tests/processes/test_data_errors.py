"""Broken samples in a real training: weight 0, counted once for all ranks, and the same result on any number of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.data.dataset import Dataset, read_dataset
from megabatch.data.importer import ImportOptions, import_images
from megabatch.data.read import SplitReader
from megabatch.data.tar_index import read_index
from support.runs import Workplace, finish, kill_after_step, losses, steps_done, trained_samples
from support.shards import dataset, image_folder

pytestmark = pytest.mark.processes
SKIP = ("epochs=20", "precision=fp64", "data.validation_split=validation", "checkpoint.every_steps=4")
ALLOW_3 = "data.on_error={name: skip, max_samples: 3}"
BROKEN = {"train": (0, 17), "validation": (4,)}


def damage(described: Dataset) -> None:
    """Overwrite the pixels of a few samples; sizes and index stay as they are."""
    for split, sample_ids in BROKEN.items():
        for sample_id in sample_ids:
            shard = described.split(split).shards[sample_id // 10]
            path = described.folder / shard.file
            members = read_index(path.with_suffix(".idx"))[sample_id % 10].members
            image = next(member for member in members if member.extension == "png")
            with path.open("r+b") as file:
                file.seek(image.offset + 40)
                file.write(b"damaged" * 8)


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("hurt")
    damage(dataset(folder, {"train": 44, "validation": 15}))
    place = Workplace(folder)
    place.write()
    return place


def test_skipped_samples_change_nothing_but_the_mean_whatever_the_ranks(hurt: Workplace) -> None:
    runs = {world: hurt.train(f"skip-{world}", world, *SKIP, ALLOW_3) for world in (1, 2, 3)}
    reference = losses(runs[1])
    lines = {world: (run_dir.root / "data-errors.jsonl").read_text() for world, run_dir in runs.items()}
    for world in (2, 3):
        assert losses(runs[world]) == pytest.approx(reference, rel=1e-9)
        assert trained_samples(runs[world]) == trained_samples(runs[1])
        assert lines[world] == lines[1]
        assert "samples that could not be used: image: 3" in runs[world].metrics.read_text()
    found = [json.loads(line) for line in lines[1].splitlines()]
    assert {(line["split"], line["sample_id"]) for line in found} == {("train", 0), ("train", 17), ("validation", 4)}
    assert len(found) == 20 * 3
    assert all("train-00000" in line["shard"] or "validation" in line["shard"] for line in found)
    assert sum(line["skipped_samples"] for line in read_metrics(runs[1].metrics, "step")) == 40
    evaluation = read_metrics(runs[1].metrics, "evaluation")[-1]
    assert (evaluation["samples"], evaluation["skipped_samples"]) == (14, 1)
    assert json.loads(runs[1].result.read_text())["skipped_samples"] == "image: 3"


@pytest.mark.parametrize("engine", ["{name: fsdp, min_parameters: 100}", "{name: deepspeed, zero_stage: 2}"])
def test_skipped_samples_are_left_out_of_cut_gradients_too(hurt: Workplace, engine: str) -> None:
    short = ("epochs=3", "data.validation_split=validation", ALLOW_3)
    name = "fsdp" if "fsdp" in engine else "deepspeed"
    run_dir = hurt.train(f"skip-{name}", 2, *short, f"engine={engine}")
    reference = hurt.train(f"skip-as-{name}", 2, *short)
    assert losses(run_dir) == pytest.approx(losses(reference), rel=1e-5)
    assert sum(line["skipped_samples"] for line in read_metrics(run_dir.metrics, "step")) == 6


def test_a_killed_run_with_skipped_samples_goes_on_exactly(hurt: Workplace) -> None:
    alone = hurt.train("skip-alone", 2, *SKIP, ALLOW_3)
    killed = hurt.job("skip-killed", 2, *SKIP, ALLOW_3)
    kill_after_step(hurt.start(killed), killed, 25, victim=1)
    assert steps_done(killed) < 60
    finish(hurt.start(killed), killed)
    assert losses(killed) == losses(alone)


def test_one_broken_sample_more_than_allowed_ends_the_run_and_says_which(hurt: Workplace) -> None:
    run_dir = hurt.job("too-many", 2, *SKIP, "data.on_error={name: skip, max_samples: 1}")
    assert hurt.start(run_dir).wait(timeout=300) != 0
    message = "".join(file.read_text() for file in run_dir.failures())
    assert "2 samples could not be used, data.on_error allows 1" in message
    assert Path(run_dir.root, "data-errors.jsonl").name in message


def test_without_on_error_the_first_broken_sample_ends_the_run(hurt: Workplace) -> None:
    run_dir = hurt.job("stop", 2, *SKIP)
    assert hurt.start(run_dir).wait(timeout=300) != 0
    message = "".join(file.read_text() for file in run_dir.failures())
    assert "GIF or TIFF image" in message
    assert "verify --decode" in message


def test_the_rest_trains_as_if_the_broken_samples_had_never_been_there(hurt: Workplace, tmp_path: Path) -> None:
    described = read_dataset(hurt.folder / "data")
    reader = SplitReader(described.folder, described.split("train"))
    images = image_folder(tmp_path / "images", {"train": 44, "validation": 15})
    for sample_id in BROKEN["train"]:
        (images / "train" / f"{reader.read(sample_id).key}.png").unlink()
    import_images(images, tmp_path / "data", ImportOptions(samples_per_shard=10), lambda done, total: None)
    without = Workplace(tmp_path)
    without.write()
    same = ("epochs=10", "precision=fp64", "data.train_transforms=[]", "model.options={norm: false, dropout: 0.0}")
    whole = losses(without.train("whole", 1, *same, "batch.global_batch=42"))
    assert losses(hurt.train("rest", 2, *same, ALLOW_3, "batch.global_batch=44")) == pytest.approx(whole, rel=1e-9)


def test_masked_samples_are_counted_by_shard_and_reason_once_over_restarts(hurt: Workplace) -> None:
    described = read_dataset(hurt.folder / "data")
    reader = SplitReader(described.folder, described.split("train"))
    excluded = {"train": {reader.read(number).key: "broken" for number in BROKEN["train"]}}
    (hurt.folder / "mask.json").write_text(json.dumps({"format": "megabatch-mask-1", "excluded": excluded}))
    run_dir = hurt.train("masked", 2, "epochs=1", "data.mask=mask.json", "data.validation_split=null")
    finish(hurt.start(run_dir), run_dir)
    lines = [json.loads(line) for line in (run_dir.root / "data-errors.jsonl").read_text().splitlines()]
    assert lines == [
        {"split": "train", "shard": f"train-00000{number}.tar", "reason": "broken", "samples": 1} for number in (0, 1)
    ]
    assert json.loads(run_dir.result.read_text())["masked_samples"] == "broken: 2"
    assert "left out by mask.json: broken: 2" in run_dir.metrics.read_text()
    assert sum(trained_samples(run_dir), []).count(BROKEN["train"][0]) == 0
