"""Streams: every sample of a pass comes, each rank has shards of its own, and commands run only if they are allowed."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from megabatch.data.dataset import Dataset
from megabatch.data.errors import DataError
from megabatch.data.read import SplitReader
from megabatch.data.stream import StreamReader
from megabatch.data.stream_order import expand
from support.shards import dataset


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("stream"), {"train": 35})


def tars(described: Dataset) -> list[str]:
    return [str(described.folder / shard.file) for shard in described.split("train").shards]


def contents(described: Dataset) -> set[tuple[str, bytes, int]]:
    reader = SplitReader(described.folder, described.split("train"))
    samples = [reader.read(number) for number in range(35)]
    return {(sample.key, bytes(sample.image), sample.label) for sample in samples}


def drawn(reader: StreamReader, number: int) -> list[tuple[str, bytes, int]]:
    samples = [reader.read(0) for _ in range(number)]
    return [(sample.key, bytes(sample.image), sample.label) for sample in samples]


@pytest.mark.parametrize("kind", ["file", "pipe", "gzip"])
def test_a_pass_has_every_sample_and_then_it_begins_again(small: Dataset, tmp_path: Path, kind: str) -> None:
    urls = tars(small)
    if kind == "pipe":
        urls = [f"pipe:cat {url}" for url in urls]
    if kind == "gzip":
        for url in urls:
            (tmp_path / f"{Path(url).name}.gz").write_bytes(gzip.compress(Path(url).read_bytes()))
        urls = [str(file) for file in tmp_path.iterdir()]
    reader = StreamReader(urls, seed=0, rank=0, num_ranks=1, shuffle_buffer=10)
    first, second = drawn(reader, 35), drawn(reader, 35)
    assert set(first) == set(second) == contents(small)
    assert first != second


def test_ranks_share_the_shards_among_them(small: Dataset) -> None:
    samples = [drawn(StreamReader(tars(small), 0, rank, 2, 10), 20 if rank == 0 else 15) for rank in range(2)]
    assert set(samples[0]).isdisjoint(samples[1])
    assert set(samples[0]) | set(samples[1]) == contents(small)


def test_too_few_streams_for_the_ranks_are_told(small: Dataset) -> None:
    with pytest.raises(DataError, match="4 streams for 5 ranks"):
        StreamReader(tars(small), 0, 0, 5, 10)


def test_a_command_runs_only_if_it_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a shell command.*allow_pipe: true"):
        expand(f"pipe:touch {tmp_path}/ran", allow_pipe=False)
    assert expand("pipe:cat a-{0..2}.tar", allow_pipe=True) == [f"pipe:cat a-{n}.tar" for n in range(3)]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("url", ["http://host/a.tar", "s3://bucket/a.tar", "file:/etc/passwd"])
def test_other_schemes_are_not_for_streams(url: str) -> None:
    with pytest.raises(DataError, match=r"data\.path reads http, s3 and gs exactly"):
        expand(url, allow_pipe=True)


def test_a_command_that_fails_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match="broke off after 0 samples"):
        StreamReader(["pipe:cat /nowhere/a.tar"], 0, 0, 1, 10).read(0)


def test_pickled_members_stay_bytes_that_nobody_opens(small: Dataset, tmp_path: Path) -> None:
    import io
    import tarfile

    tar = tmp_path / "evil.tar"
    shutil.copy(tars(small)[0], tar)
    with tarfile.open(tar, "w") as archive:
        for name, payload in (("a.png", b"x"), ("a.cls", b"1"), ("a.pkl", b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    assert StreamReader([str(tar)], 0, 0, 1, 10).read(0).image == b"x"
    assert not Path("/tmp/owned").exists()
