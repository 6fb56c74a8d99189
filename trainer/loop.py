"""The training loop: step, evaluate, checkpoint, until the last sample or a wish to stop. Knows no engine by name."""

from __future__ import annotations

from typing import Literal

from safetensors import SafetensorError

from megabatch.configs.schedules import Plateau
from megabatch.configs.targets import higher_is_better
from megabatch.trainer import checkpoint
from megabatch.trainer.build import Parts
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.noise_scale import advice
from megabatch.trainer.optim.layerwise import keep_trust_ratios, trust_ratios
from megabatch.trainer.optim.state import load_optimizer, optimizer_numbers, optimizer_tensors
from megabatch.trainer.patience import lower_rate, should_stop
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport, take_step

Outcome = Literal["finished", "stopped"]


def train(parts: Parts) -> Outcome:
    """Train from where `parts.state` stands. Ends "stopped", with a checkpoint, if a rank was asked to stop."""
    state, steps = parts.state, parts.steps
    _evaluate_if_due(parts)  # a run stopped at the end of an epoch has its evaluation still before it
    micro_batches = parts.micro_batches_from(state.step)
    log_every = parts.job.recipe.tracking.every_steps
    log_ratios_every = parts.job.recipe.tracking.trust_ratios_every_steps
    if log_ratios_every is not None:
        keep_trust_ratios(parts.step_parts.optimizer)
    while state.step < steps.total and not state.stopped_early:
        report = take_step(parts.step_parts, micro_batches, parts.learning_rate(), state)
        if report.passed_over is not None:
            _tell_passed_over(parts, report)
        state.step += 1
        state.samples_seen = steps.samples_seen(state.step)
        seldom = report.passed_over is not None or report.skipped_samples > 0
        if seldom or state.step % log_every == 0 or state.step == steps.total:
            parts.trackers.step(report, state)
        if log_ratios_every is not None and state.step % log_ratios_every == 0:
            parts.trackers.trust_ratios(trust_ratios(parts.step_parts.optimizer), state)
        if report.stop_requested and state.step < steps.total:
            save(parts)
            return "stopped"
        if parts.job.recipe.tracking.noise_scale and steps.finished_epochs(state.step) is not None:
            _tell_noise_scale(parts)
        improved = _evaluate_if_due(parts)
        if improved or state.stopped_early or _checkpoint_due(parts):
            save(parts)
    return "finished"


def _tell_noise_scale(parts: Parts) -> None:
    scale, batch = parts.state.noise.noise_scale, parts.steps.batch_of(parts.state.step - 1)
    known = (
        advice(scale, batch) if scale is not None else "gradient noise scale: not known yet, noise hides the gradient"
    )
    parts.trackers.message(known)


def _tell_passed_over(parts: Parts, report: StepReport) -> None:
    """Say which samples had no part in training; end the run if there were too many such steps."""
    span, most = parts.steps.at(report.step), parts.job.recipe.stability.max_passed_over
    seen = parts.state.guard.passed_over
    parts.trackers.message(
        f"step {report.step + 1} passed over, {seen} of at most {most}: {report.passed_over}. Its samples, positions "
        f"{span.start} to {span.stop - 1} of epoch {span.epoch + 1}, had no part in an update"
    )
    if seen > most:
        raise TrainingError(
            f"{seen} steps were passed over, stability.max_passed_over allows {most}; the last: {report.passed_over}. "
            "The learning rate may be too high or the warmup too short (optimizer.base_learning_rate, schedule.warmup)"
        )


def _evaluate_if_due(parts: Parts) -> bool:
    """Evaluate the validation split at the end of every n-th epoch and of training; return whether it is the best."""
    state, evaluation, metric = parts.state, parts.job.recipe.evaluation, parts.job.recipe.metric
    split = parts.job.recipe.data.validation_split
    epoch = parts.steps.finished_epochs(state.step)
    due = epoch is not None and (epoch % evaluation.every_epochs == 0 or state.step == parts.steps.total)
    if split is None or not due or state.step in (0, state.evaluated_step):
        return False
    result = parts.evaluate_split(split)
    state.evaluated_step = state.step
    better = result.better_than(state.best_value, metric)
    if better:
        state.best_step, state.best_value = state.step, result.value(metric)
    parts.trackers.evaluation(result, state)
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


def _checkpoint_due(parts: Parts) -> bool:
    state, settings = parts.state, parts.job.recipe.checkpoint
    epoch = parts.steps.finished_epochs(state.step)
    by_epoch = epoch is not None and epoch % settings.every_epochs == 0
    by_step = settings.every_steps is not None and state.step % settings.every_steps == 0
    return by_epoch or by_step or state.step == parts.steps.total


def save(parts: Parts) -> None:
    """Write a checkpoint on rank 0, then delete those that the recipe does not keep."""
    if not parts.world.is_main:
        return
    work = parts.step_parts
    scaler = work.precision.scaler
    if work.average is not None:
        parts.state.average_updates = work.average.updates
    state = {
        "fingerprint": parts.job.fingerprint(),
        "training": parts.state.to_json(),
        "scaler": scaler.state_dict() if scaler else None,
        "num_ranks": parts.world.num_ranks,
        "optimizer": optimizer_numbers(work.optimizer),
    }
    averaged = work.average.tensors() if work.average is not None else {}
    snapshot = Snapshot(dict(work.engine.network.state_dict()), optimizer_tensors(work.optimizer), state, averaged)
    try:
        checkpoint.save(parts.run_dir, parts.state.step, snapshot)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{parts.run_dir.checkpoints}: the checkpoint of step {parts.state.step} could not be written: {error}. "
            "Earlier checkpoints are as they were: make room, then go on with --resume"
        ) from error
    checkpoint.prune(parts.run_dir, parts.job.recipe.checkpoint.keep_last, parts.state.best_step)


def restore(parts: Parts) -> None:
    """Go on from the newest undamaged checkpoint of the run folder, if there is one."""
    folder, messages = checkpoint.newest(parts.run_dir)
    for message in messages:
        parts.trackers.message(f"warning: {message}")
    if folder is None:
        return
    snapshot = checkpoint.load(folder)
    if snapshot.state["fingerprint"] != parts.job.fingerprint():
        raise TrainingError(
            f"{folder} was written by another recipe or with other data than {parts.run_dir.job} names now. "
            "Going on would mix two trainings: start a new run folder, or put the old job.yaml back"
        )
    work = parts.step_parts
    work.engine.network.load_state_dict(snapshot.network)
    load_optimizer(work.optimizer, snapshot.optimizer, snapshot.state["optimizer"])
    if work.precision.scaler is not None:
        work.precision.scaler.load_state_dict(snapshot.state["scaler"])
    parts.state = TrainState.from_json(snapshot.state["training"])
    parts.state.attempt += 1
    if work.average is not None:
        work.average.load(snapshot.averaged, parts.state.average_updates)
    parts.trackers.message(
        f"going on from {folder}: step {parts.state.step} of {parts.steps.total}, "
        f"{parts.state.samples_seen:,} samples seen, written by {snapshot.state['num_ranks']} ranks"
    )
