"""Weights & Biases, as a mirror of metrics.jsonl. It lives in a thread of its own behind a bounded queue.

Nothing it does can block or end the training: a slow server fills the queue and lines are dropped (and counted), an
exception ends the thread with one message, and at the end it gets half a minute to finish.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import uuid
from collections.abc import Callable
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.tracking import Wandb
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.provenance import shown_recipe
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.base import evaluation_values, step_values

Mode = Literal["online", "offline", "disabled"]
_QUEUE_LINES = 10_000
_INIT_SECONDS = 30
_FINISH_SECONDS = 30.0  # importing and starting wandb alone takes 10 s on a busy machine
_CONNECT_SECONDS = 3.0
_HOST = "api.wandb.ai"


class WandbTracker:
    """Sends every step and evaluation; `samples_seen` is the x-axis."""

    def __init__(self, settings: Wandb, job: Job, run_dir: RunDir, warn: Callable[[str], None]):
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(_QUEUE_LINES)
        self._dropped = 0
        self._warn = warn
        mode = settings.mode if settings.mode != "auto" else _mode()
        self._thread = threading.Thread(target=self._run, args=(settings, job, run_dir, mode), daemon=True)
        self._thread.start()

    def step(self, report: StepReport, state: TrainState) -> None:
        """Queue the numbers of a step."""
        values = step_values(report, state)
        self._put({f"train/{name}" if name not in _AXES else name: value for name, value in values.items()})

    def evaluation(self, result: EvaluationResult, state: TrainState) -> None:
        """Queue the numbers of an evaluation."""
        values = evaluation_values(result, state)
        split = values.pop("split")
        self._put({f"{split}/{name}" if name not in _AXES else name: value for name, value in values.items()})

    def trust_ratios(self, ratios: dict[str, float], state: TrainState) -> None:
        """Send them as trust_ratio/PARAMETER."""
        self._put({"samples_seen": state.samples_seen, **{f"trust_ratio/{name}": r for name, r in ratios.items()}})

    def checkpoint(self, values: dict[str, Any]) -> None:
        """Leave it to metrics.jsonl."""

    def message(self, text: str) -> None:
        """Leave messages to the terminal and metrics.jsonl."""

    def close(self) -> None:
        """Wait a while for what is queued, then let go."""
        try:
            self._lines.put(None, timeout=1.0)
        except queue.Full:
            self._dropped += 1
        self._thread.join(_FINISH_SECONDS)
        if self._thread.is_alive():
            self._warn(f"Weights & Biases did not finish within {_FINISH_SECONDS:.0f} s; metrics.jsonl has everything")
        elif self._dropped:
            self._warn(f"Weights & Biases was too slow: {self._dropped} lines not sent; metrics.jsonl has them")

    def _put(self, values: dict[str, Any]) -> None:
        if not self._thread.is_alive():
            return
        try:
            self._lines.put_nowait(values)
        except queue.Full:
            self._dropped += 1

    def _run(self, settings: Wandb, job: Job, run_dir: RunDir, mode: Mode) -> None:
        try:
            import wandb

            if mode == "online" and not _reachable(_server()):
                self._warn(f"{_server()} cannot be reached: writing offline; `wandb sync` sends it later")
                mode = "offline"
            with wandb.init(
                project=settings.project, entity=settings.entity, group=settings.group, name=run_dir.root.name,
                id=_run_id(run_dir.wandb_id), resume="allow", dir=str(run_dir.root), mode=mode,
                config={**shown_recipe(job), "cluster": _shown_cluster(job)},
                settings=wandb.Settings(init_timeout=_INIT_SECONDS, silent=True, console="off"),
            ) as run:  # fmt: skip
                run.define_metric("*", step_metric="samples_seen")
                while (values := self._lines.get()) is not None:
                    run.log(values)
            wandb.teardown()  # its service writes the last records after the run has finished: wait until it has ended
        except Exception as error:  # whatever happens there, the training goes on
            cause = f"{type(error).__name__} {error}"
            self._warn(f"Weights & Biases stopped: {cause}. Training goes on; metrics.jsonl has everything")


def _shown_cluster(job: Job) -> dict[str, Any]:
    """Return the cluster without its environment, which may hold secrets."""
    return job.cluster.model_dump(mode="json", exclude={"environment"})


_AXES = ("step", "epoch", "samples_seen")


def _mode() -> Mode:
    """Return `online` where a key is set, `offline` otherwise: a question at a terminal would block the job."""
    chosen: dict[str, Mode] = {"online": "online", "offline": "offline", "disabled": "disabled"}
    if (wished := os.environ.get("WANDB_MODE")) in chosen:
        return chosen[wished]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        return "online" if netrc().authenticators(_HOST) else "offline"
    except (OSError, NetrcParseError):
        return "offline"


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", f"https://{_HOST}")


def _reachable(url: str) -> bool:
    """Return whether something accepts connections there: wandb itself would wait and retry for minutes."""
    parts = urlsplit(url)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _run_id(file: Path) -> str:
    """Return the run's id, made once: a restarted job goes on in the same run."""
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
