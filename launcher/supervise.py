"""Runs the ranks of a local job and says how they ended. Learns about the run only from its exit and from RUN_DIR.

Ctrl-C or SIGTERM asks the ranks, not torchrun, to save and end: torchrun would kill them 30 seconds later. They are in
sessions of their own, so a terminal's Ctrl-C reaches this process alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

from megabatch.configs.run_dir import RunDir
from megabatch.launcher.memory_limits import MEMORY_ADVICE, is_want_of_memory


class ExitCode(IntEnum):
    """What the megabatch command ends with."""

    DONE = 0
    FAILED = 1
    MISTAKE = 2
    STOPPED = 3


_ENDED = re.compile(r"rank\s*:\s*(?P<rank>\d+)[^\n]*\n\s*exitcode\s*:\s*(?P<exitcode>-?\d+)")
_PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket Timeout")
_TIMED_OUT = "Timed out waiting"  # gloo
_INPUT_ERRORS = ("ConfigError", "DataError", "SampleError")
_HINTS = {
    signal.SIGKILL.value: ": out of memory, or kill -9 from outside",
    signal.SIGBUS.value: ": a shard became shorter while it was read; `megabatch data verify` tells which",
}


@dataclass(frozen=True)
class Ending:
    """How a local job ended."""

    code: ExitCode
    message: str


def run(
    argv: list[str], environment: dict[str, str], run_dir: RunDir, folder: str, say: Callable[[str], None]
) -> Ending:
    """Start the command, pass signals on, wait, and return how it ended."""
    run_dir.logs.mkdir(parents=True, exist_ok=True)
    for stale in run_dir.failures():
        stale.unlink()
    log_start = run_dir.launcher_log.stat().st_size if run_dir.launcher_log.exists() else 0
    with run_dir.launcher_log.open("ab") as log:
        process = subprocess.Popen(argv, env=environment, stderr=log, cwd=folder, start_new_session=True)
        with _Signals(process, say) as signals:
            exit_code = process.wait()
    return _ending(exit_code, signals.received, run_dir, log_start)


class _Signals:
    """While the job runs: the first SIGINT, SIGTERM or SIGHUP asks the ranks to save and end, the second kills them."""

    def __init__(self, process: subprocess.Popen[bytes], say: Callable[[str], None]):
        self.received = 0
        self._process = process
        self._say = say
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal is gone
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        ranks = descendants(self._process.pid) or [self._process.pid]  # a single rank has no torchrun above it
        if self.received == 1:
            self._say("stopping: a checkpoint is saved at the end of this step (again: stop at once)")
            _send(ranks, signal.SIGTERM)
        else:
            _send([self._process.pid, *ranks], signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:  # the thread has just ended
            continue
        found += [grandchild for child in children for grandchild in (child, *descendants(child))]
    return found


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _ending(exit_code: int, signals_received: int, run_dir: RunDir, log_start: int) -> Ending:
    if exit_code == 0:
        return Ending(ExitCode.DONE, "")
    if signals_received:
        return Ending(ExitCode.STOPPED, "stopped at once; the last checkpoint is as it was")
    failures = [json.loads(file.read_text(encoding="utf-8")) for file in run_dir.failures()]
    causes = [failure for failure in failures if not _is_consequence(failure)]
    if causes and all(_TIMED_OUT in failure["message"] for failure in causes):
        return Ending(ExitCode.FAILED, _silent_ranks(causes, run_dir))
    if not causes:
        return Ending(ExitCode.FAILED, _without_cause(run_dir, log_start))
    first = min(causes, key=lambda failure: float(failure["time"]))
    code = ExitCode.MISTAKE if first["kind"] in _INPUT_ERRORS else ExitCode.FAILED
    where = f"rank {first['rank']} on {first['host']}"
    known = first["kind"] in (*_INPUT_ERRORS, "TrainingError")
    detail = first["message"] if known else f"{first['traceback']}".rstrip()
    return Ending(code, f"{where}: {detail}\nlogs: {run_dir.logs}")


def _is_consequence(failure: dict[str, Any]) -> bool:
    """A rank whose peer is gone fails too; that is not the cause."""
    return any(sign in failure["message"] for sign in _PEER_LOST)


def _silent_ranks(waited: list[dict[str, Any]], run_dir: RunDir) -> str:
    """Ranks waited for each other until the time-out: name those that did not even fail."""
    failed = {run_dir.rank_log(int(failure["rank"])) for failure in waited}
    silent = sorted(set(run_dir.rank_logs()) - failed)
    named = ", ".join(map(str, silent)) or "none: every rank waited"
    who = ", ".join(str(failure["rank"]) for failure in waited)
    return (
        f"rank {who} waited longer than cluster.limits.collective_timeout_seconds for another rank that did not come. "
        f"Logs of the silent ranks: {named}"
    )


def _without_cause(run_dir: RunDir, log_start: int) -> str:
    """No rank wrote why, so one was killed from outside; torchrun's log has its number and the signal."""
    with run_dir.launcher_log.open("rb") as log:
        log.seek(log_start)
        text = log.read().decode(errors="replace")
    ended = [(int(found["rank"]), int(found["exitcode"])) for found in _ENDED.finditer(text)]
    if is_want_of_memory(text):
        words = f"Their own words are in {run_dir.launcher_log}"
        return f"there was not enough memory to start the ranks. {MEMORY_ADVICE}. {words}"
    if not ended:
        return f"torchrun ended before the ranks did; its own words are in {run_dir.launcher_log}"
    # torchrun lists the rank it saw end first last; a killed rank is the cause even if its peer was seen first.
    killed = [(rank, code) for rank, code in ended if code < 0 and code != -signal.SIGTERM]
    rank, code = (killed or ended[-1:])[0]
    signal_number = -code
    names = {number.value: number.name for number in signal.Signals}
    by = f"was killed by {names[signal_number]}" if signal_number in names else f"ended with code {code}"
    hint = _HINTS.get(signal_number, "")
    return f"rank {rank} {by}{hint}. Its log is {run_dir.rank_log(rank)}"
