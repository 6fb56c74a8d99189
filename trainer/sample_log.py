"""Which samples a rank really trained on, a JSON line for each micro-batch: the audit of "no sample lost"."""

from __future__ import annotations

import json
from pathlib import Path

from megabatch.data.requests import Request


class SampleLog:
    """RUN_DIR/samples/rank-N.jsonl; written when the micro-batch is trained on, not when it is loaded."""

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("a", encoding="utf-8")

    def write(self, request: Request) -> None:
        """Append one micro-batch; fillers have no samples and no line."""
        if len(request.sample_ids):
            line = {"step": request.step, "number": request.number, "sample_ids": request.sample_ids.tolist()}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
