"""Shards and indexes as an attacker or a failing disk writes them: always a DataError, never a hang or a wrong answer."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from webdataset import autodecode

from megabatch.data.errors import DataError
from megabatch.data.tar_index import PICKLE_EXTENSIONS, index_tar, read_index, sample_table, write_index

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


def size_that_is_no_number(header: bytearray) -> None:
    header[124:136] = b"0000000_700\0"


def size_of_eight_exabytes(header: bytearray) -> None:
    header[124:136] = b"\x80\0\0\0" + (1 << 63).to_bytes(8, "big")


def pax_of_a_gigabyte(header: bytearray) -> None:
    header[124:136] = b"%011o\0" % (1 << 30)
    header[156:157] = tarfile.XHDTYPE


def pax_without_records(header: bytearray) -> None:
    header[156:157] = tarfile.XHDTYPE


def kind(flag: bytes) -> Callable[[bytearray], None]:
    def change(header: bytearray) -> None:
        header[156:157] = flag

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (negative_size, "a header claims a size of .*, which is none"),
        (size_that_is_no_number, "a header claims a size of .*, which is none"),
        (size_of_eight_exabytes, "should have 9,223,372,036,854,775,808 bytes, but the file ends"),
        (long_name_of_a_gigabyte, "an extended header claims 1,073,741,824 bytes"),
        (pax_of_a_gigabyte, "an extended header claims 1,073,741,824 bytes"),
        (pax_without_records, "an extended header has a broken line at its byte 0"),
        (sparse, "is a sparse file"),
        (kind(b"1"), "is a hard link: pack the file itself"),
        (kind(b"2"), "is a symbolic link: pack the file itself"),
        (kind(b"3"), "is a character device"),
        (kind(b"4"), "is a block device"),
        (kind(b"6"), "is a named pipe"),
        (kind(b"M"), r"is of an unknown kind \(b'M'\)"),
        (not_utf8, "not UTF-8: rename the file"),
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
    assert str(caught.value).startswith(f"{path}: byte {second}")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"\x1f\x8b\x08", "gzip data: unpack it"),
        (b"BZh9", "bzip2 data: unpack it"),
        (b"\x28\xb5\x2f\xfd", "zstd data: unpack it"),
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


def test_a_sparse_header_at_the_very_end_is_refused_without_following_its_map(tmp_path: Path) -> None:
    """tarfile raises IndexError here: the map goes on in a block that is not there."""
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.GNU_FORMAT))
    header[156:157], header[482] = tarfile.GNUTYPE_SPARSE, 1
    (tmp_path / "a.tar").write_bytes(with_checksum(bytes(header)))
    with pytest.raises(DataError, match=r"byte 0: 'a\.jpg' is a sparse file"):
        index_tar(tmp_path / "a.tar")


def pax(path: Path, records: bytes, flag: bytes = tarfile.XHDTYPE) -> Path:
    info = tarfile.TarInfo("x")
    info.type, info.size = flag, len(records)
    padding = bytes(-len(records) % BLOCK)
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + records + padding + shard(path).read_bytes())
    return path


@pytest.mark.parametrize(
    ("records", "flag", "message"),
    [
        (b"12 size=700\n", tarfile.XHDTYPE, ""),
        (b"25 path=c/0000.other.jpg\n", tarfile.XHDTYPE, ""),
        (b"15 comment=abc\n", tarfile.XGLTYPE, ""),
        (b"1" * 60_000, tarfile.XHDTYPE, "a broken line at its byte 0"),  # three seconds in tarfile
        (b"12 size=7_0\n", tarfile.XHDTYPE, "claims a size of '7_0'"),
        (b"12 size=-70\n", tarfile.XHDTYPE, "claims a size of '-70'"),
        (b"10 size=700\n", tarfile.XHDTYPE, "a broken line at its byte 0"),
        (b"0 size=700\n", tarfile.XHDTYPE, "a broken line"),
        (b"12 size=700\n99 path=a\n", tarfile.XHDTYPE, "a broken line at its byte 12"),
        (b"22 GNU.sparse.major=1\n", tarfile.XHDTYPE, "is a sparse file"),
        (b"18 path=../../x.y\n", tarfile.XHDTYPE, "leads out of the archive"),
        (b"12 size=700\n", tarfile.XGLTYPE, "a global header gives all members the same size"),
        (b"25 path=c/0000.other.jpg\n", tarfile.XGLTYPE, "a global header gives all members the same path"),
    ],
)
def test_extended_headers_are_read_to_the_letter_or_refused(
    tmp_path: Path, records: bytes, flag: bytes, message: str
) -> None:
    path = pax(tmp_path / "a.tar", records, flag)
    if message:
        with pytest.raises(DataError, match=message):
            index_tar(path)
    else:
        with tarfile.open(path) as tar:
            theirs = [(info.name, info.offset_data, info.size) for info in tar]
        assert [(m.name, m.offset, m.size) for sample in index_tar(path) for m in sample.members] == theirs


def test_an_extended_header_needs_a_member_after_it(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(20 * BLOCK))
    with pytest.raises(DataError, match="an extended header is followed by no member"):
        index_tar(tmp_path / "a.tar")


def test_a_tail_of_zeros_is_no_end_marker(tmp_path: Path) -> None:
    """What a broken-off copy into a file of the full size leaves; tarfile and GNU tar take it for the end."""
    path = shard(tmp_path / "a.tar", samples=40)
    raw = path.read_bytes()
    cut = index_tar(path)[3].members[0].offset - BLOCK
    path.write_bytes(raw[:cut] + bytes(len(raw) - cut))
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 6
    with pytest.raises(DataError, match=rf"byte {cut}, after 'c/0002\.cls': .* bytes of zeros to the end"):
        index_tar(path)


@pytest.mark.parametrize("blocks", [2, 3, 21])
def test_the_end_marker_may_be_padded_to_a_record(tmp_path: Path, blocks: int) -> None:
    path = shard(tmp_path / "a.tar")
    last = index_tar(path)[-1].members[-1]
    path.write_bytes(path.read_bytes()[: last.offset + BLOCK] + bytes(blocks * BLOCK))
    assert len(index_tar(path)) == 6


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_with_the_name_of_a_shard_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(DataError, match="no regular file"):
        index_tar(tmp_path / "a.tar")


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


def write(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"1234"))
    return path


@pytest.mark.parametrize(
    "name", ["a.pyd", "a.pkl", "a.PICKLE", "a.pth", "a.pt", "a.meta.pyd", "a.pyd.gz", "c/a.pth.GZ"]
)
def test_a_pickle_is_refused_with_the_member_and_a_command_that_takes_it_out(tmp_path: Path, name: str) -> None:
    folder = name[: name.rfind("/") + 1]
    path = write(tmp_path / "my shard.tar", [f"{folder}a.cls", f"{folder}a.png", name, "b.cls", "b.json.gz", "b.png"])
    with pytest.raises(DataError, match=f"'{name}' is a pickle, which runs code when it is opened") as caught:
        index_tar(path)
    subprocess.run(shlex.split(str(caught.value).partition("with: ")[2]), check=True)
    assert [len(sample.members) for sample in index_tar(path)] == [2, 3]


def test_every_extension_that_webdataset_unpickles_is_refused() -> None:
    unsafe = {"unpickle_loads", "torch_loads"}
    opened = {
        extension
        for extension, decoder in autodecode.decoders.items()
        if unsafe & {decoder.__name__, *decoder.__code__.co_names}
    }
    assert opened == set(PICKLE_EXTENSIONS) - {"pt"}


def test_other_members_are_indexed_and_left_alone(tmp_path: Path) -> None:
    others = ["npy", "npz", "json", "txt", "seg.png", "ten", "pydantic", "pkl.txt"]
    samples = index_tar(write(tmp_path / "a.tar", [f"a.{e}" for e in ["cls", "png", *others]]))
    assert [member.extension for member in samples[0].members] == ["cls", "png", *others]
    assert sample_table(samples, "a.tar").image_size.tolist() == [4]


@pytest.mark.parametrize(("image", "label"), [(b"", b"0"), (b"x", b"")])
def test_an_empty_image_or_label_is_told_with_its_sample(tmp_path: Path, image: bytes, label: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, payload in (("a.jpg", image), ("a.cls", label)):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    with pytest.raises(
        DataError, match=rf"sample a has \.jpg of {len(image)} bytes, \.cls of {len(label)} bytes: needed are"
    ):
        sample_table(index_tar(path), str(path))
