"""A folder of which another host sees what was some seconds ago, as network file systems may show it."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

Seen = dict[str, tuple[int, int]]  # size and time of change of each file, by its path in the folder
_LOOK_SECONDS = 0.2


@contextmanager
def late_view(folder: Path, view: Path, delay: float) -> Iterator[threading.Event]:
    """Keep `view` as `folder` was `delay` seconds ago; what others write into `view` comes to `folder` as late.

    While the event that this yields is set, `view` stays as it is.
    """
    view.mkdir()
    ended, held = threading.Event(), threading.Event()
    thread = threading.Thread(target=_follow, args=(folder, view, delay, ended, held))
    thread.start()
    try:
        yield held
        time.sleep(delay + 2 * _LOOK_SECONDS)  # for what was written last
    finally:
        ended.set()
        thread.join()


def _follow(folder: Path, view: Path, delay: float, ended: threading.Event, held: threading.Event) -> None:
    here, there = _Side(folder, view, delay), _Side(view, folder, delay)
    while not ended.wait(_LOOK_SECONDS):
        if not held.is_set():
            here.pass_on(but=there.passed)
        there.pass_on(but=here.passed)


class _Side:
    """One way: what appears, changes or goes in a folder does so in another one some time later."""

    def __init__(self, source: Path, target: Path, delay: float):
        self.passed: set[str] = set()
        self._source, self._target, self._delay = source, target, delay
        self._looks: deque[tuple[float, Seen]] = deque()
        self._known: Seen = {}

    def pass_on(self, but: set[str]) -> None:
        self._looks.append((time.monotonic(), _look(self._source)))
        while self._looks and time.monotonic() - self._looks[0][0] > self._delay:
            _, seen = self._looks.popleft()
            for name in self._known.keys() - seen.keys():
                with suppress(OSError):
                    (self._target / name).unlink()
            for name in [name for name, at in seen.items() if self._known.get(name) != at and name not in but]:
                self._copy(name)
            self._known = {name: at for name, at in seen.items() if name not in but}

    def _copy(self, name: str) -> None:
        with suppress(OSError):  # it has gone since
            (self._target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._source / name, self._target / name)
            self.passed.add(name)


def _look(folder: Path) -> Seen:
    found: Seen = {}
    for file in folder.rglob("*"):
        with suppress(OSError):
            if file.is_file():
                found[str(file.relative_to(folder))] = (file.stat().st_size, file.stat().st_mtime_ns)
    return found


def in_late_view(command: list[str], folder: Path, view: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command that finds `view` where `folder` is, or skip the test."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("a view of its own of a folder needs root")
    script = 'mount --bind "$0" "$1" && shift && exec "$@"'
    return subprocess.Popen(["unshare", "--mount", "sh", "-c", script, str(view), str(folder), *command], **options)
