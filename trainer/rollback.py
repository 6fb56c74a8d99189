"""Going back to a checkpoint after a bad step, and training again without the steps that end with it.

Every step between the checkpoint and the first one left out is trained again exactly as before (same samples, same
randomness), so the result does not depend on which checkpoint it was. A kill in the middle needs no care either: a run
that goes on from an older checkpoint meets the same bad step again, and decides the same.

PaLM was trained in this way (Chowdhery et al. 2022, section 5.1): back by about 100 steps, 200 to 500 left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.agreed import agreed
from megabatch.trainer.build import Parts
from megabatch.trainer.checkpoint import DamageOf, Snapshot
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.state import TrainState


def steps_to_leave_out(left_out: Collection[int], bad_step: int, count: int) -> list[int]:
    """Return the last `count` steps up to the bad one that were not left out before, in rising order.

    >>> steps_to_leave_out([], 7, 2), steps_to_leave_out([6, 7], 8, 2), steps_to_leave_out([], 0, 2)
    ([6, 7], [5, 8], [0])
    """
    found: list[int] = []
    step = bad_step
    while step >= 0 and len(found) < count:
        if step not in left_out:
            found.append(step)
        step -= 1
    return found[::-1]


def take_back(parts: Parts, bad_step: int) -> tuple[Snapshot, list[int]]:
    """Return the newest checkpoint from before the steps that end with the bad one, and these steps.

    Later checkpoints have updates of those steps in them: they are deleted. Every rank must call this together.
    """
    left_out = _next_left_out(parts, bad_step)
    parts.saver.wait()
    folder, _ = agreed_checkpoint(parts, left_out[0])
    if folder is None:
        raise TrainingError(
            f"step {bad_step + 1} was bad, and {parts.run_dir.checkpoints} has no undamaged checkpoint to go back to, "
            f"from before step {left_out[0] + 1}: start a new run"
        )
    like = dict(parts.step_parts.engine.network.state_dict())
    snapshot = checkpoint.load(folder, parts.saver.damage_of, like)
    step = checkpoint.step_of(folder)
    if parts.world.is_main:
        checkpoint.delete_after(parts.run_dir, step)
    parts.trackers.message(
        f"going back to the checkpoint of step {step} and on without step {_shown(left_out)}; all others are trained "
        "as they were"
    )
    return snapshot, left_out


def agreed_checkpoint(parts: Parts, at_most: int | None = None) -> tuple[Path | None, list[str]]:
    """Return what `checkpoint.newest` finds on rank 0, on all ranks together; the messages are rank 0's."""
    folder: Path | None = None
    messages: list[str] = []
    if parts.world.is_main:
        folder, messages = checkpoint.newest(parts.run_dir, at_most, parts.saver.damage_of)
    return agreed(parts, folder), messages


def carry_over(state: TrainState, before: TrainState, left_out: list[int]) -> None:
    """Tell the state of a checkpoint what came after it: how many bad steps there were, and the steps to leave out."""
    state.attempt = before.attempt
    state.guard.bad_steps = before.guard.bad_steps
    state.guard.left_out = sorted({*before.guard.left_out, *left_out})


def keep_rule(parts: Parts) -> Callable[[], set[int]]:
    """Return what tells, once the checkpoint of this moment is there, which ones to keep beside the last ones.

    They are the best one, those kept for good, and after any later step those to go back to, or to find to be the best
    one there.
    """
    best = set() if parts.state.best_step is None else {parts.state.best_step}
    if not parts.job.recipe.stability.rolls_back:
        return lambda: best | _kept_for_good(parts)
    earliest = _next_left_out(parts, parts.state.step) or [0]  # none if all before are left out already
    damage_of = parts.saver.damage_of
    return lambda: best | _kept_for_good(parts) | _steps_since(parts.run_dir, earliest[0], damage_of)


def _kept_for_good(parts: Parts) -> set[int]:
    recipe, steps = parts.job.recipe, parts.steps
    epochs = {step: steps.progress(step)[1] for step in checkpoint.steps_saved(parts.run_dir)}
    return {step for step, epoch in epochs.items() if epoch and recipe.kept_for_good(epoch)}


def _steps_since(run_dir: RunDir, step: int, damage_of: DamageOf) -> set[int]:
    """Return the newest checkpoint of `step` or before, all later ones, and the best one as it was at the first."""
    oldest, _ = checkpoint.newest(run_dir, step, damage_of)
    if oldest is None:
        return set()
    best = checkpoint.read_state(oldest)["training"]["best_step"]
    since = {saved for saved in checkpoint.steps_saved(run_dir) if saved >= checkpoint.step_of(oldest)}
    return since if best is None else since | {best}


def _next_left_out(parts: Parts, bad_step: int) -> list[int]:
    return steps_to_leave_out(parts.state.guard.left_out, bad_step, parts.job.recipe.stability.roll_back_steps)


def _shown(steps: list[int]) -> str:
    """Return the numbers of steps as people count them, from 1; of many the first and the last."""
    numbers = [str(step + 1) for step in steps]
    return ", ".join(numbers if len(numbers) <= 6 else [*numbers[:3], "...", numbers[-1]])
