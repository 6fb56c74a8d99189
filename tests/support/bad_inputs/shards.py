"""Shards: what is wrong in a tar file."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

from support.bad_inputs.bad import Bad, override

INDEX = ("data", "index", "shards")


def _shards(**content: bytes) -> Callable[[Path], object]:
    """Write shards/train-0.tar and so on."""

    def make(folder: Path) -> None:
        (folder / "shards").mkdir()
        for name, raw in content.items():
            (folder / "shards" / f"{name.replace('_', '-')}.tar").write_bytes(raw)

    return make


def tar(*members: tuple[str | bytes, bytes]) -> bytes:
    """Return a tar with these members, whatever their names."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as opened:
        for name, payload in members:
            info = tarfile.TarInfo(name if isinstance(name, str) else name.decode(errors="surrogateescape"))
            info.size = len(payload)
            opened.addfile(info, io.BytesIO(payload))
    return buffer.getvalue()


def _index(what: str, raw: bytes, *told: str) -> Bad:
    return Bad(f"shard: {what}", told, INDEX, _shards(train_0=raw))


GOOD = (("a.cls", b"0"), ("a.jpg", b"x"))
OF_SHARDS = [
    _index("an empty file", b"", "train-0.tar: byte 0: not a plain tar file but an empty one", "copy it again"),
    _index("nothing in it", bytes(10_240), "train-0.tar: ", "have no samples: remove them"),
    _index("no .cls", tar(*GOOD, ("b.jpg", b"x")), "train-0.tar: byte 2560: sample b has .jpg", "needed are one .cls"),
    _index("no image", tar(*GOOD, ("b.cls", b"0")), "sample b has .cls of 1 bytes: needed are one .cls and one image"),
    _index("two images", tar(*GOOD, ("a.png", b"x")), "sample a has", "one image", "pack again"),
    _index("two members of a kind", tar(*GOOD, ("a.jpg", b"y")), "sample a has two .jpg members: keep one of them"),
    _index("a class that is a word", tar(("a.cls", b"cat"), ("a.jpg", b"x")), "train-0.tar", "a", "cat"),
    _index("a class that is a fraction", tar(("a.cls", b"1.5"), ("a.jpg", b"x")), "train-0.tar", "1.5"),
    _index("a class below 0", tar(("a.cls", b"-1"), ("a.jpg", b"x")), "train-0.tar", "-1"),
    _index("a class beyond all", tar(("a.cls", b"9" * 30), ("a.jpg", b"x")), "train-0.tar"),
    _index("an empty class", tar(("a.cls", b""), ("a.jpg", b"x")), "sample a has .cls of 0 bytes"),
    _index("an empty image", tar(("a.cls", b"0"), ("a.jpg", b"")), "sample a has .cls of 1 bytes, .jpg of 0 bytes"),
    _index(
        "..", tar(("../a.cls", b"0"), ("../a.jpg", b"x")), "byte 0: '../a.cls' is a name that leads out of the archive"
    ),
    _index("an absolute name", tar(("/a.cls", b"0"), ("/a.jpg", b"x")), "'/a.cls' is a name that leads out"),
    _index("a name that is not UTF-8", tar((b"\xff.cls", b"0")), "is a name that is not UTF-8: rename the file"),
    _index("a line feed in a name", tar(("a\nb.cls", b"0")), "is a name with a space or control character"),
    _index("a name without an extension", tar(("a", b"0")), "a member needs a name and an extension"),
    _index(
        "a pickle", tar(*GOOD, ("a.pkl", b"cos\nsystem\n(S'touch canary'\ntR.")), "'a.pkl' is a pickle", "tar --delete"
    ),
    _index("gzip", gzip.compress(tar(*GOOD)), "gzip data: unpack it with gunzip"),
    _index("a bomb of gzip", gzip.compress(bytes(20_000_000)), "gzip data: unpack it with gunzip"),
    _index("xz", lzma.compress(tar(*GOOD)), "xz data: unpack it with unxz"),
    _index("a zip", b"PK\x03\x04" + bytes(1000), "a zip: unpack it and use `megabatch data import`"),
    _index("a web page", b"<html>" + bytes(1000), "an HTML or XML page", "download the shard again"),
    _index("cut", tar(*GOOD)[:1300], "train-0.tar: byte ", "copy it again"),
    Bad("shards: none", ("images: no .tar files in it. `megabatch data import",), ("data", "index", "images")),
    Bad("shards: no folder", ("nowhere",), ("data", "index", "nowhere")),
    override("a pattern for nothing", "data.path=data/{}.tar", "data/{}.tar"),
    override("a pattern without an end", "data.path=data/{0..9.tar", "data/{0..9.tar"),
    override(
        "a pattern for 10^9 shards",
        "data.path=data/train-{0..999999999}.tar",
        "{0..999999999}: names 1,000,000,000 shards or more",
    ),
    override(
        "a pattern for 10^12 shards", "data.path=data/{0..999999}{0..999999}.tar", "data/{0..999999}{0..999999}.tar"
    ),
    override("a pattern that matches nothing", "data.path=data/valid-*.tar", "matches no file. Correct data.path"),
    override("a shard twice", "data.path=data/train-000000.tar::data/train-000000.tar", "train-000000.tar"),
    override("a shard that is not there", "data.path=data/train-000009.tar", "train-000009.tar"),
    override("a pipe", "data.path='pipe:touch canary'", "pipe:", "Allowed are a path and"),
    override("ftp", "data.path=ftp://host/a.tar", "data is not read from ftp", "Allowed are a path and"),
    override("file: with a host", "data.path=file://host/a.tar", "names a host. Write file:///absolute/path"),
    override("s3: without a bucket", "data.path=s3:///a.tar", "names no bucket"),
    override("s3: with a key in it", "data.path=s3://key:planted@bucket/a.tar", "holds credentials"),
    override("nothing before ::", "data.path=::data", "nothing stands before or after a '::'"),
]
