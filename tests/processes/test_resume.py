"""Killed with -9 in the middle of an epoch and resumed: the same losses bit for bit, no sample lost or repeated."""

from __future__ import annotations

import random

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from support.runs import Workplace, finish, kill_after_step, losses, steps_done, trained_samples

pytestmark = pytest.mark.processes
# fp32, where another order of addition shows in the last bits; a checkpoint every 4 steps, an epoch has 3
OVERRIDES = ("epochs=40", "checkpoint.every_epochs=40", "checkpoint.every_steps=4")
STEPS = 120


def final_weights(run_dir: RunDir) -> dict[str, bytes]:
    snapshot = checkpoint.load(run_dir.checkpoint(STEPS))
    return {name: tensor.numpy().tobytes() for name, tensor in {**snapshot.network, **snapshot.optimizer}.items()}


@pytest.mark.parametrize(
    ("world", "kills"),
    [pytest.param(1, 1, marks=pytest.mark.matrix), pytest.param(2, 1, marks=pytest.mark.matrix), (3, 2)],
)
def test_a_run_killed_ends_with_the_same_bits_as_one_left_alone(workplace: Workplace, world: int, kills: int) -> None:
    alone = workplace.train(f"alone-{world}", world, *OVERRIDES)
    killed = workplace.job(f"killed-{world}", world, *OVERRIDES)
    dice = random.Random(world)
    for _ in range(kills):
        process = workplace.start(killed)
        kill_after_step(process, killed, steps_done(killed) + dice.randint(5, 30), victim=dice.randrange(world))
        assert steps_done(killed) < STEPS
    finish(workplace.start(killed), killed)
    assert losses(killed) == losses(alone)
    assert trained_samples(killed) == trained_samples(alone)
    assert final_weights(killed) == final_weights(alone)


def test_resume_with_other_numbers_of_ranks_and_threads_repeats_no_sample_and_loses_none(workplace: Workplace) -> None:
    overrides = (*OVERRIDES, "precision=fp64")
    alone = workplace.train("elastic-alone", 1, *overrides)
    moved = workplace.job("elastic", 3, *overrides)
    kill_after_step(workplace.start(moved), moved, 20, victim=1)
    other_workers = "cluster.loader_threads=3"
    on_two = workplace.popen("launch", "--resume", "elastic", "cluster.processes_per_node=2", other_workers)
    kill_after_step(on_two, moved, 60, victim=-1)
    on_one = workplace.megabatch("launch", "--resume", "elastic", "cluster.processes_per_node=1")
    assert on_one.returncode == 0, on_one.stderr
    assert losses(moved) == pytest.approx(losses(alone), rel=1e-9)
    assert trained_samples(moved) == trained_samples(alone)


def test_fsdp_killed_ends_with_the_same_bits_and_goes_on_as_ddp_from_there(workplace: Workplace) -> None:
    engine = "engine={name: fsdp, min_parameters: 100}"
    alone = workplace.train("fsdp-alone", 3, *OVERRIDES, engine, "averaging={name: ema, decay: 0.9}")
    killed = workplace.job("fsdp-killed", 3, *OVERRIDES, engine, "averaging={name: ema, decay: 0.9}")
    kill_after_step(workplace.start(killed), killed, 17, victim=2)
    finish(workplace.start(killed), killed)
    assert losses(killed) == losses(alone)
    assert trained_samples(killed) == trained_samples(alone)
    assert final_weights(killed) == final_weights(alone)


