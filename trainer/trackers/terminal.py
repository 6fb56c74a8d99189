"""What a person sees while a run goes on: a bar on a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from megabatch.configs.durations import duration
from megabatch.configs.targets import METRICS
from megabatch.data.steps import Steps
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.step_line import StepLine, is_watched

_SMOOTHING = 0.9  # of samples per second (for the time that is left) and of the wait for data
_REFRESH_PER_SECOND = 4
_WORTH_TELLING = 0.05  # a smaller share of waiting is noise


class TerminalTracker:
    """Prints to standard output of rank 0."""

    def __init__(self, steps: Steps, print_every_seconds: float, validation_split: str | None):
        self._steps = steps
        self._validation_split = validation_split
        self._console = Console(highlight=False)
        self._every_seconds = print_every_seconds
        self._printed_at = -math.inf
        self._samples_per_second = 0.0
        self._data_wait = 0.0
        self._live: Live | None = None
        if is_watched(self._console):
            self._live = Live(console=self._console, refresh_per_second=_REFRESH_PER_SECOND, transient=True)
            self._live.start()

    def step(self, report: StepReport, state: TrainState) -> None:
        """Show the step, or keep it to itself if the last line is too fresh."""
        speed = report.samples / report.seconds
        known = self._samples_per_second
        self._samples_per_second = _SMOOTHING * known + (1 - _SMOOTHING) * speed if known else speed
        self._data_wait = _SMOOTHING * self._data_wait + (1 - _SMOOTHING) * report.data_wait_share
        if self._live is not None:
            self._live.update(self._bar(report, state))
        elif time.monotonic() - self._printed_at > self._every_seconds or state.step == self._steps.total:
            self._printed_at = time.monotonic()
            self._console.print(self._line(report, state), soft_wrap=True)

    def trust_ratios(self, ratios: dict[str, float], state: TrainState) -> None:
        """Leave them to metrics.jsonl: a line for each parameter would fill the screen."""

    def checkpoint(self, values: dict[str, Any]) -> None:
        """Leave it to metrics.jsonl."""

    def evaluation(self, result: EvaluationResult, state: TrainState) -> None:
        """Print one line for each evaluation; it stays on the screen."""
        is_best = result.split == self._validation_split and state.best_step == state.step
        best = "  best so far" if is_best else ""
        numbers = "  ".join(
            f"{METRICS[name].title} {METRICS[name].shown(value):>7}" for name, value in result.metrics.items()
        )
        self._console.print(
            f"  {result.split:<10} epoch {state.samples_seen / self._steps.samples_per_epoch:<5.4g} "
            f"{numbers}  loss {result.loss:.4f}[green]{best}[/]",
            soft_wrap=True,
        )

    def message(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def _left(self, state: TrainState) -> float:
        """Return the seconds that the steps to come will take."""
        left = self._steps.samples_seen(self._steps.total) - state.samples_seen
        return left / max(self._samples_per_second, 1e-9)

    def _bar(self, report: StepReport, state: TrainState) -> StepLine:
        waits = [f"data {self._data_wait:.0%}"] if self._data_wait >= _WORTH_TELLING else []
        return StepLine(
            done=state.samples_seen / self._steps.samples_seen(self._steps.total),
            before=f"epoch {report.epoch + 1}/{self._steps.epochs}",
            behind=f"{duration(self._left(state))} left",
            by_worth=(
                f"loss {report.loss:.4f}",
                *waits,
                f"{self._samples_per_second:,.0f} samples/s",
                f"step {state.step}/{self._steps.total}",
                f"lr {report.learning_rate:.3g}",
            ),
        )

    def _line(self, report: StepReport, state: TrainState) -> Text:
        parts = [
            f"epoch {report.epoch + 1}/{self._steps.epochs}",
            f"step {state.step}/{self._steps.total}",
            f"loss {report.loss:.4f}",
            f"lr {report.learning_rate:.3g}",
            f"{self._samples_per_second:,.0f} samples/s",
            f"{duration(self._left(state))} left",
            *([f"{self._data_wait:.0%} of the time waits for data"] if self._data_wait >= _WORTH_TELLING else []),
        ]
        return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")
