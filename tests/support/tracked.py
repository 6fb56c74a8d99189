"""What a training tells its trackers, without a training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.base import Tracker

STEPS = (1, 2, 3)


def tell(tracker: Tracker, steps: Iterable[int], attempt: int = 1, top1: float = 0.9, last: int = 0) -> None:
    """Tell of these steps (20 samples each, the loss is 1 / step), of an evaluation after the last one, and close."""
    state = TrainState(step=last, samples_seen=20 * last, attempt=attempt)
    for step in steps:
        state = TrainState(step=step, samples_seen=20 * step, attempt=attempt)
        tracker.step(StepReport(step - 1, 0, 20, 1.0 / step, 0.1, None, 0.5, 0.0, 0, False), state)
    tracker.evaluation(EvaluationResult("validation", 10, 0, 0.25, {"top1": top1, "top5": 1.0}), state)
    tracker.trust_ratios({"head.weight": 0.5}, state)
    tracker.message("told")
    tracker.close()


def job(folder: Path, *overrides: str) -> Job:
    """Return a job that was never prepared, with a secret in the environment of its ranks."""
    loaded = load("digits", "laptop", ["cluster.environment={SECRET_TOKEN: hunter2}", *overrides])
    return Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="0"
    )
