"""Tar headers, read strictly: every header up to the end-of-archive marker, or the byte where that fails.

tarfile, and every streaming reader built on it, takes a damaged header for the end and so loses the rest of a shard
without a word. Before Python 3.11.10 an extended header of 64 KiB keeps it busy for seconds (CVE-2024-6232), and it
follows the map of a sparse file wherever that leads. So headers are parsed here; what is accepted is what tarfile
reads, with the same names, offsets and sizes (tests/data/test_fuzz.py compares). Payloads are never read.

The formats are POSIX.1-1988 (ustar), POSIX.1-2001 (pax: "x" and "g" headers) and GNU ("L" and "K" headers).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

BLOCK_BYTES = 512
_MOST_EXTENDED_BYTES = 1 << 16  # such a header is read into memory
_MOST_END_BYTES = 2 * BLOCK_BYTES + 19 * BLOCK_BYTES  # the marker, then zeros to the next 20 blocks, as tar writes them
_SURELY_IN_PLACE = 96  # characters of a name up to its extension, which of an image has four at most: 100 in all
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD_LENGTH = re.compile(rb"(\d{1,6}) ")
# Mode, ids, time and device are of no use here, but where one is no number tarfile, and so webdataset, sees the end.
_OTHER_NUMBERS = ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345))
_BINARY = (0o200, 0o377)  # first byte of a number that is not in octal digits (GNU)
_ZEROS = bytes(BLOCK_BYTES)
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"xX", b"g"
_EXTENDED = _LONG_NAME + _LONG_LINK + _PAX + _PAX_GLOBAL
_REGULAR = b"0\x007"  # a file: POSIX, before POSIX, "contiguous"
_FOLDER = b"5"
_OTHER_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file, whose bytes are not all there",
}


class TarDamageError(Exception):
    """The byte where a tar file is not as it must be, and why."""

    def __init__(self, byte: int, reason: str):
        super().__init__(reason)
        self.byte = byte


class Header(NamedTuple):
    """One member. `kind` is "" for a file, "folder", or what else it is; `start` is its first header, `payload` its
    first byte; bytes that are no UTF-8 are surrogates in `name`."""

    name: str
    kind: str
    start: int
    payload: int
    size: int

    @property
    def end(self) -> int:
        """Return where the next header must be."""
        return self.payload + padded(self.size)


def padded(size: int) -> int:
    """Return what `size` bytes take in a tar file.

    >>> padded(513)
    1024
    """
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def tar_headers(file: int, file_bytes: int) -> Iterator[Header]:
    """Yield the members of the tar file behind a descriptor, in order. Raises TarDamageError."""
    position = 0
    while (header := _member(file, position, file_bytes)) is not None:
        yield header
        position = header.end
    _require_end_marker(file, position, file_bytes)


def _member(file: int, start: int, file_bytes: int) -> Header | None:
    """Return the member that begins at `start`, or None where a block of zeros ends the archive."""
    position = start
    said: dict[str, str] = {}  # by extended headers: path, size, sparse; the first one counts, as for tarfile
    while True:
        block = _header_block(file, position, file_bytes)
        if block == _ZEROS:
            if position > start:
                raise TarDamageError(position, "an extended header is followed by no member")
            return None
        kind, size = block[156:157], _size(block, position)
        payload = position + BLOCK_BYTES
        if kind not in _EXTENDED:
            return _header(block, said, start, payload, size, file_bytes)
        if size > _MOST_EXTENDED_BYTES:
            raise TarDamageError(position, f"an extended header claims {size:,} bytes")
        content = os.pread(file, padded(size), payload)
        if len(content) < padded(size):
            raise TarDamageError(position, f"the file ends at byte {file_bytes:,}, inside an extended header")
        if content[size:].strip(b"\0"):
            raise TarDamageError(position, f"an extended header claims {size:,} bytes and has more")
        said = _extended(kind, content[:size], position) | said
        position = payload + padded(size)


def _header_block(file: int, position: int, file_bytes: int) -> bytes:
    """Return the block at `position`: zeros, or a header whose checksum is right."""
    block = os.pread(file, BLOCK_BYTES, position)
    if len(block) < BLOCK_BYTES:
        if block:
            raise TarDamageError(position, f"the file ends at byte {file_bytes:,}, inside a header")
        raise TarDamageError(file_bytes, "the end-of-archive marker is missing")
    if block != _ZEROS:
        checksum = _OCTAL.fullmatch(block[148:156])
        if not checksum or int(checksum[1] or b"0", 8) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            raise TarDamageError(position, "no tar header (its checksum is wrong)")
        for field in (block[start:end] for start, end in _OTHER_NUMBERS):
            if field[0] not in _BINARY and not _OCTAL.fullmatch(field.partition(b"\0")[0]):
                raise TarDamageError(position, f"no tar header ({field!r} where a number must be)")
    return block


def _size(block: bytes, position: int) -> int:
    """Parse the size: octal digits, or from 8 GiB on a binary number marked by its first bit (GNU)."""
    field = block[124:136]
    if field[0] == _BINARY[0]:
        return int.from_bytes(field[1:], "big")
    octal = _OCTAL.fullmatch(field)
    if not octal:
        raise TarDamageError(position, f"a header claims a size of {field!r}, which is none")
    return int(octal[1] or b"0", 8)


def _extended(kind: bytes, content: bytes, position: int) -> dict[str, str]:
    """Return what an extended header says about the member after it."""
    if kind == _LONG_LINK:
        return {}
    if kind == _LONG_NAME:
        return {"path": _text(content)}
    records = dict(_pax_records(content, position))
    said = {name: value for name, value in records.items() if name in ("path", "size")}
    if any(name.startswith("GNU.sparse.") for name in records):
        said["sparse"] = ""
    if kind == _PAX_GLOBAL:
        if said:
            raise TarDamageError(position, f"a global header gives all members the same {', '.join(said)}")
        return {}
    return said


def _pax_records(content: bytes, position: int) -> Iterator[tuple[str, str]]:
    """Yield keyword and value of each `LENGTH KEYWORD=VALUE` line; LENGTH counts the whole line."""
    start = 0
    while start < len(content):
        length = _RECORD_LENGTH.match(content, start)
        end = start + int(length[1]) if length else 0
        keyword, equals, value = content[length.end() if length else 0 : end].partition(b"=")
        if not equals or value[-1:] != b"\n" or end > len(content):
            raise TarDamageError(position, f"an extended header has a broken line at its byte {start}")
        yield keyword.decode("utf-8", "surrogateescape"), value[:-1].decode("utf-8", "surrogateescape")
        start = end


def _header(block: bytes, said: dict[str, str], start: int, payload: int, size: int, file_bytes: int) -> Header:
    if "size" in said:
        if not re.fullmatch("[0-9]{1,18}", said["size"]):
            raise TarDamageError(start, f"an extended header claims a size of {said['size'][:40]!r}, which is none")
        size = int(said["size"])
    name = said["path"] if "path" in said else _short_name(block)
    kind = _kind(block[156:157], name, "sparse" in said)
    if kind == "folder":
        size = 0
    if payload + size > file_bytes:
        raise TarDamageError(
            start, f"{name!r} should have {size:,} bytes, but the file ends at {file_bytes:,}: the shard was cut"
        )
    return Header(name, kind, start, payload, size)


def _kind(flag: bytes, name: str, sparse: bool) -> str:
    if sparse:
        return _OTHER_KINDS[b"S"]
    if flag == _FOLDER or (flag == b"\0" and name.endswith("/")):
        return "folder"
    return "" if flag in _REGULAR else _OTHER_KINDS.get(flag, f"of an unknown kind ({flag!r})")


def _short_name(block: bytes) -> str:
    name, prefix = _text(block[:100]), _text(block[345:500])
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def is_header_of(block: bytes, key: str, size: int) -> bool:
    """Return whether the block right before a payload still heads a member of sample `key` with `size` bytes.

    Cheap enough (about a microsecond) for every read. A name that is long or not ASCII may stand in an extended
    header instead, so it is not compared.
    """
    octal = _OCTAL.fullmatch(block[124:136])
    if not octal or int(octal[1] or b"0", 8) != size:
        return False
    start = f"{key}."
    return len(start) > _SURELY_IN_PLACE or not start.isascii() or block.startswith(start.encode())


def _require_end_marker(file: int, end: int, file_bytes: int) -> None:
    """At the end: two blocks of zeros, zeros to the end of the record of 20 blocks at most, and nothing else."""
    position = end
    while chunk := os.pread(file, 1 << 20, position):
        if chunk.strip(b"\0"):
            first = position + len(chunk) - len(chunk.lstrip(b"\0"))
            raise TarDamageError(end, f"no tar header but zeros, and data follows at byte {first}")
        position += len(chunk)
    if file_bytes - end < 2 * BLOCK_BYTES:
        raise TarDamageError(file_bytes, "the end-of-archive marker is missing")
    if file_bytes - end > _MOST_END_BYTES:
        raise TarDamageError(
            end,
            f"{file_bytes - end:,} bytes of zeros to the end, where tar writes at most {_MOST_END_BYTES:,}: the trace "
            "of a copy that broke off (or of tar's option -b: pack without it)",
        )
