"""The cache of a node: one download for all, right bytes or none, a limit that holds, and clear ends."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from megabatch.configs.cache import Cache
from megabatch.data.dataset import Dataset, Shard, Split
from megabatch.data.errors import DataError
from megabatch.data.read import EncodedSample, SplitReader
from megabatch.data.sources import room
from megabatch.data.sources.cache import ShardCache
from megabatch.data.sources.locks import if_free, locked
from megabatch.data.sources.room import make_room, named, part_path
from support import web as faults
from support.shards import dataset
from support.web import Handler, Web, serving

GIB = 1 << 30


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("local"), {"train": 60})


@pytest.fixture
def web(local: Dataset) -> Iterator[Web]:
    with serving(local.folder) as server:
        yield server


def settings(folder: Path, **changes: object) -> Cache:
    return Cache(folder=str(folder), attempts=3, timeout_seconds=2.0).model_copy(update=changes)


def remote(web: Web, local: Dataset, cache: ShardCache) -> Split:
    """Return the split as it is when its shards lie behind the server."""
    split = local.split("train")
    return replace(
        split, shards=tuple(replace(s, url=f"{web.url}/{s.file}?sig=SECRET") for s in split.shards), cache=cache
    )


def everything(reader: SplitReader) -> list[tuple[str, bytes, int]]:
    samples: list[EncodedSample] = [reader.read(number) for number in range(reader.samples)]
    return [(sample.key, bytes(sample.image), sample.label) for sample in samples]


def test_the_samples_are_those_of_the_local_folder_and_each_shard_is_loaded_once(
    web: Web, local: Dataset, tmp_path: Path
) -> None:
    split = remote(web, local, ShardCache(settings(tmp_path)))
    reader = SplitReader(local.folder, split)
    assert everything(reader) == everything(SplitReader(local.folder, local.split("train")))
    assert reader.read(0).shard == f"{web.url}/train-000000.tar"
    again = SplitReader(local.folder, remote(web, local, ShardCache(settings(tmp_path))))
    assert everything(again) == everything(reader)
    assert web.gets() == len(split.shards)


LOADER = """
import hashlib, os, sys
from megabatch.configs.cache import Cache
from megabatch.data.dataset import Shard
from megabatch.data.sources.cache import ShardCache
folder, url, samples, size, sha256 = sys.argv[1:]
cache = ShardCache(Cache(folder=folder, attempts=3, timeout_seconds=5.0))
sys.stdin.readline()
with cache.opened(Shard("train-000000.tar", int(samples), int(size), sha256, url)) as file:
    print(hashlib.sha256(os.pread(file, int(size), 0)).hexdigest())
