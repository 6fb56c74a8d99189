"""One node of a job in a pod: `python -m megabatch.launcher.pod --meet HOST:PORT RUN_DIR/job.yaml`.

Ends with 0 only if the training is finished. Ranks that saved because they were asked to stop end well, but a pod that
ends well is never started again; so this ends with 3 then, as `megabatch launch` does.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import meeting_of, node_command
from megabatch.launcher.supervise import ExitCode, ranks_below, send

_NAME_SECONDS = 600.0  # until the first pod has a name: it may be the last one to be placed
_RESULT_SECONDS = 60.0  # until the first pod has written how the training ended


def main() -> int:
    """Start the ranks of this node, pass SIGTERM on to them, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m megabatch.launcher.pod", description=__doc__.splitlines()[0])
    parser.add_argument("--meet", metavar="HOST:PORT", required=True)
    parser.add_argument("job", type=Path)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    ranks = _Ranks()
    for number in (signal.SIGTERM, signal.SIGINT):  # at once: to the first process of a pod the kernel sends no others
        signal.signal(number, ranks.stop)
    run_dir = RunDir(arguments.job.absolute().parent)
    _wait_for_name(arguments.meet.rpartition(":")[0])
    node = int(os.environ["JOB_COMPLETION_INDEX"])  # set by Kubernetes in a Job whose pods are numbered
    meeting = meeting_of(read_job(arguments.job).cluster.nodes, node, arguments.meet)
    code = ranks.run(node_command(arguments.job, arguments.rest, meeting))
    return code if code != 0 or arguments.rest else _ending(run_dir)


class _Ranks:
    """The ranks of this node, or nothing yet."""

    def __init__(self) -> None:
        self._starter: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str]) -> int:
        """Start them, wait for their end, and return their exit code."""
        self._starter = subprocess.Popen(command)
        code = self._starter.wait()
        return code if code >= 0 else 128 - code

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Have them save and end."""
        if self._starter is None:
            sys.exit(ExitCode.STOPPED)
        send(ranks_below(self._starter.pid) or [self._starter.pid], signal.SIGTERM)


def _wait_for_name(host: str) -> None:
    deadline = time.monotonic() + _NAME_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            time.sleep(1.0)
        else:
            return


def _ending(run_dir: RunDir) -> int:
    """Return 0 if the training is finished, once it is written down how it ended: rank 0 is in another pod."""
    deadline = time.monotonic() + _RESULT_SECONDS
    while not run_dir.result.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    if not run_dir.result.exists():
        return ExitCode.FAILED
    outcome = json.loads(run_dir.result.read_text(encoding="utf-8"))["outcome"]
    return ExitCode.DONE if outcome == "finished" else ExitCode.STOPPED


if __name__ == "__main__":
    sys.exit(main())
