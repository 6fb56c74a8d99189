"""The same training on any number of ranks: same samples, same order, same losses. Real torchrun processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from support.runs import Workplace, losses, trained_samples

pytestmark = pytest.mark.processes
WORLDS = (1, 2, 3)
STEPS_200 = ("epochs=67", "precision=fp64", "checkpoint.every_epochs=67")


@pytest.fixture(scope="module")
def float64_runs(workplace: Workplace) -> dict[int, RunDir]:
    """201 steps with batch norm, dropout, augmentation, clipping and a short last batch."""
    return {world: workplace.train(f"fp64-{world}", world, *STEPS_200) for world in WORLDS}


def test_float64_losses_agree_to_1e9_over_200_steps(float64_runs: dict[int, RunDir]) -> None:
    reference = losses(float64_runs[1])
    assert len(reference) == 201
    assert reference[-1] < reference[0]
    for world in WORLDS[1:]:
        assert losses(float64_runs[world]) == pytest.approx(reference, rel=1e-9)


def test_every_world_trains_on_the_same_samples_in_the_same_order(float64_runs: dict[int, RunDir]) -> None:
    reference = trained_samples(float64_runs[1])
    assert [len(step) for step in reference[:3]] == [20, 20, 4]
    for first in range(0, len(reference), 3):
        assert sorted(sum(reference[first : first + 3], [])) == list(range(44))
    for world in WORLDS[1:]:
        assert trained_samples(float64_runs[world]) == reference


def test_every_world_finds_the_same_mistakes(workplace: Workplace) -> None:
    """After six steps there are some; a rank reads only some of the samples whose pictures it writes."""
    short = ("precision=fp64", "data.test_split=test", "evaluation.micro_batch=2")
    runs = [workplace.train(f"short-{world}", world, *short) for world in WORLDS]
    found = [json.loads(run_dir.details("test").read_text()) for run_dir in runs]
    assert found[0]["samples"] == sum(count for _, _, count in found[0]["confusion"]) == 15
    assert len(found[0]["mistakes"]) > 3
    assert all(mistake["thumbnail"] for mistake in found[0]["mistakes"])
    assert found[1:] == found[:1] * 2


def test_float32_losses_agree_to_1e5_over_the_first_5_steps(workplace: Workplace) -> None:
    runs = {world: losses(workplace.train(f"fp32-{world}", world)) for world in WORLDS}
    for world in WORLDS[1:]:
        assert runs[world][:5] == pytest.approx(runs[1][:5], rel=1e-5)


def test_another_micro_batch_gives_the_same_losses_where_no_batch_norm_looks_at_it(workplace: Workplace) -> None:
    plain = ("precision=fp64", "model.options={norm: false, dropout: 0.0}", "epochs=20")
    runs = [
        workplace.train(f"micro-{micro_batch}-{world}", world, *plain, f"batch.micro_batch={micro_batch}")
        for micro_batch, world in ((20, 1), (4, 1), (3, 2))
    ]
    reference = losses(runs[0])
    for run_dir in runs[1:]:
        assert losses(run_dir) == pytest.approx(reference, rel=1e-9)
        assert trained_samples(run_dir) == trained_samples(runs[0])


@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_layer_wise_optimizers_agree_between_worlds(workplace: Workplace, optimizer: str) -> None:
    chosen = f"optimizer={{name: {optimizer}, base_learning_rate: 0.02, scaling: none, weight_decay: 1e-3}}"
    runs = [
        losses(workplace.train(f"{optimizer}-{world}", world, chosen, "precision=fp64", "epochs=20"))
        for world in (1, 3)
    ]
    assert runs[1] == pytest.approx(runs[0], rel=1e-9)


def test_mixed_batches_and_strong_augmentation_agree_between_worlds(workplace: Workplace) -> None:
    """Mixing depends on the micro-batch; the last one of an epoch's short step is mixed like any other."""
    mixed = (
        "data.train_transforms=[trivial_augment, color_jitter, random_erasing]",
        "data.batch_transforms=[mixup_or_cutmix, random_erasing]", "data.normalize=per_image",
        "precision=fp64", "epochs=20",
    )  # fmt: skip
    runs = {world: losses(workplace.train(f"mixed-{world}", world, *mixed)) for world in (1, 3)}
    assert runs[3] == pytest.approx(runs[1], rel=1e-9)
    unmixed = (mixed[0], *mixed[2:])
    assert losses(workplace.train("unmixed", 1, *unmixed))[:3] != pytest.approx(runs[1][:3], rel=1e-3)


@pytest.mark.matrix
def test_accelerate_launch_starts_the_same_training(workplace: Workplace, float64_runs: dict[int, RunDir]) -> None:
    import subprocess
    import sys

    from support.runs import environment

    run_dir = workplace.job("accelerate", 2, "epochs=10", "precision=fp64")
    reference = workplace.train("by-torchrun", 2, "epochs=10", "precision=fp64")
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "-m", "megabatch.trainer", str(run_dir.job),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=workplace.folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert losses(run_dir) == losses(reference)


def test_accelerates_cpu_option_which_starts_one_process_is_refused(workplace: Workplace) -> None:
    import subprocess
    import sys

    from support.runs import environment

    run_dir = workplace.job("accelerate-cpu", 2)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "megabatch.trainer", str(run_dir.job),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=workplace.folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "the job asks for 2 ranks (1 nodes x 2), but 1 were started" in done.stderr
    assert not Path(run_dir.metrics).exists()
