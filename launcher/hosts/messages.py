"""What launcher and agents say to each other over ssh: a JSON object a line, behind a mark.

The mark tells our lines from what a login script of the host prints.
"""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]  # JSON

_MARK = b"megabatch:"
BEATS_PER_SILENCE = 5  # signs of life in the time after which the other side counts as gone


def encoded(message: Message) -> bytes:
    """Return the line of a message.

    >>> decoded(encoded({"do": "stop"}))
    {'do': 'stop'}
    """
    return _MARK + json.dumps(message, ensure_ascii=False).encode() + b"\n"


def decoded(line: bytes) -> Message | None:
    """Return the message of a line, or None for a line that is none of ours."""
    if not line.startswith(_MARK):
        return None
    try:
        message = json.loads(line.removeprefix(_MARK))
    except (ValueError, RecursionError):  # the connection broke in the middle of it
        return None
    return message if isinstance(message, dict) else None


class Lines:
    """Cuts what was read into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, read: bytes) -> list[bytes]:
        """Return the lines that are complete now, without their ends."""
        *lines, self._rest = (self._rest + read).split(b"\n")
        return lines