"""


def loader(folder: Path, url: str, shard: Shard) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOADER, str(folder), url, str(shard.samples), str(shard.bytes), shard.sha256]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_want_a_shard_at_once_ask_for_it_once(web: Web, local: Dataset, tmp_path: Path) -> None:
    shard = local.split("train").shards[0]
    web.faults[f"/{shard.file}"] = [faults.slow_but_whole]
    processes = [loader(tmp_path, f"{web.url}/{shard.file}", shard) for _ in range(3)]
    told = [process.communicate("go\n", timeout=300)[0].strip() for process in processes]
    assert told == [shard.sha256] * 3
    assert web.gets() == 1


def test_what_a_killed_process_had_loaded_is_gone_on_with(web: Web, local: Dataset, tmp_path: Path) -> None:
    shard = local.split("train").shards[0]

    def half_then_wait(handler: Handler, content: bytes) -> None:
        handler.start(200, len(content))
        handler.wfile.write(content[: len(content) // 2])
        handler.wfile.flush()
        time.sleep(3)

    web.faults[f"/{shard.file}"] = [half_then_wait]
    first = loader(tmp_path, f"{web.url}/{shard.file}", shard)
    assert first.stdin is not None
    first.stdin.write("go\n")
    first.stdin.flush()
    deadline = time.monotonic() + 60
    while not sum(path.stat().st_size for path in tmp_path.glob("shards/*.part")):
        assert time.monotonic() < deadline, "nothing is loaded"
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    (part,) = tmp_path.glob("shards/*.part")
    assert not list(tmp_path.glob("shards/*.tar"))
    second = loader(tmp_path, f"{web.url}/{shard.file}", shard)
    assert second.communicate("go\n", timeout=300)[0].strip() == shard.sha256
    assert [asked for _, asked in web.requests] == ["", f"bytes={shard.bytes // 2}-"]
    assert not part.exists()


def test_other_bytes_are_tried_once_more_and_never_become_visible(web: Web, local: Dataset, tmp_path: Path) -> None:
    split = remote(web, local, ShardCache(settings(tmp_path)))
    reader = SplitReader(local.folder, split)
    web.faults["/train-000000.tar"] = [faults.wrong_bytes, faults.wrong_bytes]
    with pytest.raises(DataError) as caught:
        reader.read(0)
    assert str(caught.value).startswith(f"{web.url}/train-000000.tar: the bytes differ from those recorded")
    assert not list(tmp_path.glob("shards/*.tar"))
    web.faults["/train-000000.tar"] = [faults.wrong_bytes]
    assert reader.read(0).key == SplitReader(local.folder, local.split("train")).read(0).key


def test_an_error_page_in_place_of_a_shard_is_told(web: Web, local: Dataset, tmp_path: Path) -> None:
    reader = SplitReader(local.folder, remote(web, local, ShardCache(settings(tmp_path))))
    web.faults["/train-000000.tar"] = [faults.error_page, faults.error_page]
    with pytest.raises(DataError, match=r"train-000000.tar: 39 bytes of text/html, but dataset.json recorded"):
        reader.read(0)


def test_a_left_part_of_another_file_does_not_spoil_the_shard(web: Web, local: Dataset, tmp_path: Path) -> None:
    shard = local.split("train").shards[0]
    part = part_path(tmp_path / "shards", shard.sha256, shard.bytes + shard.bytes // 8)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 700)
    reader = SplitReader(local.folder, remote(web, local, ShardCache(settings(tmp_path))))
    assert everything(reader) == everything(SplitReader(local.folder, local.split("train")))
    assert [asked for path, asked in web.requests if path == "/train-000000.tar"] == ["bytes=700-", ""]


@pytest.mark.parametrize("readers", [1, 4])
def test_a_cache_smaller_than_the_data_set_is_slower_and_right(
    web: Web, local: Dataset, tmp_path: Path, readers: int
) -> None:
    """Two and a half shards fit; threads read all samples in an order of their own."""
    largest = max(shard.bytes for shard in local.split("train").shards)
    limit = int(largest * 1.2 * 2.5) if readers == 1 else int(largest * 1.2 * 4.5)
    cache = ShardCache(settings(tmp_path, max_gibibytes=limit / GIB))
    expected = everything(SplitReader(local.folder, local.split("train")))
    reader = SplitReader(local.folder, remote(web, local, cache))
    most = 0

    def read_all(seed: int) -> bool:
        nonlocal most
        ids = list(range(len(expected)))
        random.Random(seed).shuffle(ids)
        right = True
        for number in ids[:20] if readers > 1 else ids:
            sample = reader.read(number)
            right &= (sample.key, bytes(sample.image), sample.label) == expected[number]
            most = max(most, total_of(tmp_path))
        return right

    with ThreadPoolExecutor(readers) as pool:
        assert list(pool.map(read_all, range(readers))) == [True] * readers
    assert 0 < most <= limit
    assert web.gets() > len(local.split("train").shards)


def total_of(folder: Path) -> int:
    """Return the size of the cached files; under the lock of the folder, and by inode, or one may count twice."""
    sizes = {}
    with locked(folder / "shards" / "room.lock"):
        for path in (folder / "shards").iterdir():
            with suppress(FileNotFoundError):
                found = path.stat()
                sizes[found.st_ino] = found.st_size
    return sum(sizes.values())


def test_a_loaded_shard_gets_its_name_when_nobody_counts(tmp_path: Path) -> None:
    """Renamed while the folder is listed it may be missed under both names, and too much is loaded."""
    part = part_path(tmp_path, "a", 10)
    part.touch()
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / "room.lock"):
            renamed = pool.submit(named, part, tmp_path / "a.tar")
            with pytest.raises(TimeoutError):
                renamed.result(timeout=0.2)
            assert part.exists()
        renamed.result(timeout=20)
    assert (tmp_path / "a.tar").exists()


def test_the_shard_used_longest_ago_goes_and_one_in_use_stays(web: Web, local: Dataset, tmp_path: Path) -> None:
    shards = remote(web, local, ShardCache(settings(tmp_path))).shards
    limit = sum(shard.bytes + shard.bytes // 8 for shard in shards[:3]) + 2000
    cache = ShardCache(settings(tmp_path, max_gibibytes=limit / GIB))

    def present() -> set[int]:
        return {n for n, shard in enumerate(shards) if (tmp_path / "shards" / f"{shard.sha256}.tar").exists()}

    for number in (0, 1, 2, 0):
        with cache.opened(shards[number]):
            pass
    with cache.opened(shards[3]):
        assert present() == {0, 2, 3}
    with cache.opened(shards[2]), cache.opened(shards[0]), cache.opened(shards[1]):
        assert present() == {0, 1, 2}  # 2 was used longest ago but is open, 3 is not
        index_files = {path.stem for path in tmp_path.glob("shards/*.idx")}
        assert index_files == {shards[n].sha256 for n in (0, 1, 2)}


def test_a_limit_that_all_in_use_leave_no_room_in_is_told(
    web: Web, local: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = remote(web, local, ShardCache(settings(tmp_path))).shards[:2]
    cache = ShardCache(settings(tmp_path, max_gibibytes=(first.bytes * 1.5) / GIB))
    monkeypatch.setattr(room, "_LONGEST_WAIT_SECONDS", 0.0)
    with cache.opened(first), pytest.raises(DataError, match="all that is there is in use: raise"):
        cache.opened(second).__enter__()
    with cache.opened(second):
        pass
    tiny = ShardCache(settings(tmp_path, max_gibibytes=100 / GIB))
    with pytest.raises(DataError, match="but the cache may have 100: raise"):
        tiny.opened(first).__enter__()


def test_downloads_under_way_count_and_those_left_behind_go(tmp_path: Path) -> None:
    """A part counts with the size it will have; it may be removed only if nobody holds its lock."""
    stale, running = part_path(tmp_path, "stale", 400), part_path(tmp_path, "running", 400)
    for part in (stale, running):
        part.write_bytes(b"12345")
        (tmp_path / f"{part.name.split('.')[0]}.lock").touch()
    os.utime(running, (0, 0))
    with if_free(tmp_path / "running.lock") as free:
        assert free
        make_room(part_path(tmp_path, "new", 500), 500, 1000)
        assert not stale.exists()
        assert running.exists()


@pytest.mark.parametrize("where", ["/proc/megabatch", "file/below"])
def test_a_folder_that_cannot_be_written_is_told(web: Web, local: Dataset, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    reader = SplitReader(local.folder, remote(web, local, ShardCache(settings(tmp_path / where))))
    with pytest.raises(DataError, match=r"the cache for shards cannot be written: .* set\s+cluster.cache.folder"):
        reader.read(0)


def test_a_full_disk_is_told(web: Web, local: Dataset, tmp_path: Path) -> None:
    shard = local.split("train").shards[0]
    part = part_path(tmp_path / "shards", shard.sha256, shard.bytes + shard.bytes // 8)
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    reader = SplitReader(local.folder, remote(web, local, ShardCache(settings(tmp_path))))
    with pytest.raises(DataError, match=r"the cache for shards cannot be written: (No space left|Invalid argument)"):
        reader.read(0)


def test_prefetch_loads_the_next_shards_in_the_background_and_no_more(web: Web, local: Dataset, tmp_path: Path) -> None:
    cache = ShardCache(settings(tmp_path, prefetch_shards=2))
    split = remote(web, local, cache)
    reader = SplitReader(local.folder, split)
    last = split.shards[-1]
    for shard in split.shards:
        web.faults[f"/{shard.file}"] = [faults.slow_but_whole]
    reader.prefetch(range(reader.samples - 1, -1, -1))  # from the last shard on
    reader.prefetch(range(reader.samples - 1, -1, -1))
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("shards/*.tar"))) < 2:
        assert time.monotonic() < deadline, "nothing is prefetched"
        time.sleep(0.01)
    assert {path for path, _ in web.requests} == {f"/{shard.file}" for shard in split.shards[-2:]}
    assert hashlib.sha256((tmp_path / "shards" / f"{last.sha256}.tar").read_bytes()).hexdigest() == last.sha256
    reader.read(reader.samples - 1)
    assert web.gets() == 2


def test_what_goes_wrong_in_the_background_is_told_by_the_read(web: Web, local: Dataset, tmp_path: Path) -> None:
    cache = ShardCache(settings(tmp_path))
    reader = SplitReader(local.folder, remote(web, local, cache))
    web.faults["/train-000000.tar"] = [faults.status(403)] * 2
    reader.prefetch([0])
    deadline = time.monotonic() + 60
    while cache._background:
        assert time.monotonic() < deadline, "the download in the background does not end"
        time.sleep(0.01)
    with pytest.raises(DataError, match="may not be read"):
        reader.read(0)


def test_an_index_that_a_power_failure_left_empty_is_made_anew(web: Web, local: Dataset, tmp_path: Path) -> None:
    split = remote(web, local, ShardCache(settings(tmp_path)))
    expected = everything(SplitReader(local.folder, split))
    for index in tmp_path.glob("shards/*.idx"):
        index.write_bytes(b"")
    assert everything(SplitReader(local.folder, split)) == expected


def test_prefetch_of_local_shards_does_nothing(local: Dataset) -> None:
    SplitReader(local.folder, local.split("train")).prefetch([0, 1, 2])
