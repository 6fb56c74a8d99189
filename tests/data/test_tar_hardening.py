"""Shards and indexes as an attacker or a failing disk writes them: always a DataError, never a hang or a wrong answer."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from megabatch.data.errors import DataError
from megabatch.data.tar_index import index_tar, read_index, sample_table, write_index

BLOCK = 512


def shard(path: Path, samples: int = 6) -> Path:
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            for extension, payload in (("jpg", bytes([number + 1]) * 700), ("cls", b"1")):
                info = tarfile.TarInfo(f"c/{number:04d}.{extension}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
    return path


def with_checksum(header: bytes) -> bytes:
    total = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    return header[:148] + b"%06o\0 " % total + header[156:]


def change_header(path: Path, offset: int, change: Callable[[bytearray], None]) -> None:
    raw = bytearray(path.read_bytes())
    header = raw[offset : offset + BLOCK]
    change(header)
    raw[offset : offset + BLOCK] = with_checksum(bytes(header))
    path.write_bytes(raw)


def negative_size(header: bytearray) -> None:
    header[124:136] = (-4 * BLOCK).to_bytes(12, "big", signed=True)


def long_name_of_a_gigabyte(header: bytearray) -> None:
    header[124:136] = b"%011o\0" % (1 << 30)
    header[156:157] = tarfile.GNUTYPE_LONGNAME


def sparse(header: bytearray) -> None:
    header[156:157] = tarfile.GNUTYPE_SPARSE


def not_utf8(header: bytearray) -> None:
    header[:10] = b"c/\xff\xfe01.jpg"


def device(header: bytearray) -> None:
    header[156:157] = tarfile.CHRTYPE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (negative_size, "a header claims -2,048 bytes"),
        (long_name_of_a_gigabyte, "a header claims 1,073,741,824 bytes"),
        (sparse, "a sparse file"),
        (not_utf8, "not UTF-8: rename the file"),
        (device, "a link or device"),
    ],
)
def test_a_header_that_misleads_is_refused_at_its_byte(
    tmp_path: Path, change: Callable[[bytearray], None], message: str
) -> None:
    path = shard(tmp_path / "a.tar")
    second = index_tar(path)[1].members[0].offset - BLOCK
    change_header(path, second, change)
    with pytest.raises(DataError, match=message) as caught:
        index_tar(path)
    assert str(caught.value).startswith(f"{path}: byte {second}: ")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"\x1f\x8b\x08", "gzip data: unpack it"),
        (b"\xfd7zXZ\0", "xz data: unpack it"),
        (b"PK\x03\x04", "a zip"),
        (b"\n<!DOCTYPE html>", "an HTML or XML page.*download the shard again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_what_is_no_tar_is_called_by_its_name(tmp_path: Path, start: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(start + b"x" * 2000)
    with pytest.raises(DataError, match=message):
        index_tar(tmp_path / "a.tar")


def test_a_missing_shard_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no.tar", tmp_path):
        with pytest.raises(DataError, match=f"{path}: cannot be read"):
            index_tar(path)


def test_random_damage_gives_an_index_of_what_is_there_or_an_error(tmp_path: Path) -> None:
    good = shard(tmp_path / "good.tar").read_bytes()
    generator = random.Random(0)
    bad = tmp_path / "bad.tar"
    for _ in range(1500):
        raw = bytearray(good)
        for _ in range(generator.randint(1, 3)):
            start = generator.randrange(0, len(raw), BLOCK)
            header = raw[start : start + BLOCK]
            header[generator.choice([*range(124, 136), 156, *range(20)])] = generator.randrange(256)
            raw[start : start + BLOCK] = with_checksum(bytes(header))
        bad.write_bytes(raw[: generator.randrange(BLOCK, 2 * len(raw))])
        try:
            samples = index_tar(bad)
        except DataError:
            continue
        for member in (member for sample in samples for member in sample.members):
            assert 0 < member.offset <= member.offset + member.size <= len(good)


def test_one_wrong_digit_in_an_offset_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.idx"
    write_index(index_tar(shard(tmp_path / "a.tar", samples=40)), file)
    text = file.read_text()
    table = read_index(file)
    for sample in table[::7]:
        for member in sample.members:
            for digit in "0123456789":
                wrong = f" {str(member.offset)[:-4]}{digit}{str(member.offset)[-3:]} {member.size} "
                right = f" {member.offset} {member.size} "
                if wrong == right or len(str(member.offset)) < 4:
                    continue
                file.write_text(text.replace(right, wrong))
                with pytest.raises(DataError, match="cannot lie at byte"):
                    read_index(file)


@pytest.mark.parametrize(
    "text",
    [
        "v1.2 1\njpg 512 -1 a.jpg\n",
        "v1.2 1\njpg 512 5 a.jpg cls 512 1 a.cls\n",
        "v1.2 1\njpg 512 5 a.jpg cls 1536 1 b.cls\n",
        "v1.2 1\njpg 512 99999999999999999999 a.jpg\n",
        "v1.2 1\njpg 512 5 a.jpg",
        "v1.2 2\njpg 512 5 a.jpg\n\n",
        "v1.2 1 1\njpg 512 5 a.jpg\n",
        "\xff",
    ],
)
def test_an_index_that_cannot_be_true_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.idx").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"not a whole index .* Make it again with `megabatch data index"):
        read_index(tmp_path / "a.idx")


def test_an_empty_image_is_told_with_its_sample(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
        info = tarfile.TarInfo("a.cls")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"0"))
    with pytest.raises(DataError, match=r"sample a has \.jpg of 0 bytes, \.cls of 1 bytes: needed are"):
        sample_table(index_tar(path), str(path))


def test_pickles_are_indexed_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, payload in (("a.cls", b"3"), ("a.png", b"\x89PNG"), ("a.pyd", b"cos\nsystem\n(S'false'\ntR.")):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    samples = index_tar(path)
    assert [member.extension for member in samples[0].members] == ["cls", "png", "pyd"]
    assert sample_table(samples, str(path)).image_size.tolist() == [4]
