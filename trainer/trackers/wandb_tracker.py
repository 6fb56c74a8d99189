"""Weights & Biases, as a mirror of metrics.jsonl (mirror.py has the thread that it lives in while a run goes on)."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.tracking import Wandb
from megabatch.trainer.provenance import shown_recipe
from megabatch.trainer.trackers.lines import Line, metrics_of, rows_of
from megabatch.trainer.trackers.summary import summary

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "disabled"]
_INIT_SECONDS = 30
_CONNECT_SECONDS = 3.0
_HOST = "api.wandb.ai"


def follow(settings: Wandb, job: Job, run_dir: RunDir, warn: Callable[[str], None], lines: Iterator[Line]) -> None:
    """Send every step and evaluation to one run; `samples_seen` is the x-axis."""
    import wandb

    mode = chosen_mode(settings)
    if mode == "online" and not reachable(server()):
        warn(f"{server()} cannot be reached: writing offline; `megabatch sync {run_dir.root}` sends it later")
        mode = "offline"
    with begin(settings, job, run_dir, mode, run_id(run_dir), run_dir.root) as run:
        # The server says what it has; offline nobody does, and `megabatch sync` makes a whole of the parts.
        rows = rows_of(lines, run_dir.metrics, whole=mode == "online")
        for row in islice(rows, run.starting_step if run.resumed else 0, None):
            log(run, row)
        run.summary.update(summary(job, run_dir))
        run.finish(exit_code=0 if run_dir.result.exists() else 1)
    wandb.teardown()  # its service writes the last records after the run has finished: wait until it has ended


def begin(
    settings: Wandb, job: Job, run_dir: RunDir, mode: Mode, identity: str, folder: Path, measures: bool = True
) -> wandb.Run:
    """Return a run at Weights & Biases, new or gone on with; with `measures` it measures this machine as well."""
    import wandb

    run = wandb.init(
        project=settings.project, entity=settings.entity, group=settings.group, job_type=settings.job_type,
        tags=settings.tags, name=settings.name or run_dir.root.name, id=identity, resume="allow", dir=str(folder),
        mode=mode, config={**shown_recipe(job), "cluster": _shown_cluster(job)},
        settings=wandb.Settings(
            init_timeout=_INIT_SECONDS, silent=True, console="off", x_disable_stats=not measures
        ),
    )  # fmt: skip
    run.define_metric("*", step_metric="samples_seen")
    return run


def log(run: wandb.Run, line: Line) -> None:
    """Send the numbers of a line, as of the time when it was written."""
    if values := metrics_of(line):
        run.log({**values, "_timestamp": line["time"]})


def run_id(run_dir: RunDir) -> str:
    """Return the run's id, made once: a restarted job goes on in the same run. That of a sweep's agent comes first."""
    given = os.environ.get("WANDB_RUN_ID")
    if given or not run_dir.wandb_id.exists():
        run_dir.wandb_id.write_text(given or new_id(), encoding="utf-8")
    return run_dir.wandb_id.read_text(encoding="utf-8").strip()


def new_id() -> str:
    """Return an id that no run has."""
    return uuid.uuid4().hex[:8]


def _shown_cluster(job: Job) -> dict[str, Any]:
    """Return the cluster without its environment, which may hold secrets."""
    return job.cluster.model_dump(mode="json", exclude={"environment"})


def chosen_mode(settings: Wandb) -> Mode:
    """Return `online` where a key is set, `offline` otherwise: a question at a terminal would block the job."""
    if settings.mode != "auto":
        return settings.mode
    chosen: dict[str, Mode] = {"online": "online", "offline": "offline", "disabled": "disabled"}
    if (wished := os.environ.get("WANDB_MODE")) in chosen:
        return chosen[wished]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        return "online" if netrc().authenticators(_HOST) else "offline"
    except (OSError, NetrcParseError):
        return "offline"


def server() -> str:
    """Return the address of the server that is used."""
    return os.environ.get("WANDB_BASE_URL", f"https://{_HOST}")


def reachable(url: str) -> bool:
    """Return whether something accepts connections there: wandb itself would wait and retry for minutes."""
    parts = urlsplit(url)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False
