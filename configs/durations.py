"""How a time span is written, wherever a person reads one."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a time span as a person says it.

    >>> duration(75), duration(5.2), duration(7300), duration(0.4)
    ('1m 15s', '5s', '2h 01m', '0.4s')
    """
    if 0 < seconds < 0.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600:,}h {whole % 3600 // 60:02d}m"
