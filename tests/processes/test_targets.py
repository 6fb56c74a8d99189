"""Numbers and several classes at once in real trainings: they are learned, and the same on any ranks and batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from support.runs import Workplace, finish, kill_after_step, losses, steps_done
from support.targets import Drawn, numbers_and_labels, target_dataset

pytestmark = pytest.mark.processes
COMMON = (
    "precision=fp64", "data.validation_split=validation", "regularization.label_smoothing=0",
    "evaluation.micro_batch=4", "data.on_error={name: skip, max_samples: 3}",
)  # fmt: skip
NUMBERS = (
    *COMMON, "loss={name: huber, delta: 0.5}",
    "data.target={name: numbers, keys: [brightness, redness], mean: [0.4, 0.4], std: [0.1, 0.2]}",
)  # fmt: skip
LABELS = (
    *COMMON, "loss=binary_cross_entropy", "data.target={name: labels, key: corners}",
    "data.batch_transforms=[mixup_or_cutmix]",
)  # fmt: skip
KINDS = {"numbers": NUMBERS, "labels": LABELS}
METRICS = {"numbers": ("mae", "mse", "r2"), "labels": ("map", "top1")}


def members(drawn: Drawn, number: int) -> dict[str, bytes]:
    """Return good members, but for one sample that has none of them and one whose JSON is broken."""
    found = numbers_and_labels(drawn, number)
    return {"txt": b"?"} if number == 3 else {"json": b"{"} if number == 17 else found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """44 samples, two of which cannot be used (a short last batch in every epoch), and 15 to evaluate."""
    folder = tmp_path_factory.mktemp("targets")
    target_dataset(folder, {"train": 44, "validation": 15}, members)
    place = Workplace(folder)
    place.write()
    return place


def evaluations(run_dir: RunDir) -> list[dict[str, Any]]:
    lines = read_metrics(run_dir.metrics, "evaluation")
    return [line for line in lines if line["split"] == "validation"]


WORLDS = {"numbers": ((1, 20, 15), (2, 3, 2), (3, 4, 4)), "labels": ((1, 20, 4), (3, 4, 15))}  # with both micro-batches


@pytest.fixture(scope="module")
def runs(place: Workplace) -> dict[str, list[RunDir]]:
    """Other ranks, micro-batches and those of the evaluation; no batch norm or mixing that would look at them."""
    plain = ("data.batch_transforms=[]", "model.options={norm: false, dropout: 0.0}", "epochs=5")

    def trained(kind: str, world: int, micro_batch: int, evaluated: int) -> RunDir:
        batches = (f"batch.micro_batch={micro_batch}", f"evaluation.micro_batch={evaluated}")
        return place.train(f"{kind}-{world}", world, *KINDS[kind], *plain, *batches)

    return {kind: [trained(kind, *sizes) for sizes in worlds] for kind, worlds in WORLDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_metrics_agree_on_any_ranks_and_micro_batches(runs: dict[str, list[RunDir]], kind: str) -> None:
    reference = losses(runs[kind][0])
    assert len(reference) == 15
    for run_dir in runs[kind][1:]:
        assert losses(run_dir) == pytest.approx(reference, rel=1e-9)
        for ours, theirs in zip(evaluations(run_dir), evaluations(runs[kind][0]), strict=True):
            assert ours["samples"] == theirs["samples"] == 14
            for metric in (*METRICS[kind], "loss"):
                assert ours[metric] == pytest.approx(theirs[metric], rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_details_are_the_same_on_any_ranks(runs: dict[str, list[RunDir]], kind: str) -> None:
    found = [json.loads(run_dir.details("validation").read_text()) for run_dir in runs[kind]]
    assert found[0]["samples"] == len(found[0]["mistakes"]) == 14  # one of the 15 could not be loaded
    assert "00003" not in {mistake["key"] for mistake in found[0]["mistakes"]}
    assert all(details == found[0] for details in found[1:])


def test_bad_targets_stand_in_the_ledger(runs: dict[str, list[RunDir]]) -> None:
    lines = [json.loads(line) for line in (runs["numbers"][1].root / "data-errors.jsonl").read_text().splitlines()]
    assert {(line["split"], line["key"], line["reason"]) for line in lines} == {
        ("train", "00003", "label"), ("train", "00017", "label"), ("validation", "00003", "label"),
    }  # fmt: skip


@pytest.mark.matrix
def test_a_killed_run_of_mixed_labels_goes_on_exactly(place: Workplace) -> None:
    long = (*LABELS, "epochs=20", "checkpoint.every_steps=4")
    alone = place.train("alone", 1, *long)
    killed = place.job("killed", 1, *long)
    kill_after_step(place.start(killed), killed, 25, victim=0)
    assert steps_done(killed) < 60
    finish(place.start(killed), killed)
    assert losses(killed) == losses(alone)
    names = ("map", "top1", "loss", "step")
    assert [[e[n] for n in names] for e in evaluations(killed)] == [[e[n] for n in names] for e in evaluations(alone)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("learned")
    target_dataset(folder, {"train": 200, "validation": 50, "test": 50})
    place = Workplace(folder)
    place.write()
    (folder / "flat.py").write_text(
        "from torch import nn\n\n"
        "def flat(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, num_classes))\n"
    )
    return place


LEARNED = (
    "data.validation_split=validation", "data.test_split=test", "regularization.label_smoothing=0", "epochs=8",
    "model={name: 'flat:flat'}", "data.train_transforms=[]", "cluster.processes_per_node=1",
    "optimizer={name: adamw, base_learning_rate: 0.01, scaling: none}", "schedule.warmup=0",
)  # fmt: skip


def test_numbers_are_learned_and_shown(whole: Workplace) -> None:
    target = "data.target={name: numbers, member: txt, count: 2, mean: [0.4, 0.4], std: [0.12, 0.15]}"
    done = whole.megabatch("launch", "recipe.yaml", *LEARNED, target, "loss=mean_squared_error", "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    assert "2 numbers a sample" in done.stdout
    result = json.loads((whole.folder / "run" / "result.json").read_text())
    assert result["test"]["r2"] > 0.5
    assert result["best_value"] == min(line["mae"] for line in evaluations(RunDir(whole.folder / "run")))
    assert f"test MAE         {result['test']['mae']:.4g} of 50 images" in done.stdout


def test_several_classes_are_learned_and_shown(whole: Workplace) -> None:
    target = "data.target={name: labels, key: corners}"
    done = whole.megabatch("launch", "recipe.yaml", *LEARNED, target, "loss=focal", "--run-dir", "labels")
    assert done.returncode == 0, done.stderr
    assert "4 classes, several at once" in done.stdout
    result = json.loads((whole.folder / "labels" / "result.json").read_text())
    chance = 0.4
    assert result["test"]["map"] > (1 + chance) / 2
    assert result["best_value"] == max(line["map"] for line in evaluations(RunDir(whole.folder / "labels")))
    assert f"test mAP         {result['test']['map']:.2%} of 50 images" in done.stdout


def test_a_loss_that_does_not_fit_is_refused_with_both_keys(whole: Workplace) -> None:
    done = whole.megabatch("launch", "recipe.yaml", "data.target=labels", "regularization.label_smoothing=0")
    assert done.returncode == 2
    assert "loss is cross_entropy, and data.target is labels" in done.stderr
    assert not Path(whole.folder, "runs").exists()
