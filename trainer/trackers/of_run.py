"""Which trackers a run has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.data.steps import Steps
from megabatch.trainer.trackers.base import Trackers
from megabatch.trainer.trackers.jsonl import JsonlTracker
from megabatch.trainer.trackers.mirror import Follow, Mirror
from megabatch.trainer.trackers.own import own_tracker
from megabatch.trainer.world import World


def trackers_of(job: Job, world: World, run_dir: RunDir, steps: Steps) -> Trackers:
    """Return them: metrics.jsonl, the terminal, and the mirrors that the recipe names; none but on rank 0.

    Raises TrainingError where one of the user's own cannot be found.
    """
    if not world.is_main:
        return Trackers(())
    from megabatch.trainer.trackers.terminal import TerminalTracker

    tracking = job.recipe.tracking
    terminal = TerminalTracker(steps, tracking.print_every_seconds, job.recipe.data.validation_split)
    mirrors = [Mirror(name, follow, terminal.message) for name, follow in _mirrors(job, run_dir, terminal.message)]
    return Trackers((JsonlTracker(run_dir.metrics), terminal, *mirrors))


def _mirrors(job: Job, run_dir: RunDir, warn: Callable[[str], None]) -> Iterator[tuple[str, Follow]]:
    """Yield the name of each mirror that the recipe asks for, and what follows the lines."""
    tracking = job.recipe.tracking
    if tracking.wandb is not None:
        from megabatch.trainer.trackers import wandb_tracker

        yield "Weights & Biases", partial(wandb_tracker.follow, tracking.wandb, job, run_dir, warn)
    if tracking.tensorboard is not None:
        from megabatch.trainer.trackers import tensorboard_tracker

        yield "TensorBoard", partial(tensorboard_tracker.follow, run_dir)
    if tracking.mlflow is not None:
        from megabatch.trainer.trackers import mlflow_tracker

        yield "MLflow", partial(mlflow_tracker.follow, tracking.mlflow, job, run_dir)
    for name in tracking.own:
        yield name, partial(own_tracker(name), job, run_dir)
