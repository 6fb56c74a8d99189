"""RUN_DIR/metrics.jsonl: the truth about a run, appended line by line, read by everything else.

After a restart steps are trained again from the last checkpoint. Their lines are appended with a higher `attempt`;
configs/metrics.py reads the file and takes the last attempt of each step.
"""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from megabatch.trainer.line_file import LineFile
from megabatch.trainer.trackers.lines import Line, LineTracker


class JsonlTracker(LineTracker):
    """Appends one JSON object for everything it is told."""

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lines = LineFile(file, keep_open=True)

    @override
    def take(self, line: Line) -> None:
        self._lines.append(line)

    @override
    def close(self) -> None:
        self._lines.close()
