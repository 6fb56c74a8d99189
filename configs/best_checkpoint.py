"""Which checkpoint of a run is its best."""

from __future__ import annotations

import json
from pathlib import Path

from megabatch.configs.json_files import read_json
from megabatch.configs.run_dir import CHECKPOINT_PREFIX, RunDir


def best_checkpoint(run_dir: RunDir, newest: Path) -> Path:
    """Return the best checkpoint, by what the newest says, which is the best itself where nothing was compared.

    A run that was stopped in its last evaluation has done that after its last checkpoint: its result tells then.
    Raises OSError, ValueError, LookupError, TypeError or RecursionError if the newest checkpoint is damaged.
    """
    told = json.loads((newest / "state.json").read_text(encoding="utf-8"))["training"]
    result = read_json(run_dir.result)
    if result.get("step", -1) >= int(newest.name.removeprefix(CHECKPOINT_PREFIX)):
        told = result
    return newest if told["best_step"] is None else run_dir.checkpoint(told["best_step"])
