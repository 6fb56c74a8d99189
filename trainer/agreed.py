"""The checkpoints that rank 0 has found, on all ranks: another host may see them later, or see others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from megabatch.trainer import checkpoint
from megabatch.trainer.build import Parts

_SECONDS_TO_BE_SEEN = 60.0  # for so long NFS may show a folder as it was
_POLL_SECONDS = 0.1


def agreed(parts: Parts, found: Path | None) -> Path | None:
    """Return what rank 0 has found, once this rank sees it too. Every rank must call this together."""
    mine = checkpoint.step_of(found) + 1 if found is not None and parts.world.is_main else 0
    told = torch.tensor(mine, device=parts.world.device)
    parts.step_parts.engine.sum_over_ranks(told)
    if not told.item():
        return None
    folder = parts.run_dir.checkpoint(int(told.item()) - 1)
    wait_until_seen(folder)
    return folder


def wait_until_seen(folder: Path) -> None:
    """Wait until this host sees a checkpoint that rank 0 has; after a minute whoever reads it says what is missing."""
    deadline = time.monotonic() + _SECONDS_TO_BE_SEEN
    while not _is_seen(folder) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _is_seen(folder: Path) -> bool:
    """Return whether every file of a checkpoint is there in its full length."""
    try:
        manifest = json.loads((folder / checkpoint.MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == described["bytes"] for name, described in manifest.items())
    except (OSError, ValueError):
        return False
