"""Tells of bad steps: a message, a line in RUN_DIR/bad-steps.jsonl with the samples, and the end after too many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from megabatch.configs.job import Job
from megabatch.configs.stability import Stability
from megabatch.data.arrangement import Arrangement
from megabatch.data.draws import Order
from megabatch.data.errors import DataError
from megabatch.data.steps import MicroBatchSpan, Steps, StepSpan
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.line_file import LineFile
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.base import Trackers, finite
from megabatch.trainer.world import World

Samples = dict[str, list[str]]  # shard -> keys

_SHOWN = 3


@dataclass(frozen=True)
class BadSteps:
    """What is told of them. Only rank 0 writes; all ranks end alike."""

    settings: Stability
    steps: Steps
    samples_of: Callable[[int, int, int], Samples]  # epoch, first position, position after the last
    lines: LineFile
    world: World
    engine: Engine

    def tell(self, report: StepReport, state: TrainState, trackers: Trackers) -> None:
        """Write down a bad step; every rank must call this together. Raises TrainingError if the run may not go on."""
        seen, most = state.guard.bad_steps, self.settings.max_bad_steps
        worst = self._worst_micro_batch(report)
        if self.world.is_main:
            self._write(report, state, worst)
        told = self._told(report, worst)
        if self.settings.on_bad_step == "stop" or seen > most:
            limit = f"{seen} bad steps, stability.max_bad_steps allows {most}; the last: " if seen > most else ""
            raise TrainingError(
                f"{limit}{told}. The run ends before the optimizer update. The learning rate may be too high or the "
                "warmup too short (optimizer.base_learning_rate, schedule.warmup; regularization.clip_norm helps "
                "against single spikes), or something is wrong with these samples"
            )
        trackers.message(f"{told}. No update; bad step {seen} of at most {most}")

    def _worst_micro_batch(self, report: StepReport) -> MicroBatchSpan | None:
        """Return the one with the largest loss, or the first that is not finite; None if only the gradient was bad."""
        span = self.steps.at(report.step)
        losses_M = torch.zeros(span.num_micro_batches, dtype=torch.float64, device=self.world.device)
        own = span.of_rank(self.world.rank, self.world.num_ranks)
        losses = report.micro_batch_losses
        assert len(losses) - len(own) in (0, 1), "at most a filler at the end, of ranks that go together"
        for part, loss in zip(own, losses[: len(own)], strict=True):
            if part.samples:
                losses_M[part.number] = loss.double() / part.samples
        self.engine.sum_over_ranks(losses_M)
        if math.isfinite(report.loss) and finite(report.gradient_norm) is None:
            return None
        return span.of_rank(0, 1)[int(losses_M.where(losses_M.isfinite(), math.inf).argmax())]

    def _told(self, report: StepReport, worst: MicroBatchSpan | None) -> str:
        span = self.steps.at(report.step)
        norm = "" if report.gradient_norm is None else f", gradient norm {report.gradient_norm:.4g}"
        where = f"Its samples are positions {span.start} to {span.stop - 1} of epoch {span.epoch + 1}"
        if worst is not None:
            where += f"; the loss is largest at positions {worst.start} to {worst.stop - 1}"
        shown = _shown(self._samples(report, worst))
        reason = f"step {report.step + 1}: {report.passed_over} (loss {report.loss:.4g}{norm})"
        return f"{reason}. {where}{shown}; all are in {self.lines.path}"

    def _samples(self, report: StepReport, part: StepSpan | MicroBatchSpan | None = None) -> Samples:
        span = self.steps.at(report.step)
        part = part or span
        return self.samples_of(span.epoch, part.start, part.stop)

    def _write(self, report: StepReport, state: TrainState, worst: MicroBatchSpan | None) -> None:
        span = self.steps.at(report.step)
        line = {
            "kind": "bad_step", "attempt": state.attempt, "time": round(time.time(), 3), "step": report.step + 1,
            "reason": report.passed_over, "then": self.settings.on_bad_step, "loss": finite(report.loss),
            "gradient_norm": finite(report.gradient_norm), "epoch": span.epoch, "first_position": span.start,
            "samples": self._samples(report), "worst": self._samples(report, worst) if worst else None,
        }  # fmt: skip
        self.lines.append(line)


def samples_finder(job: Job, arrangement: Arrangement, order: Order) -> Callable[[int, int, int], Samples]:
    """Return what names the samples at positions start to stop of an epoch; those of a stream have no names."""

    def samples_of(epoch: int, start: int, stop: int) -> Samples:
        if job.recipe.data.train_stream is not None:
            return {}
        reader = arrangement.reader(job.recipe.data.train_split)
        found: Samples = {}
        for sample_id in order.draws(epoch, start, stop).sample_ids.tolist():
            try:
                sample = reader.read(sample_id)
            except DataError:  # it had weight 0, and stands in data-errors.jsonl
                continue
            found.setdefault(sample.shard, []).append(sample.key)
        return found

    return samples_of


def _shown(samples: Samples) -> str:
    places = [f"{shard}: {', '.join(keys[:_SHOWN])}{_rest(keys)}" for shard, keys in list(samples.items())[:_SHOWN]]
    return f" ({'; '.join(places)}{_rest([*samples])})" if places else ""


def _rest(items: list[str]) -> str:
    return f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
