"""`--json`: one object on standard output when the command ends, and everything else, of the ranks too, on stderr.

What a command has to say is told with `answer` where it becomes known, however deep; without --json that does nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any

_answers: ContextVar[dict[str, Any] | None] = ContextVar("_answers", default=None)


def answer(**values: Any) -> None:  # Any: what JSON can say
    """Add to the object that is printed at the end."""
    collected = _answers.get()
    if collected is not None:
        collected.update(values)


@contextmanager
def json_alone(wanted: bool) -> Iterator[None]:
    """Print what is answered inside as JSON at the end, where it is wanted. A mistake has no answer: nothing then."""
    if not wanted:
        yield
        return
    collected: dict[str, Any] = {}
    token = _answers.set(collected)
    try:
        with _descriptor_to_stderr(), redirect_stdout(sys.stderr):
            yield
    finally:
        _answers.reset(token)
        if collected:
            print(json.dumps(collected, indent=1, default=str))


@contextmanager
def _descriptor_to_stderr() -> Iterator[None]:
    """Have what child processes print on standard output go to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
