"""The index of a shard: what webdataset reads is what is indexed, and no damage goes unnoticed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.data.errors import DataError
from megabatch.data.tar_index import index_tar, read_index, sample_table, write_index


def write_tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return path


names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Z", "C"), exclude_characters="/."), min_size=1, max_size=150
)
samples = st.lists(
    st.tuples(names, st.dictionaries(st.sampled_from(["jpg", "cls", "json", "seg.png"]), st.binary(max_size=1500), min_size=1)),
    min_size=1,
    max_size=6,
    unique_by=lambda sample: sample[0],
)  # fmt: skip


# webdataset leaves the file to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@settings(max_examples=60)
@given(samples, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_the_index_finds_the_members_that_webdataset_reads(
    tmp_path_factory: pytest.TempPathFactory, content: list[tuple[str, dict[str, bytes]]], form: int
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    members = [
        (f"class a/{key}.{ext}".replace(" ", "_"), data) for key, parts in content for ext, data in parts.items()
    ]
    path = write_tar(folder / "a.tar", members, form)
    found = index_tar(path)
    raw = path.read_bytes()
    ours = {s.key: {m.extension: raw[m.offset : m.offset + m.size] for m in s.members} for s in found}
    theirs = {
        sample["__key__"]: {k: v for k, v in sample.items() if not k.startswith("__")}
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    }
    assert ours == theirs
    write_index(found, folder / "a.idx")
    assert read_index(folder / "a.idx") == found


def test_the_idx_file_is_the_text_that_dalis_wds2idx_writes(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        [("a.jpg", b"x" * 600), ("a.cls", b"7"), ("b.jpg", b"y"), ("b.cls", b"0")],
        tarfile.USTAR_FORMAT,
    )
    write_index(index_tar(path), tmp_path / "a.idx")
    assert (tmp_path / "a.idx").read_text() == (
        "v1.2 2\njpg 512 600 a.jpg cls 2048 1 a.cls\njpg 3072 1 b.jpg cls 4096 1 b.cls\n"
    )


def test_members_of_a_sample_that_do_not_stand_together_are_an_error(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"0"), ("b.cls", b"0")])
    with pytest.raises(DataError, match="sample a comes twice, or its members are not side by side"):
        index_tar(path)


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "a/../../b.jpg", "a b.jpg", "noextension", ".jpg"])
def test_names_that_are_unsafe_or_break_the_index_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="name"):
        index_tar(write_tar(tmp_path / "a.tar", [(name, b"1")]))


def test_links_are_refused_and_folders_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("class0")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("class0/a.cls"), io.BytesIO())
    assert [sample.key for sample in index_tar(tmp_path / "a.tar")] == ["class0/a"]
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="is a symbolic link"):
        index_tar(tmp_path / "b.tar")


@pytest.mark.parametrize("text", ["", "v1.2", "v1.2 2\njpg 0 1 a.jpg\n", "v1.1 1\njpg 0 1 a.jpg\n", "v1.2 1\njpg 0 x a.jpg\n",
                                  "v1.2 1\njpg 0 1\n"])  # fmt: skip
def test_a_damaged_idx_is_an_error_that_names_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(DataError, match=r"not a whole index .* Make it again with `megabatch data index"):
        read_index(tmp_path / "a.idx")


@pytest.mark.parametrize("extensions", [["jpg"], ["cls"], ["jpg", "png", "cls"], ["txt"]])
def test_a_sample_needs_one_image_and_one_label(tmp_path: Path, extensions: list[str]) -> None:
    found = index_tar(write_tar(tmp_path / "a.tar", [(f"a.{e}", b"1") for e in extensions]))
    with pytest.raises(DataError, match=r"needed are one .cls and one image"):
        sample_table(found, "a.tar")
