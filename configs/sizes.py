"""Numbers of bytes as people write them."""

from __future__ import annotations


def size(count: float) -> str:
    """Return bytes in the largest unit that leaves at least one of it.

    >>> size(900), size(1_234_567), size(812_345_678), size(5e9)
    ('900 bytes', '1.2 MiB', '774.7 MiB', '4.66 GiB')
    """
    for unit, power, digits in (("GiB", 30, 2), ("MiB", 20, 1), ("KiB", 10, 1)):
        if count >= 1 << power:
            return f"{count / (1 << power):,.{digits}f} {unit}"
    return f"{count:.0f} bytes"
