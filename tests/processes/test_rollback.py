"""Rolling back on real ranks: the same on any number of them, and over kill -9."""

from __future__ import annotations

import json
from typing import Any

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint, loop
from support.poison import SHORT, STEPS, poisoned_workplace
from support.runs import Workplace, finish, kill_after_step
from support.training import training

pytestmark = pytest.mark.processes
BACK = (
    *SHORT, "loss={name: custom, function: 'poison:nan'}", "stability={on_bad_step: roll_back}",
    "averaging={name: ema, decay: 0.9}", "batch={global_batch: 4, micro_batch: 1}", "precision=fp64",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return poisoned_workplace(tmp_path_factory.mktemp("poisoned"))


def losses(run_dir: RunDir) -> list[float]:
    """Return the losses of the steps that had an update, with those of the others as 0."""
    lines = read_metrics(run_dir.metrics, "step")
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    return [0.0 if "passed_over" in line else line["loss"] for line in lines]


def bad_steps(run_dir: RunDir) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run_dir.bad_steps.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("time", "attempt")} for line in lines]


def final(run_dir: RunDir) -> tuple[dict[str, bytes], dict[str, Any]]:
    snapshot = checkpoint.load(run_dir.checkpoint(STEPS))
    tensors = {**snapshot.network, **snapshot.optimizer, **{f"ema/{n}": t for n, t in snapshot.averaged.items()}}
    state = {**snapshot.state["training"], "attempt": None}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, state


@pytest.fixture(scope="module")
def runs(place: Workplace) -> dict[int, RunDir]:
    return {ranks: place.train(f"back-{ranks}", ranks, *BACK) for ranks in (2, 3)}


def test_all_numbers_of_ranks_go_back_alike(place: Workplace, runs: dict[int, RunDir]) -> None:
    with training(place, "back-1", *BACK) as parts:
        loop.train(parts)
    alone = parts.run_dir
    assert [[*line["worst"].values()] for line in bad_steps(alone)] == 3 * [[["class3/poison"]]]
    for run in runs.values():
        assert losses(run) == pytest.approx(losses(alone), rel=1e-9)
        assert bad_steps(run) == bad_steps(alone)
        assert final(run)[1]["guard"] == final(alone)[1]["guard"]


def test_a_run_killed_while_it_goes_back_ends_with_the_bits_of_one_left_alone(
    place: Workplace, runs: dict[int, RunDir]
) -> None:
    killed = place.job("killed", 2, *BACK)
    kill_after_step(place.start(killed), killed, bad_steps(runs[2])[1]["step"], victim=1)
    finish(place.start(killed), killed)
    assert losses(killed) == losses(runs[2])
    assert final(killed) == final(runs[2])


def test_too_many_bad_steps_end_the_run_with_the_samples_in_the_message(place: Workplace) -> None:
    run_dir = place.job("limited", 1, *BACK, "stability={on_bad_step: roll_back, max_bad_steps: 2}")
    assert place.start(run_dir).wait(timeout=120) == 1
    (failure,) = [json.loads(file.read_text()) for file in run_dir.failures()]
    assert failure["kind"] == "TrainingError"
    assert "3 bad steps, stability.max_bad_steps allows 2; the last: step" in failure["message"]
    assert "the loss is nan (loss nan, gradient norm nan)" in failure["message"]
    assert "class3/poison" in failure["message"]
    assert "going back to the checkpoint of step" in run_dir.metrics.read_text()
