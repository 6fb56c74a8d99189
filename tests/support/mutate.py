"""Whole tars and images, and what a failing disk or an attacker makes of them. Everything follows from a seed."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable

from support.damage import BLOCK, jpeg, photo_tiles, with_checksum

_TYPES = b"0\x007123456LKSxgXVMDNA"
_SIZES = (
    b"00000000000\0", b"77777777777\0", b"00000001000\0", b"00000000001 ", b"\x80" + bytes(11), b"\x80" + b"\xff" * 11,
    b"\xff" * 12, b"\xff" + bytes(11), b"-0000000001\0", b"0000000_010\0", bytes(12), b"99999999999\0",
)  # fmt: skip


def whole_tars() -> list[bytes]:
    """Return small shards in all formats: short, long and non-ASCII names, folders, several members a sample."""
    photo = jpeg(photo_tiles(1)[0].resize((16, 16)))
    tars = []
    for form, stems in (
        (tarfile.USTAR_FORMAT, ("a", "n01/b", "folder/" * 15 + "c")),
        (tarfile.GNU_FORMAT, ("a", "x" * 120, "köln/b")),
        (tarfile.PAX_FORMAT, ("a", "x" * 120, "köln/b", "n01/c")),
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            folder = tarfile.TarInfo("n01/")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for number, stem in enumerate(stems):
                for extension, payload in (("cls", str(number).encode()), ("jpg", photo), ("seg.png", b"x" * 512)):
                    info = tarfile.TarInfo(f"{stem}.{extension}")
                    info.size, info.mtime = len(payload), 0.5 if form == tarfile.PAX_FORMAT else 0
                    tar.addfile(info, io.BytesIO(payload))
        tars.append(buffer.getvalue())
    return tars


def whole_images() -> list[bytes]:
    """Return small images of every kind that is read: JPEGs of several encodings, PNGs of several modes, WebPs."""
    tile = photo_tiles(1)[0].resize((40, 24))
    images = []
    for kind, mode, options in (
        ("JPEG", "RGB", {"quality": 90}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}), ("JPEG", "RGB", {"subsampling": 0, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "LA", {}), ("PNG", "I;16", {}), ("PNG", "1", {}),
        ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        (tile.convert("L").convert("I;16") if mode == "I;16" else tile.convert(mode)).save(buffer, kind, **options)
        images.append(buffer.getvalue())
    frames = [tile, tile.rotate(90)]
    for kind in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        images.append(buffer.getvalue())
    return images


def mutated_tar(raw: bytes, seed: int) -> bytes:
    """Damage a tar in one to three ways; headers mostly get the checksum of what they then say."""
    chosen = random.Random(seed)
    for _ in range(chosen.randint(1, 3)):
        raw = chosen.choice((_header, _header, _header, _header, *_ANYWHERE))(bytearray(raw), chosen)
    return raw


def mutated_bytes(raw: bytes, seed: int) -> bytes:
    """Damage any file in one to three ways."""
    chosen = random.Random(seed)
    for _ in range(chosen.randint(1, 3)):
        raw = chosen.choice(_ANYWHERE)(bytearray(raw), chosen)
    return raw


def _header(raw: bytearray, chosen: random.Random) -> bytes:
    headers = [place for place in range(0, len(raw) - BLOCK, BLOCK) if raw[place + 257 : place + 262] == b"ustar"]
    if not headers:
        return bytes(raw)
    start = chosen.choice(headers)
    header = raw[start : start + BLOCK]
    what = chosen.randrange(6)
    if what == 0:
        header[124:136] = chosen.choice(_SIZES)
    elif what == 1:
        header[156] = chosen.choice(_TYPES)
    elif what == 2:
        header[124:136] = b"%011o\0" % chosen.choice((0, 1, 511, 512, 513, chosen.randrange(len(raw))))
    elif what == 3:  # an extended header, when there is one
        content = start + BLOCK + chosen.randrange(BLOCK)
        raw[content : content + 1] = chosen.choice((b"9", b"0", b"\n", b"=", b"\0", b" ", b"\xff", b"/", b"."))
    else:
        header[chosen.choice((*range(100), *range(124, 160), *range(257, 265), *range(345, 365)))] = chosen.randrange(
            256
        )
    raw[start : start + BLOCK] = with_checksum(bytes(header)) if chosen.random() < 0.9 else header
    return bytes(raw)


def _flip(raw: bytearray, chosen: random.Random) -> bytes:
    if raw:
        raw[chosen.randrange(len(raw))] ^= 1 << chosen.randrange(8)
    return bytes(raw)


def _overwrite(raw: bytearray, chosen: random.Random) -> bytes:
    start = chosen.randrange(len(raw) + 1)
    size = chosen.choice((1, 2, 4, 8, 64))
    raw[start : start + size] = chosen.choice((bytes(size), b"\xff" * size, chosen.randbytes(size)))
    return bytes(raw)


def _cut(raw: bytearray, chosen: random.Random) -> bytes:
    return bytes(raw[: chosen.randrange(len(raw) + 1)])


def _blocks(raw: bytearray, chosen: random.Random) -> bytes:
    """Remove, repeat, zero or swap whole blocks."""
    blocks = [bytes(raw[start : start + BLOCK]) for start in range(0, len(raw), BLOCK)] or [b""]
    first = chosen.randrange(len(blocks))
    last = min(first + chosen.randint(1, 6), len(blocks))
    other = chosen.randrange(len(blocks))
    replacement = chosen.choice(
        ([], blocks[first:last] * 2, [bytes(BLOCK)] * (last - first), blocks[other : other + last - first])
    )
    return b"".join([*blocks[:first], *replacement, *blocks[last:]])


def _append(raw: bytearray, chosen: random.Random) -> bytes:
    return bytes(raw) + chosen.choice((bytes(BLOCK), b"x", bytes(20_000), bytes(raw), chosen.randbytes(100)))


_ANYWHERE: tuple[Callable[[bytearray, random.Random], bytes], ...] = (_flip, _overwrite, _cut, _blocks, _append)
