"""The training loop: step, evaluate, checkpoint, until the last sample or a wish to stop. Knows no engine by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from megabatch.configs.metrics import last_attempt
from megabatch.configs.schedules import Plateau
from megabatch.configs.targets import higher_is_better
from megabatch.trainer import checkpoint
from megabatch.trainer.build import Parts
from megabatch.trainer.causes import is_out_of_memory
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.details.write import Details
from megabatch.trainer.evaluate import EvaluationResult, EvaluationStoppedError
from megabatch.trainer.going_on import misfit, other_code, require_none_written, require_same_training
from megabatch.trainer.noise_scale import advice
from megabatch.trainer.norms.modes import other_ranks
from megabatch.trainer.norms.precise import refresh_statistics
from megabatch.trainer.optim.layerwise import keep_trust_ratios, trust_ratios
from megabatch.trainer.patience import lower_rate, should_stop
from megabatch.trainer.provenance import other_versions, provenance
from megabatch.trainer.replicas import require_equal
from megabatch.trainer.rollback import agreed_checkpoint, carry_over, keep_rule, take_back
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import take_step
from megabatch.trainer.watch.peers import is_of_peer

Outcome = Literal["finished", "stopped"]


def train(parts: Parts) -> Outcome:
    """Train from where `parts.state` stands. Ends "stopped", with a checkpoint, if a rank was asked to stop."""
    try:
        outcome = _train(parts)
    except EvaluationStoppedError:
        save(parts)  # the evaluation is still before the run when it goes on
        outcome = "stopped"
    parts.saver.finish()
    return outcome


def _train(parts: Parts) -> Outcome:
    state, steps = parts.state, parts.steps
    if parts.job.recipe.stability.rolls_back and state.step == 0:
        save(parts)  # something to go back to
    _evaluate_if_due(parts)  # a run stopped at the end of an epoch has its evaluation still before it
    micro_batches = parts.micro_batches_from(state.step)
    log_every = parts.job.recipe.tracking.every_steps
    save_every = parts.job.recipe.checkpoint.every_steps
    compare_every = parts.job.recipe.stability.compare_replicas_every_steps
    log_ratios_every = parts.job.recipe.tracking.trust_ratios_every_steps
    if log_ratios_every is not None:
        keep_trust_ratios(parts.step_parts.optimizer)
    while state.step < steps.total and not state.stopped_early:
        report = take_step(parts.step_parts, micro_batches, parts.learning_rate(), state)
        bad = report.passed_over is not None and report.step not in state.guard.left_out
        state.step += 1
        state.samples_seen, finished_epochs = steps.progress(state.step)
        seldom = report.passed_over is not None or report.skipped_samples > 0
        if seldom or state.step % log_every == 0 or state.step == steps.total:
            parts.trackers.step(report, state)
            parts.saver.tell()
        if log_ratios_every is not None and state.step % log_ratios_every == 0:
            parts.trackers.trust_ratios(trust_ratios(parts.step_parts.optimizer), state)
        if compare_every is not None and state.step % compare_every == 0:
            compare_replicas(parts)
        if bad:
            parts.bad_steps.tell(report, state, parts.trackers)
            if parts.job.recipe.stability.rolls_back:
                go_back(parts, report.step)
                state, micro_batches = parts.state, parts.micro_batches_from(parts.state.step)
                continue
        if report.stop_requested and state.step < steps.total:
            save(parts)
            return "stopped"
        if finished_epochs is not None:
            _end_epoch(parts, finished_epochs, report.save_due)
        elif report.save_due or (save_every is not None and state.step % save_every == 0):
            save(parts)
    return "finished"


def _end_epoch(parts: Parts, epoch: int, save_due: bool) -> None:
    """Evaluate and save what is due after `epoch` whole epochs."""
    state, recipe = parts.state, parts.job.recipe
    settings = recipe.checkpoint
    if recipe.tracking.noise_scale:
        _tell_noise_scale(parts)
    if parts.step_parts.masks is not None:
        parts.trackers.message(parts.step_parts.masks.describe())
    improved = _evaluate_if_due(parts)
    by_step = settings.every_steps is not None and state.step % settings.every_steps == 0
    by_epoch = settings.due_after(epoch) or recipe.kept_for_good(epoch)
    due = save_due or by_step or by_epoch or state.step == parts.steps.total
    if improved or state.stopped_early or due:
        save(parts)


def _tell_noise_scale(parts: Parts) -> None:
    scale, batch = parts.state.noise.noise_scale, parts.steps.batch_of(parts.state.step - 1)
    known = (
        advice(scale, batch) if scale is not None else "gradient noise scale: not known yet, noise hides the gradient"
    )
    parts.trackers.message(known)


def _evaluate_if_due(parts: Parts) -> bool:
    """Evaluate the validation split at the end of every n-th epoch and of training; return whether it is the best."""
    state, evaluation, metric = parts.state, parts.job.recipe.evaluation, parts.job.recipe.metric
    split = parts.job.recipe.data.validation_split
    _, epoch = parts.steps.progress(state.step)
    due = epoch is not None and (epoch % evaluation.every_epochs == 0 or state.step == parts.steps.total)
    if not due or state.step in (0, state.evaluated_step):
        return False
    if split is not None or state.step == parts.steps.total:
        refresh_statistics(parts)
    if split is None:
        return False
    details = Details(parts)
    result = parts.evaluate_split(split, also=details.begin)
    state.evaluated_step = state.step
    masks = parts.step_parts.masks
    complete = masks is None or masks.complete(state.step)  # what is to get sparser yet is no result
    better = complete and result.better_than(state.best_value, metric)
    if better:
        state.best_step, state.best_value = state.step, result.value(metric)
        details.write(result, "best", state.step)
    parts.trackers.evaluation(result, state)
    if complete:
        _watch(parts, result)
    return better


def _watch(parts: Parts, result: EvaluationResult) -> None:
    """Lower the learning rate on a plateau, and end the run early, where the recipe asks for it."""
    state, recipe = parts.state, parts.job.recipe
    value = result.value(recipe.metric)
    higher = higher_is_better(recipe.metric)
    if isinstance(recipe.schedule, Plateau):
        before = state.plateau.rate_factor
        lower_rate(state.plateau, recipe.schedule, value, higher)
        if state.plateau.rate_factor < before:
            parts.trackers.message(f"no progress: learning rate x {state.plateau.rate_factor:g} from here on")
    stopping = recipe.evaluation.early_stopping
    if stopping is not None and should_stop(state.early_stopping, stopping, value, higher):
        state.stopped_early = True
        parts.trackers.message(
            f"stopped early after step {state.step}: {recipe.metric} was no better in "
            f"{stopping.patience} evaluations; the best is that of step {state.best_step}"
        )


def save(parts: Parts) -> None:
    """Write a checkpoint in the background, then delete those that the recipe does not keep; on all ranks together."""
    work = parts.step_parts
    if parts.job.recipe.stability.compare_replicas_every_steps is not None:
        compare_replicas(parts)
    network = work.engine.network_tensors()
    tensors, numbers = work.engine.optimizer_state(work.optimizer)
    if not parts.saver.takes_part:
        return
    scaler = work.precision.scaler
    if work.average is not None:
        parts.state.average_updates = work.average.updates
    state = {
        "fingerprint": parts.job.fingerprint(),
        "training": parts.state.to_json(),
        "scaler": scaler.state_dict() if scaler else None,
        "num_ranks": parts.world.num_ranks,
        "engine": parts.job.recipe.engine.name,
        "optimizer": numbers,
        **provenance(parts.job, parts.run_dir),
    }
    averaged = work.average.tensors() if work.average is not None else {}
    masks = work.masks.tensors() if work.masks is not None else {}
    snapshot = Snapshot(network, tensors, state, averaged, masks)
    parts.saver.save(parts.state, snapshot, keep_rule(parts))


def compare_replicas(parts: Parts) -> None:
    """Raise TrainingError, on all ranks, if their copies of the parameters differ."""
    engine = parts.step_parts.engine
    require_equal(engine.network, parts.world, engine.sum_over_ranks, parts.state.step)


def is_there(parts: Parts, step: int) -> bool:
    """Return whether rank 0 has written the checkpoint of a step. Every rank must ask together: they wait for it."""
    there = parts.world.is_main and parts.saver.damage_of(parts.run_dir.checkpoint(step)) is None
    told = torch.tensor(float(there), device=parts.world.device)
    parts.step_parts.engine.sum_over_ranks(told)
    return bool(told.item())


def restore(parts: Parts) -> Path | None:
    """Go on from the newest undamaged checkpoint of the run folder, and return it; None if there is none."""
    folder, messages = agreed_checkpoint(parts)
    for message in messages:
        parts.trackers.message(f"warning: {message}")
    attempt = _next_attempt(parts)
    if folder is None:
        require_none_written(parts)
        parts.state.attempt = attempt
        return None
    snapshot = checkpoint.load(folder, parts.saver.damage_of, dict(parts.step_parts.engine.network.state_dict()))
    require_same_training(folder, snapshot.state, parts.job, parts.run_dir)
    if changed := other_versions(snapshot.state.get("versions", {})):
        parts.trackers.message(f"warning: {folder} was {changed}")
    if changed := other_code(snapshot.state, parts.job):
        parts.trackers.message(f"warning: {changed}")
    try:
        put_back(parts, snapshot)
    except (KeyError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error) or is_of_peer(error):
            raise
        raise misfit(folder, snapshot, parts.job, error) from error
    parts.state.attempt = attempt
    parts.trackers.message(
        f"going on from {folder}: step {parts.state.step} of {parts.steps.total}, {parts.state.samples_seen:,} samples "
        f"seen, written by {snapshot.state['num_ranks']} ranks with {snapshot.state['engine']}"
    )
    ranks_before, ranks = snapshot.state["num_ranks"], parts.world.num_ranks
    if told := other_ranks(parts.job.recipe.model.batch_norm, ranks_before, ranks):
        parts.trackers.message(told)
    return folder


def _next_attempt(parts: Parts) -> int:
    """Return the number of this attempt, the same on all ranks: also one that ended before it saved was one."""
    files = (parts.run_dir.metrics, parts.run_dir.starts)
    attempt = max(map(last_attempt, files)) + 1 if parts.world.is_main else 0
    told = torch.tensor(attempt, device=parts.world.device)
    parts.step_parts.engine.sum_over_ranks(told)
    return int(told.item())


def go_back(parts: Parts, bad_step: int) -> None:
    """Go back to a checkpoint from before a bad step, to go on without it; on all ranks together."""
    before = parts.state
    snapshot, left_out = take_back(parts, bad_step)
    put_back(parts, snapshot)
    carry_over(parts.state, before, left_out)


def put_back(parts: Parts, snapshot: Snapshot) -> None:
    """Make everything that trains what it was when the snapshot was taken."""
    work = parts.step_parts
    work.engine.load_network(snapshot.network)
    work.engine.load_optimizer(work.optimizer, snapshot.optimizer, snapshot.state["optimizer"])
    if work.precision.scaler is not None:
        work.precision.scaler.load_state_dict(snapshot.state["scaler"])
    parts.state = TrainState.from_json(snapshot.state["training"])
    if work.average is not None:
        work.average.load(snapshot.averaged, parts.state.average_updates)
    if work.masks is not None:
        work.masks.load(snapshot.masks)
