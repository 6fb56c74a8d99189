"""Runs the ranks of a local job and says how they ended. Learns about the run only from its exit and from RUN_DIR.

Ctrl-C or SIGTERM asks the ranks themselves to save and end: torchrun, where it is between them and us, would kill them
30 seconds later. They are in sessions of their own, so a terminal's Ctrl-C reaches this process alone. If this process
is killed, the kernel asks them to save and end.
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
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from megabatch.configs.parent import adopt_orphans, descendants, end_leftovers, signal_when_parent_ends
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.memory_limits import MEMORY_ADVICE, is_want_of_memory
from megabatch.launcher.report.fresh import kept_fresh


class ExitCode(IntEnum):
    """What the megabatch command ends with."""

    DONE = 0
    FAILED = 1
    MISTAKE = 2
    STOPPED = 3


_TORCHRUN_ENDED = re.compile(r"rank\s*:\s*(?P<rank>\d+)[^\n]*\n\s*exitcode\s*:\s*(?P<exitcode>-?\d+)")
UNFIT_NODE = "UnfitNodeError"
INPUT_ERRORS = ("ConfigError", "DataError", "SampleError")
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

    def start() -> subprocess.Popen[bytes]:
        tied = partial(signal_when_parent_ends, signal.SIGTERM, os.getpid())
        with run_dir.launcher_log.open("ab") as log:
            return subprocess.Popen(
                argv, env=environment, stderr=log, cwd=folder, start_new_session=True, preexec_fn=tied
            )

    return supervise(start, run_dir, say)


def supervise(start: Callable[[], subprocess.Popen[bytes]], run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Have the ranks started, pass signals on, wait until nothing of them is left, and return how they ended."""
    log_start = start_log(run_dir)
    adopt_orphans()  # torchrun killed with SIGKILL leaves its ranks alive
    others = descendants(os.getpid())
    process = start()
    with kept_fresh(run_dir):
        with _Signals(process, say) as signals:
            exit_code = process.wait()
        end_leftovers(but=others)
    return ending(exit_code, signals.received, run_dir, log_start)


def start_log(run_dir: RunDir) -> int:
    """Forget how the last attempt ended, and return where in the launcher's log this one begins."""
    run_dir.logs.mkdir(parents=True, exist_ok=True)
    for stale in (*run_dir.failures(), *run_dir.all_exit_codes(), run_dir.ended):
        stale.unlink(missing_ok=True)
    return run_dir.launcher_log.stat().st_size if run_dir.launcher_log.exists() else 0


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
        ranks = ranks_below(self._process.pid) or [self._process.pid]  # a single rank has no process above it
        if self.received == 1:
            self._say("stopping: a checkpoint is saved at the end of this step (again: stop at once)")
            send(ranks, signal.SIGTERM)
        else:
            send([self._process.pid, *ranks], signal.SIGKILL)


def ranks_below(pid: int) -> list[int]:
    """Return the descendants that are to save and end. DeepSpeed's launcher would kill the ranks 30 seconds later."""
    return [child for child in descendants(pid) if b"deepspeed.launcher" not in _command_line(child)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those of the processes that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def ending(exit_code: int, signals_received: int, run_dir: RunDir, log_start: int) -> Ending:
    """Return how the job ended, from its exit code and from what the ranks left behind; the log begins at a byte."""
    if exit_code == 0 and run_dir.ended.exists():
        return Ending(ExitCode.DONE, "")
    if signals_received:
        return Ending(ExitCode.STOPPED, "stopped at once; the last checkpoint is as it was")
    if exit_code == 0:
        message = f"something ended the ranks with exit code 0 before they had done their work\nlogs: {run_dir.logs}"
        return Ending(ExitCode.FAILED, message)
    failures = [json.loads(file.read_text(encoding="utf-8")) for file in run_dir.failures()]
    causes = [failure for failure in failures if not failure["of_another_rank"]]
    if not causes:
        return Ending(ExitCode.FAILED, _cause_elsewhere(failures, run_dir, log_start))
    first = min(causes, key=lambda failure: float(failure["time"]))
    code = ExitCode.MISTAKE if first["kind"] in INPUT_ERRORS else ExitCode.FAILED
    where = f"rank {first['rank']} on {first['host']}"
    known = first["kind"] in (*INPUT_ERRORS, "TrainingError", UNFIT_NODE)
    detail = first["message"] if known else f"{first['traceback']}".rstrip()
    return Ending(code, f"{where}: {detail}\nlogs: {run_dir.logs}")


def _cause_elsewhere(failures: list[dict[str, Any]], run_dir: RunDir, log_start: int) -> str:
    """The rank whose fault it is wrote nothing down; the others did if they came to a verdict."""
    said = _words(run_dir, log_start)
    ended = _exit_codes(run_dir, said)
    verdict = next((failure["verdict"] for failure in failures if failure["verdict"] is not None), None)
    if verdict is not None and verdict["kind"] != "gone":
        return f"{verdict['message']}\nlogs: {run_dir.logs}"
    if verdict is not None and verdict["rank"] in ended:
        how, hint = _how_it_ended(ended[verdict["rank"]])
        seen = f"last seen after step {verdict['step']}, {verdict['doing']}"
        return (
            f"rank {verdict['rank']} on {verdict['host']} {how}{hint}; {seen}. "
            f"Its log is {run_dir.rank_log(verdict['rank'])}"
        )
    if verdict is not None:
        return f"{verdict['message']}\nlogs: {run_dir.logs}"
    if failures and all(code >= 0 for code in ended.values()):
        first = min(failures, key=lambda failure: float(failure["time"]))
        return f"rank {first['rank']} on {first['host']} lost another rank: {first['message']}\nlogs: {run_dir.logs}"
    if is_want_of_memory(said):
        words = f"Their own words are in {run_dir.launcher_log}"
        return f"there was not enough memory to start the ranks. {MEMORY_ADVICE}. {words}"
    return _killed_rank(ended, run_dir)


def _killed_rank(ended: dict[int, int], run_dir: RunDir) -> str:
    """No rank wrote why, so one was killed from outside: the first that was, even if its peer was seen to end first."""
    if not ended:
        words = f"its own words are in {run_dir.launcher_log}"
        return f"the process that started the ranks ended before they did, and they with it; {words}"
    killed = [rank for rank, code in ended.items() if code < 0 and code != -signal.SIGTERM]
    rank = (killed or list(ended))[0]
    how, hint = _how_it_ended(ended[rank])
    return f"rank {rank} {how}{hint}. Its log is {run_dir.rank_log(rank)}"


def _exit_codes(run_dir: RunDir, said: str) -> dict[int, int]:
    """Return how ranks that failed ended, the first first: from our own starter of ranks, or in torchrun's words."""
    files = [json.loads(file.read_text(encoding="utf-8")) for file in run_dir.all_exit_codes()]
    if files:
        return {ended["rank"]: ended["code"] for file in files for ended in file["exits"] if ended["code"] != 0}
    found = [(int(match["rank"]), int(match["exitcode"])) for match in _TORCHRUN_ENDED.finditer(said)]
    return dict(reversed(found))  # torchrun lists last whom it saw end first


def _words(run_dir: RunDir, log_start: int) -> str:
    with run_dir.launcher_log.open("rb") as log:
        log.seek(log_start)
        return log.read().decode(errors="replace")


def _how_it_ended(code: int) -> tuple[str, str]:
    """Return what a negative exit code, a signal, or a positive one says, and what is the likely reason."""
    names = {number.value: number.name for number in signal.Signals}
    how = f"was killed by {names[-code]}" if -code in names else f"ended with code {code}"
    return how, _HINTS.get(-code, "")
