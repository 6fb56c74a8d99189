"""Runs the ranks of small jobs as forks of one process that has imported torch once, and harms one of them.

`python forked_ranks.py CASES.json RESULTS.json`. Each case is a `Case`; what came of it is an `Outcome`. Unlike
torchrun, nobody here tells the ranks that one of them has failed: what they know, they know from each other.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FAULT_STEP = 12
AT_ONCE = 3
FAULTY = """\
import ctypes, os, sys, time
from torch import nn
from network import small

def stall():
    while True:
        time.sleep(0.05)

def fail():
    raise ValueError("a mistake of the user's")

FAULTS = {
    "exit 0": lambda: os._exit(0), "sys.exit": lambda: sys.exit(1), "error": fail, "stall": stall,
    "crash": lambda: ctypes.string_at(0),
}

class Faulty(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.network, self.calls = small(num_classes), 0

    def forward(self, images):
        self.calls += self.training
        if self.calls == int(os.environ["FAULT_CALL"]):
            FAULTS[os.environ["FAULT"]]()
        return self.network(images)
"""


@dataclass(frozen=True)
class Case:
    """What happens to which rank of how many."""

    name: str
    job: str
    ranks: int
    fault: str  # of FAULTS above, or "kill", "stop", "pause", "none"
    victim: int = 0
    agent_hosts_store: bool = True  # as with torchrun; else rank 0 does


@dataclass(frozen=True)
class Outcome:
    """How the ranks of a case ended: exit codes as subprocess gives them."""

    codes: dict[str, int]
    seconds: float  # from the fault, if it came from outside, until the other ranks had ended
    victim_ended: bool  # without the bench, at most 10 seconds after the others
    failures: dict[str, dict[str, Any]]


def main() -> None:
    """Run all cases, a few at a time: they mostly wait."""
    import torch

    import megabatch.trainer.__main__  # noqa: F401  the slow part, done once

    torch.use_deterministic_algorithms(True)  # as every training does first; it imports the compiler
    sys.path[0] = str(Path.cwd())  # as `python -m` does: the network lies there
    cases = [Case(**values) for values in json.loads(Path(sys.argv[1]).read_text())]
    results = Path(sys.argv[2])
    parts = [results.with_suffix(f".{number}") for number in range(AT_ONCE)]
    workers = [_fork(_run_all, cases[number::AT_ONCE], part) for number, part in enumerate(parts)]
    assert [_ended(worker) for worker in workers] == [0] * AT_ONCE
    outcomes = {name: outcome for part in parts for name, outcome in json.loads(part.read_text()).items()}
    results.write_text(json.dumps(outcomes))


def _run_all(cases: list[Case], results: Path) -> None:
    results.write_text(json.dumps({case.name: asdict(_run(case)) for case in cases}))
    os._exit(0)


def _run(case: Case) -> Outcome:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = _fork(_host_store, port) if case.agent_hosts_store else None
    ranks = [_fork(_train, case, rank, port) for rank in range(case.ranks)]
    began = _harm(case, ranks)
    codes = {str(rank): _ended(pid) for rank, pid in enumerate(ranks) if rank != case.victim}
    seconds = time.monotonic() - began
    ended_by_itself = case.agent_hosts_store and _ends_soon(ranks[case.victim])
    if not ended_by_itself:
        os.kill(ranks[case.victim], signal.SIGKILL)
    codes[str(case.victim)] = _ended(ranks[case.victim])
    if agent is not None:
        os.kill(agent, signal.SIGKILL)
        os.waitpid(agent, 0)
    failures = {}
    for rank in range(case.ranks):
        file = Path(case.job).parent / "logs" / f"failure-rank-{rank:05d}.json"
        if file.exists():
            failures[str(rank)] = json.loads(file.read_text())
    return Outcome(codes, seconds, ended_by_itself, failures)


def _ended(pid: int) -> int:
    """Wait for a process and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _ends_soon(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.02)
    return False


def _harm(case: Case, ranks: list[int]) -> float:
    """Do what is done from outside; return when."""
    if case.fault in ("kill", "stop", "pause"):
        metrics = Path(case.job).parent / "metrics.jsonl"
        while not metrics.exists() or metrics.read_text().count('"kind": "step"') < FAULT_STEP:
            time.sleep(0.01)
        os.kill(ranks[case.victim], signal.SIGKILL if case.fault == "kill" else signal.SIGSTOP)
        if case.fault == "pause":
            time.sleep(1)
            os.kill(ranks[case.victim], signal.SIGCONT)
    return time.monotonic()


def _fork(what: Any, *arguments: Any) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            what(*arguments)
        finally:
            os._exit(99)
    return pid


def _host_store(port: int) -> None:
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    while store:
        time.sleep(1)


def _train(case: Case, rank: int, port: int) -> None:
    from megabatch.trainer.__main__ import main as train
    from megabatch.trainer.process import exit_now

    faulty = rank == case.victim and case.fault not in ("kill", "stop", "pause", "none")
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(case.ranks), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(case.agent_hosts_store),
        "FAULT": case.fault, "FAULT_CALL": str(FAULT_STEP if faulty else -1),
    }  # fmt: skip
    sys.argv = ["megabatch.trainer", case.job]
    exit_now(train())


if __name__ == "__main__":
    main()
