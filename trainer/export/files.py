"""Files of networks: where they go, and that they appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.run_dir import RunDir
from megabatch.trainer.export.card import Card


def default_target(run_dir: RunDir, card: Card, kind: str, suffix: str) -> Path:
    """Return RUN_DIR/exports/RUN-step-00001250.onnx; a folder of timm ends in -timm."""
    return run_dir.exports / f"{card.run}-{card.checkpoint}{kind}{suffix or '-timm'}"


def require_new(target: Path, suffix: str) -> None:
    """Raise ConfigError for a name that is taken, or has another ending."""
    if suffix and target.suffix != suffix:
        raise ConfigError([Problem("--output", f"{target}: the name of such a file ends in {suffix}")])
    if target.exists():
        raise ConfigError([Problem(str(target), "exists: choose another --output, or remove it")])


@contextmanager
def hidden_beside(target: Path) -> Iterator[Path]:
    """Yield a path beside the target, with the same ending; what is still there afterwards is removed."""
    hidden = target.with_name(f".{os.getpid()}.{target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if hidden.is_symlink():  # nobody of ours made it
        hidden.unlink()
    try:
        yield hidden
    finally:
        hidden.unlink(missing_ok=True) if hidden.is_file() else shutil.rmtree(hidden, ignore_errors=True)