@pytest.mark.matrix
def test_a_run_goes_from_one_engine_to_another_and_back(workplace: Workplace) -> None:
    overrides = (*OVERRIDES, "precision=fp64", "optimizer={name: lamb, base_learning_rate: 0.02, scaling: none}")
    alone = workplace.train("engines-alone", 1, *overrides)
    moved = workplace.job("engines", 2, *overrides)
    kill_after_step(workplace.start(moved), moved, 20, victim=1)
    on_fsdp = workplace.popen(
        "launch", "--resume", "engines", "cluster.processes_per_node=3", "engine={name: fsdp, min_parameters: 100}"
    )
    kill_after_step(on_fsdp, moved, 60, victim=-1)
    on_ddp = workplace.megabatch("launch", "--resume", "engines", "cluster.processes_per_node=1", "engine=ddp")
    assert on_ddp.returncode == 0, on_ddp.stderr
    assert losses(moved) == pytest.approx(losses(alone), rel=1e-9)
    assert trained_samples(moved) == trained_samples(alone)
    assert "written by 3 ranks with fsdp" in moved.metrics.read_text()


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_result_is_the_same(workplace: Workplace) -> None:
    alone = workplace.train("undamaged", 2, *OVERRIDES)
    hurt = workplace.job("damaged", 2, *OVERRIDES)
    kill_after_step(workplace.start(hurt), hurt, 30, victim=0)
    newest, _ = checkpoint.newest(hurt)
    assert newest is not None
    file = newest / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    finish(workplace.start(hurt), hurt)
    assert losses(hurt) == losses(alone)
    assert "falling back to an older checkpoint" in hurt.metrics.read_text()


@pytest.mark.matrix
def test_the_loss_scale_of_fp16_goes_on_where_it_was(workplace: Workplace) -> None:
    """The scale doubles every 7 steps and halves on overflow, so a resume that forgot it would end with another one."""
    scaled = (*OVERRIDES, "precision={name: fp16, initial_scale: 1024, growth_interval: 7}")
    alone = workplace.train("scaled-alone", 1, *scaled)
    killed = workplace.job("scaled", 1, *scaled)
    kill_after_step(workplace.start(killed), killed, 30, victim=0)
    finish(workplace.start(killed), killed)
    scalers = [checkpoint.load(run_dir.checkpoint(STEPS)).state["scaler"] for run_dir in (alone, killed)]
    assert scalers[0] == scalers[1]
    assert scalers[0]["scale"] != 1024
    assert losses(killed) == losses(alone)
    assert final_weights(killed) == final_weights(alone)


def test_a_plateau_and_the_early_end_come_after_the_same_steps_though_killed_between(workplace: Workplace) -> None:
    """No loss improves by 10, so the rate drops after every second evaluation and the run ends after the ninth."""
    watched = (
        "epochs=40", "checkpoint.every_epochs=40", "checkpoint.every_steps=4", "data.validation_split=validation",
        "schedule={name: plateau, factor_of_drop: 0.5, patience: 1, threshold: 0.999}",
        "evaluation={metric: loss, early_stopping: {patience: 8, min_delta: 10}}",
        "model.name=network:unhurried",  # 27 steps are soon over
    )  # fmt: skip
    alone = workplace.train("watched-alone", 1, *watched)
    killed = workplace.job("watched", 1, *watched)
    for step in (4, 13):
        kill_after_step(workplace.start(killed), killed, step, victim=0)
    finish(workplace.start(killed), killed)
    rates = [[line["learning_rate"] for line in read_metrics(run.metrics, "step")] for run in (alone, killed)]
    assert rates[0] == rates[1] == [0.05] * 9 + [0.025] * 6 + [0.0125] * 6 + [0.00625] * 6
    assert losses(killed) == losses(alone)
    again = workplace.megabatch("launch", "--resume", "watched", "cluster.processes_per_node=1")
    assert again.returncode == 0, again.stderr
    assert "27 steps" in again.stdout
    assert len(losses(killed)) == 27


@pytest.mark.matrix
def test_a_growing_batch_goes_on_in_the_middle_on_another_number_of_ranks(workplace: Workplace) -> None:
    """The batch grows within an epoch (after 152 samples) and at the start of one; the kill lies between."""
    ramp = "batch.ramp=[{samples: 145, global_batch: 36}, {epoch: 30, global_batch: 50}]"
    overrides = (*OVERRIDES, "precision=fp64", ramp)
    alone = workplace.train("ramp-alone", 1, *overrides)
    moved = workplace.job("ramp", 3, *overrides)
    kill_after_step(workplace.start(moved), moved, 10, victim=1)
    on_one = workplace.megabatch("launch", "--resume", "ramp", "cluster.processes_per_node=1")
    assert on_one.returncode == 0, on_one.stderr
    assert losses(moved) == pytest.approx(losses(alone), rel=1e-9)
    samples = trained_samples(moved)
    assert samples == trained_samples(alone)
    assert {20, 24, 36, 44} <= {len(step) for step in samples}
