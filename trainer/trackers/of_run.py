"""Which trackers a run has."""

from __future__ import annotations

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.data.steps import Steps
from megabatch.trainer.trackers.base import Tracker, Trackers
from megabatch.trainer.trackers.jsonl import JsonlTracker
from megabatch.trainer.world import World


def trackers_of(job: Job, world: World, run_dir: RunDir, steps: Steps) -> Trackers:
    """Return them: metrics.jsonl, the terminal, Weights & Biases if the recipe wants it; none but on rank 0."""
    if not world.is_main:
        return Trackers(())
    from megabatch.trainer.trackers.terminal import TerminalTracker

    tracking = job.recipe.tracking
    terminal = TerminalTracker(steps, tracking.print_every_seconds, job.recipe.data.validation_split)
    members: list[Tracker] = [JsonlTracker(run_dir.metrics), terminal]
    if tracking.wandb is not None:
        from megabatch.trainer.trackers.wandb_tracker import WandbTracker

        members.append(WandbTracker(tracking.wandb, job, run_dir, terminal.message))
    return Trackers(tuple(members))
