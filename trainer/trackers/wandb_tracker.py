"""Weights & Biases, as a mirror of metrics.jsonl (mirror.py has the thread that it lives in)."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.tracking import Wandb
from megabatch.trainer.provenance import shown_recipe
from megabatch.trainer.trackers.lines import Line, metrics_of

Mode = Literal["online", "offline", "disabled"]
_INIT_SECONDS = 30
_CONNECT_SECONDS = 3.0
_HOST = "api.wandb.ai"


def follow(settings: Wandb, job: Job, run_dir: RunDir, warn: Callable[[str], None], lines: Iterator[Line]) -> None:
    """Send every step and evaluation to one run; `samples_seen` is the x-axis."""
    mode = settings.mode if settings.mode != "auto" else _mode()
    import wandb

    if mode == "online" and not _reachable(_server()):
        warn(f"{_server()} cannot be reached: writing offline; `wandb sync` sends it later")
        mode = "offline"
    with wandb.init(
        project=settings.project, entity=settings.entity, group=settings.group, name=run_dir.root.name,
        id=_run_id(run_dir.wandb_id), resume="allow", dir=str(run_dir.root), mode=mode,
        config={**shown_recipe(job), "cluster": _shown_cluster(job)},
        settings=wandb.Settings(init_timeout=_INIT_SECONDS, silent=True, console="off"),
    ) as run:  # fmt: skip
        run.define_metric("*", step_metric="samples_seen")
        for line in lines:
            if values := metrics_of(line):
                run.log(values)
    wandb.teardown()  # its service writes the last records after the run has finished: wait until it has ended


def _shown_cluster(job: Job) -> dict[str, Any]:
    """Return the cluster without its environment, which may hold secrets."""
    return job.cluster.model_dump(mode="json", exclude={"environment"})


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
