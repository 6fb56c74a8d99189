"""The logs of a run as one text: what the job printed as it is, what each rank printed behind its number."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from megabatch.configs.run_dir import RunDir

_SECONDS_BETWEEN_LOOKS = 0.5


def log_files(run_dir: RunDir, rank: int | None = None) -> list[tuple[str, Path]]:
    """Return (prefix, file) of every log, those of the batch jobs first; with `rank` that of one rank alone."""
    if rank is not None:
        return [("", run_dir.rank_log(rank))]
    jobs = sorted(run_dir.logs.glob("slurm-*.log"), key=lambda file: file.stat().st_mtime)
    others = [run_dir.launcher_log] if run_dir.launcher_log.exists() else []
    ranks = run_dir.rank_logs()
    width = max((len(_number(file)) for file in ranks), default=1)
    return [("", file) for file in (*jobs, *others)] + [(f"[{_number(file):>{width}}] ", file) for file in ranks]


def _number(file: Path) -> str:
    return str(int(file.stem.removeprefix("rank-")))


class Reader:
    """Reads what is new in each file; a line that is not whole yet waits for its end."""

    def __init__(self, files: Callable[[], list[tuple[str, Path]]]):
        self._files = files
        self._read: dict[Path, tuple[int, int]] = {}  # the file, as its disk numbers it, and how far it was read
        self._unfinished: dict[Path, bytes] = {}

    def new_lines(self, also_unfinished: bool = False) -> Iterator[str]:
        """Yield the lines that were written since the last call."""
        for prefix, file in self._files():
            content = self._unfinished.get(file, b"") + self._new_bytes(file)
            whole = len(content) if also_unfinished else content.rfind(b"\n") + 1
            self._unfinished[file] = content[whole:]
            for line in content[:whole].decode(errors="replace").splitlines():
                yield f"{prefix}{line}"

    def _new_bytes(self, file: Path) -> bytes:
        """Return what was not read yet; of a log that was put aside since (trainer/rank_log.py), its end too."""
        try:
            with file.open("rb") as opened:
                this, (last, read) = os.fstat(opened.fileno()).st_ino, self._read.get(file, (0, 0))
                before = b"" if this == last else _from(file.with_name(f"{file.name}.1"), read)
                opened.seek(read if this == last else 0)
                content = opened.read()
                self._read[file] = (this, opened.tell())
        except FileNotFoundError:
            return b""
        return before + content


def _from(file: Path, start: int) -> bytes:
    try:
        with file.open("rb") as opened:
            opened.seek(start)
            return opened.read()
    except FileNotFoundError:
        return b""


def print_logs(
    files: Callable[[], list[tuple[str, Path]]], say: Callable[[str], None], goes_on: Callable[[], bool] | None
) -> None:
    """Print all that is there; with `goes_on` then what comes, until that says no."""
    reader = Reader(files)
    while True:
        ended = goes_on is None or not goes_on()  # asked first, so that the last lines are read after the end
        for line in reader.new_lines(also_unfinished=ended):
            say(line)
        if ended:
            return
        time.sleep(_SECONDS_BETWEEN_LOOKS)
