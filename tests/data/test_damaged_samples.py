"""One sample out of order: broken and oversized images, labels that are none, and what is no plain tar of files."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from webdataset import TarWriter

from megabatch.data.augment.chain import decoding_chain
from megabatch.data.dataset import Dataset
from megabatch.data.decode import decode_image
from megabatch.data.errors import DataError
from megabatch.data.indexing import index_shards, verify
from megabatch.data.loader import Loader
from megabatch.data.read import SplitReader
from megabatch.data.requests import evaluation_requests
from megabatch.data.tar_index import index_tar
from support.damage import TILE, jpeg, photo_tiles

PHOTO = jpeg(photo_tiles(1)[0])
LIMIT = 100_000_000  # data.max_image_pixels unless a recipe says otherwise


def no_progress(done: int, total: int) -> None:
    pass


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    photo_tiles(1)[0].save(buffer, kind, **options)
    return buffer.getvalue()


def dataset_of(folder: Path, image: bytes, label: bytes = b"0", kind: str = "jpg") -> Dataset:
    """Index a shard of a good sample, the given one and another good one."""
    with TarWriter(str(folder / "train-000000.tar"), encoder=False) as tar:
        for key, payload, text, extension in (
            ("a", PHOTO, b"0", "jpg"), ("b", image, label, kind), ("c", PHOTO, b"1", "jpg")
        ):  # fmt: skip
            tar.write({"__key__": key, extension: payload, "cls": text})
    return index_shards(folder, None, no_progress)


def load(dataset: Dataset) -> list[int]:
    reader = SplitReader(dataset.folder, dataset.split("train"))
    loader = Loader(reader, decoding_chain([], TILE, LIMIT), TILE, 10, seed=0, threads=1)
    return [int(n) for batch in loader.load(evaluation_requests(3, 2, 0, 1)) for n in batch.labels_N]


def marker(code: int) -> Callable[[bytes], bytes]:
    """Replace the start-of-scan marker by another one."""
    return lambda raw: raw.replace(b"\xff\xda", bytes([0xFF, code]), 1)


SCAN = PHOTO.index(b"\xff\xda")
BROKEN_JPEGS = {
    "cut after the first bytes": lambda raw: raw[:20],
    "cut in the tables": lambda raw: raw[: SCAN - 100],
    "cut in the scan": lambda raw: raw[: (SCAN + len(raw)) // 2],
    "without its end": lambda raw: raw[:-2],
    "garbage in the tables": lambda raw: raw[:60] + b"\xa5" * 200 + raw[260:],
    "garbage in the scan": lambda raw: raw[: SCAN + 400] + b"\xa5\xff\xd3\x00" * 50 + raw[SCAN + 600 :],
    "a start of frame for a start of scan": marker(0xC0),
    "an end of image for a start of scan": marker(0xD9),
    "zeros from the scan on": lambda raw: raw[: SCAN + 20].ljust(len(raw), b"\0"),
    "zeros": lambda raw: bytes(len(raw)),
    "text": lambda raw: b"404: Not Found",
    "only the first marker": lambda raw: b"\xff\xd8\xff",
}


@pytest.mark.parametrize("kind", BROKEN_JPEGS)
def test_a_broken_jpeg_stops_training_and_is_listed_by_verify_with_shard_and_key(tmp_path: Path, kind: str) -> None:
    dataset = dataset_of(tmp_path, BROKEN_JPEGS[kind](PHOTO))
    where = re.compile(re.escape(str(tmp_path / "train-000000.tar")) + r": byte \d+: sample b: .")
    (problem,) = verify(dataset, no_progress, decode=True)
    assert where.match(problem)
    with pytest.raises(DataError, match=r"megabatch data verify --decode .* lists all such") as caught:
        load(dataset)
    assert where.match(str(caught.value))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_image_is_decoded_by_its_content_whatever_it_is_called(tmp_path: Path, kind: str) -> None:
    dataset = dataset_of(tmp_path, encoded(kind), kind="jpg")
    assert load(dataset) == [0, 0, 1]
    assert verify(dataset, no_progress, decode=True) == []


@pytest.mark.parametrize("kind", ["PPM", "EPS", "ICO", "PCX"])
def test_other_formats_under_the_name_of_a_jpeg_are_not_opened(kind: str) -> None:
    with pytest.raises(ValueError, match="not a JPEG, PNG, WebP, BMP, GIF or TIFF image"):
        decode_image(encoded(kind), LIMIT)


def png_claiming(side: int) -> bytes:
    raw = bytearray(encoded("PNG"))
    raw[16:24] = struct.pack(">II", side, side)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return bytes(raw)


def jpeg_claiming(side: int) -> bytes:
    frame = PHOTO.index(b"\xff\xc0") + 5
    return PHOTO[:frame] + struct.pack(">HH", side, side) + PHOTO[frame + 4 :]


def webp_claiming(side: int) -> bytes:
    body = encoded("WEBP", lossless=True)[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + 2 * (side - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(body)) + b"WEBP" + canvas + body


@pytest.mark.parametrize("claiming", [png_claiming, jpeg_claiming, webp_claiming])
@pytest.mark.parametrize("side", [20_000, 60_000])
def test_a_header_that_claims_a_huge_image_costs_no_memory(claiming: Callable[[int], bytes], side: int) -> None:
    payload = claiming(side)
    assert len(payload) < 20_000
    with pytest.raises(ValueError, match=f"{side} x {side} pixels are more than|broken image"):
        decode_image(payload, LIMIT)


@pytest.mark.parametrize(("side", "limit"), [(9_700, LIMIT), (14_000, 2 * LIMIT)])
def test_the_limit_of_the_recipe_is_the_only_one(side: int, limit: int) -> None:
    """Pillow warns from 89 million pixels on, and refuses from 179 million on whatever the recipe allows."""
    with pytest.raises(ValueError, match=r"truncated|broken data stream"):
        decode_image(png_claiming(side), limit)


@pytest.mark.parametrize("chunk", [b"zTXt", b"iCCP"])
def test_a_png_with_a_bomb_in_its_text_is_an_error(chunk: bytes) -> None:
    raw = encoded("PNG")
    content = b"k\0\0" + zlib.compress(bytes(50 << 20))
    bomb = struct.pack(">I", len(content)) + chunk + content + struct.pack(">I", zlib.crc32(chunk + content))
    with pytest.raises(ValueError, match="too large"):
        decode_image(raw[:33] + bomb + raw[33:], LIMIT)


@pytest.mark.parametrize("text", [b"7", b"7\n", b" 7\r\n", b"007"])
def test_a_label_may_have_white_space_around_it(tmp_path: Path, text: bytes) -> None:
    assert load(dataset_of(tmp_path, PHOTO, text)) == [0, 7, 1]


@pytest.mark.parametrize(
    "text", [b"cat", b"1.0", b"0x1", b"1 2", b"\xef\xbb\xbf1", b"\xff", b"9" * 5000, "٣".encode(), b"[1]", b"\x00"]
)
def test_what_is_no_integer_is_refused_when_it_is_indexed(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(DataError, match=r"train-000000.tar: .*b\.cls: .* is no integer"):
        dataset_of(tmp_path, PHOTO, text)


@pytest.mark.parametrize("text", [b"-1", b"+1", b"1_0", b"9" * 30])
def test_a_label_is_written_in_digits_alone(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(DataError, match=r"train-000000.tar: byte \d+: b\.cls: .* is no integer from 0 up"):
        dataset_of(tmp_path, PHOTO, text)


def packed(folder: Path) -> bytes:
    dataset_of(folder, PHOTO)
    return (folder / "train-000000.tar").read_bytes()


@pytest.mark.parametrize(
    ("compress", "remedy"),
    [(gzip.compress, "gunzip"), (bz2.compress, "bunzip2"), (lzma.compress, "unxz"),
     (lambda raw: subprocess.run(["zstd", "-q", "-c"], input=raw, capture_output=True, check=True).stdout, "unzstd")],
    ids=["gz", "bz2", "xz", "zst"],
)  # fmt: skip
def test_a_compressed_shard_is_refused_with_the_command_that_unpacks_it(
    tmp_path: Path, compress: Callable[[bytes], bytes], remedy: str
) -> None:
    raw = packed(tmp_path)
    try:
        (tmp_path / "train-000000.tar").write_bytes(compress(raw))
    except FileNotFoundError:
        pytest.skip("zstd is not installed")
    with pytest.raises(DataError, match=f"byte 0: not a plain tar file but .* data: unpack it with {remedy}"):
        index_shards(tmp_path, None, no_progress)


def test_a_zip_under_the_name_of_a_tar_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train-0.tar", "w") as archive:
        archive.writestr("a.jpg", PHOTO)
    with pytest.raises(DataError, match="but a zip: unpack it and use `megabatch data import`"):
        index_shards(tmp_path, None, no_progress)


def test_a_tar_in_a_tar_is_refused_as_a_sample_without_image_and_label(tmp_path: Path) -> None:
    inner = packed(tmp_path)
    with TarWriter(str(tmp_path / "train-000000.tar"), encoder=False) as tar:
        tar.write({"__key__": "inner", "tar": inner})
    with pytest.raises(DataError, match=r"byte \d+: sample inner has \.tar of [\d,]+ bytes: needed are one \.cls"):
        index_shards(tmp_path, None, no_progress)


def as_link(info: tarfile.TarInfo, folder: Path) -> None:
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0


def as_hard_link(info: tarfile.TarInfo, folder: Path) -> None:
    info.type, info.linkname, info.size = tarfile.LNKTYPE, "a.jpg", 0


def as_pipe(info: tarfile.TarInfo, folder: Path) -> None:
    info.type, info.size = tarfile.FIFOTYPE, 0


def as_device(info: tarfile.TarInfo, folder: Path) -> None:
    info.type, info.size, info.devmajor = tarfile.CHRTYPE, 0, 1


def as_absolute(info: tarfile.TarInfo, folder: Path) -> None:
    info.name = f"{folder}/b.jpg"


def as_climbing(info: tarfile.TarInfo, folder: Path) -> None:
    info.name = "../../etc/b.jpg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (as_link, "'b.jpg' is a symbolic link: pack the file itself"),
        (as_hard_link, "'b.jpg' is a hard link: pack the file itself"),
        (as_pipe, "'b.jpg' is a named pipe"),
        (as_device, "'b.jpg' is a character device"),
        (as_absolute, "leads out of the archive: pack with relative names"),
        (as_climbing, "leads out of the archive: pack with relative names"),
    ],
)
def test_members_that_are_no_files_inside_the_archive_are_refused(
    tmp_path: Path, change: Callable[[tarfile.TarInfo, Path], None], message: str
) -> None:
    path = tmp_path / "train-0.tar"
    with tarfile.open(path, "w") as tar:
        for name, payload in (("a.cls", b"0"), ("a.jpg", PHOTO), ("b.jpg", PHOTO)):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            if name == "b.jpg":
                change(info, tmp_path)
            tar.addfile(info, io.BytesIO(payload) if info.size else None)
    with pytest.raises(DataError, match=rf"train-0\.tar: byte \d+: .*{message}"):
        index_shards(tmp_path, None, no_progress)


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_sparse_file_as_gnu_tar_packs_it_is_refused(tmp_path: Path, form: str) -> None:
    (tmp_path / "a.cls").write_text("0")
    with (tmp_path / "a.jpg").open("wb") as file:
        file.write(PHOTO)
        os.truncate(file.fileno(), 4 << 20)
    command = ["tar", "--sparse", f"--format={form}", "-C", str(tmp_path), "-cf", str(tmp_path / "a.tar")]
    subprocess.run([*command, "a.cls", "a.jpg"], check=True)
    assert (tmp_path / "a.tar").stat().st_size < 1 << 20
    with pytest.raises(DataError, match="is a sparse file, whose bytes are not all there"):
        index_tar(tmp_path / "a.tar")
