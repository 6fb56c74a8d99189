"""Keeps RUN_DIR/report.html up to date while ranks run, in a thread of the launcher that can disturb nobody.

It only reads what the ranks write, has the lowest priority, takes at most a twentieth of a core, and an error in it
ends nothing: the report is then as it was.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from megabatch.configs.run_dir import RunDir

SECONDS = 15.0
_PART_OF_A_CORE = 20
_LOWEST_PRIORITY = 19


def write_report(run_dir: RunDir, output: Path | None = None, price: float | None = None) -> Path:
    """Write the report, and those of its stages, and return where.

    Raises ConfigError for a folder that is no run, OSError for a full disk.
    """
    from megabatch.launcher.report.page import run_page, write_page
    from megabatch.launcher.report.run import read_run

    for stage in run_dir.stages():
        write_report(stage)
    file = output or run_dir.report
    write_page(file, run_page(read_run(run_dir), file, price))
    return file


def write_quietly(run_dir: RunDir) -> bool:
    """Write the report if that is possible; return whether it was."""
    try:
        write_report(run_dir)
    except Exception:  # whatever it is, the run is worth more
        return False
    return True


def write_within(run_dir: RunDir, seconds: float) -> None:
    """Write the report, but wait no longer than so many seconds for it: something more important comes next."""
    writer = threading.Thread(target=write_quietly, args=(run_dir,), daemon=True)  # it ends with the process
    writer.start()
    writer.join(seconds)


@contextmanager
def kept_fresh(run_dir: RunDir) -> Iterator[None]:
    """While ranks run, write the report now and then, and once more at the end; nothing where nothing is trained."""
    before = _changed(run_dir)
    stop = threading.Event()
    writer = threading.Thread(target=_write_now_and_then, args=(run_dir, before, stop), daemon=True)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()
        if _changed(run_dir) != before:
            write_quietly(run_dir)


def _write_now_and_then(run_dir: RunDir, written: int, stop: threading.Event) -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    pause = SECONDS
    while not stop.wait(pause):
        changed = _changed(run_dir)
        if changed == written:
            continue
        written, started = changed, time.monotonic()
        write_quietly(run_dir)
        pause = max(SECONDS, _PART_OF_A_CORE * (time.monotonic() - started))


def _changed(run_dir: RunDir) -> int:
    """Return when a training last wrote of itself; 0 if none has."""
    try:
        return run_dir.metrics.stat().st_mtime_ns
    except OSError:
        return 0
