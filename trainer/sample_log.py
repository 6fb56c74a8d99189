"""Which samples a rank really trained on, a JSON line for each micro-batch: the audit of "no sample lost"."""

from __future__ import annotations

from pathlib import Path

from megabatch.data.requests import Request
from megabatch.trainer.line_file import LineFile


class SampleLog:
    """RUN_DIR/samples/rank-N.jsonl; written when the micro-batch is trained on, not when it is loaded."""

    def __init__(self, file: Path):
        self._lines = LineFile(file, keep_open=True)

    def write(self, request: Request) -> None:
        """Append one micro-batch; fillers have no samples and no line."""
        if len(request.sample_ids):
            ids = request.sample_ids.tolist()
            self._lines.append({"step": request.step, "number": request.number, "sample_ids": ids})

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
