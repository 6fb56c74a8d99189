"""A process that imports torch while nothing is decided yet: it looks at the model, then starts the ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.parent import signal_when_parent_ends
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import child_environment


class Starter:
    """The other end of trainer/node/orders.py; to be closed, which ends the process if it has not started ranks."""

    def __init__(self, job: Job):
        reading, writing = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "megabatch.trainer.node", "--orders", str(writing)],
            stdin=subprocess.PIPE, stderr=self._errors, pass_fds=[writing], start_new_session=True,
            env=child_environment(job), cwd=job.working_folder,
            preexec_fn=partial(signal_when_parent_ends, signal.SIGTERM, os.getpid()),
        )  # fmt: skip
        os.close(writing)
        self._answers = os.fdopen(reading, "rb")

    def inspect(self, job_file: Path) -> subprocess.CompletedProcess[str]:
        """Return how `python -m megabatch.trainer.inspect_model` ends for a job."""
        argv = ["inspect_model", str(job_file)]
        self._order({"inspect": str(job_file)})
        answer = self._answers.readline()
        if not answer:  # it could not even import what it needs
            return subprocess.CompletedProcess(argv, self.process.wait(), "", self._said())
        told: dict[str, Any] = json.loads(answer)
        return subprocess.CompletedProcess(argv, told["code"], told["output"], told["errors"])

    def start(self, run_dir: RunDir, trainer_arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start the ranks; what the process itself says goes to the launcher's log from here on."""
        order = {"start": str(run_dir.job), "arguments": list(trainer_arguments), "log": str(run_dir.launcher_log)}
        self._order(order)
        return self.process

    def close(self) -> None:
        """End the process if it has not ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._answers.close()
        self.process.terminate()
        self.process.wait()
        self._errors.close()

    def _order(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has ended; whoever asks for the answer learns why
            return

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")
