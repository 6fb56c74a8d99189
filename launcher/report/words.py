"""How numbers, times and texts of strangers are written in a report."""

from __future__ import annotations

import math
import time
from typing import Any

from megabatch.configs.sizes import size
from megabatch.data.sources.places import visible

_LONGEST = 400


def quantity(value: float, unit: str) -> str:
    """Return a number with its unit.

    >>> quantity(0.9713, "share"), quantity(3 << 29, "bytes"), quantity(12345.6, "rate"), quantity(0.00012345, "number")
    ('97.13%', '1.50 GiB', '12,346/s', '0.0001234')
    """
    if unit == "share":
        return f"{value:.2%}"
    if unit == "bytes":
        return size(value)
    if unit == "rate":
        return f"{value:,.0f}/s"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def moment(seconds: float | None) -> str:
    """Return a time of the clock, here, in one piece; empty if there is none."""
    return time.strftime("%Y-%m-%d\N{NO-BREAK SPACE}%H:%M:%S", time.localtime(seconds)) if seconds else ""


def hours(value: float) -> str:
    """Return device-hours.

    >>> hours(0.0123), hours(1234.5)
    ('0.012', '1,234')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def seconds(value: float) -> str:
    """Return a short time; empty if it is not known.

    >>> seconds(0.00312), seconds(2.5), seconds(float("nan"))
    ('3.1 ms', '2.5 s', '')
    """
    if math.isnan(value):
        return ""
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:,.1f} s"


def plain(value: object) -> str:
    """Return a text of somebody else in one piece: cut if it is long, control characters by their number.

    >>> plain("a\\x1b[0m")
    'a\\\\u001b[0m'
    """
    text = str(value)
    cut = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in cut)


def plain_block(text: str) -> str:
    """Return lines of somebody else, none of them cut: they are to be copied."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


def without_secrets(value: Any) -> Any:
    """Return a value of a recipe without what URLs in it may hold: passwords and signatures.

    >>> without_secrets({"path": "https://me:secret@host/train.tar?sig=1", "sources": ["s3://a/b", 3]})
    {'path': 'https://host/train.tar', 'sources': ['s3://a/b', 3]}
    """
    if isinstance(value, dict):
        return {key: without_secrets(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(child) for child in value]
    return visible(value) if isinstance(value, str) and "://" in value else value


def setting(value: Any) -> str:  # Any: a plain value of a recipe
    """Return a value of a recipe as it is written there, on a line.

    >>> setting("https://me:secret@host/train.tar"), setting(None), setting([1, 2]), setting(True)
    ('https://host/train.tar', 'null', '[1, 2]', 'true')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return plain(f"[{', '.join(map(setting, value))}]")
    if isinstance(value, dict):
        return plain("{" + ", ".join(f"{key}: {setting(child)}" for key, child in value.items()) + "}")
    return plain(without_secrets(value))
