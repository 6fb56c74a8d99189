"""What `megabatch launch` asks of the process that will start the ranks, before it knows that it should.

Importing torch takes longer than all of the launcher's checks. So this process is started first; it looks at the model
in a fork of itself, which may fail or use up memory as it likes, and then starts the ranks or ends. Orders are lines of
JSON on standard input, answers lines of JSON on the pipe that was named.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from megabatch.configs.load import read_job
from megabatch.configs.parent import signal_when_parent_ends
from megabatch.trainer.inspect_model import main as inspect_model
from megabatch.trainer.models.load import import_library


class Start(NamedTuple):
    """The order to start the ranks of a job."""

    job: Path
    trainer_arguments: list[str]


def wait_for_start(answers: int) -> Start | None:
    """Follow the orders until one says to start; None if there will be none, for the launcher has ended."""
    for line in sys.stdin:
        order = json.loads(line)
        if "inspect" in order:
            os.write(answers, json.dumps(_inspect(order["inspect"])).encode() + b"\n")
            continue
        _speak_to(order["log"])
        return Start(Path(order["start"]), order["arguments"])
    return None


def _inspect(job_file: str) -> dict[str, Any]:
    """Return the exit code of an inspection, what it printed, and its errors."""
    import_library(read_job(Path(job_file)).recipe.model)  # here, for the ranks to have it too
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            signal_when_parent_ends(signal.SIGKILL, parent)
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            code = 1
            try:
                code = inspect_model([job_file])
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        said = [_content(file) for file in (output, errors)]
    return {"code": os.waitstatus_to_exitcode(status), "output": said[0], "errors": said[1]}


def _content(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))


def _speak_to(log: str) -> None:
    """Send standard error to a log from here on, and read nothing more."""
    with open(log, "ab") as opened, open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(opened.fileno(), 2)
        os.dup2(nothing.fileno(), 0)
