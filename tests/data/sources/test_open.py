"""data.path in every form that is accepted names the same samples and the same fingerprint as the local folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabatch.configs.cache import Cache
from megabatch.data.dataset import Dataset, fingerprint, missing_or_changed_shards, read_dataset
from megabatch.data.errors import DataError
from megabatch.data.indexing import verify
from megabatch.data.read import SplitReader
from megabatch.data.sources import open as opening
from megabatch.data.sources.open import index_dataset, open_dataset
from support.shards import dataset
from support.web import Web, serving, status

SPEC = "{train,validation}-{000000..000001}.tar"


def no_progress(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A data set as `megabatch data import` leaves it."""
    return dataset(tmp_path_factory.mktemp("indexed"), {"train": 20, "validation": 18})


@pytest.fixture
def plain(indexed: Dataset, tmp_path: Path) -> Path:
    """Its shards alone, with classes.txt."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in (*indexed.folder.glob("*.tar"), indexed.folder / "classes.txt"):
        shutil.copy2(file, folder)
    return folder


@pytest.fixture
def web(plain: Path) -> Iterator[Web]:
    with serving(plain) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(folder=str(tmp_path / "cache"), attempts=2, timeout_seconds=5.0)


def samples(opened: Dataset) -> dict[str, list[tuple[str, bytes, int]]]:
    read = {}
    for split in opened.splits:
        reader = SplitReader(opened.folder, split)
        found = map(reader.read, range(reader.samples))
        read[split.name] = [(sample.key, bytes(sample.image), sample.label) for sample in found]
    return read


def require_same(opened: Dataset, indexed: Dataset) -> None:
    assert samples(opened) == samples(indexed)
    assert fingerprint(opened) == fingerprint(indexed)
    assert opened.classes == indexed.classes
    assert opened.splits == tuple(
        type(split)(split.name, tuple(found.shards), split.label_counts)
        for split, found in zip(indexed.splits, opened.splits, strict=True)
    )
    assert missing_or_changed_shards(opened, opened.split_names) == []
    assert verify(opened, no_progress, decode=True) == []


@pytest.mark.parametrize(
    "location",
    ["plain", SPEC.join(("plain/", "")), "plain/*.tar", "plain/train-*.tar::plain/validation-00000?.tar",
     "plain/train-000001.tar::plain/validation-{000000..000001}.tar::plain/train-000000.tar", "link"],
)  # fmt: skip
def test_plain_shards_are_indexed_on_first_use(
    plain: Path, indexed: Dataset, cache: Cache, tmp_path: Path, location: str
) -> None:
    (tmp_path / "link").symlink_to(plain)
    before = {file.name for file in plain.iterdir()}
    calls: list[tuple[int, int]] = []
    opened = open_dataset(location, tmp_path, cache, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    require_same(opened, indexed)
    added = {file.name for file in plain.iterdir()} - before
    if "*" in location or "{" in location:
        assert not added  # an index of some shards must not be taken for one of all
    else:
        assert added == {"dataset.json", *(f"{Path(name).stem}.idx" for name in before if name.endswith(".tar"))}
    calls.clear()
    assert open_dataset(location, tmp_path, cache, lambda done, total: calls.append((done, total))) == opened
    assert calls == []


def test_an_absolute_path_a_file_url_and_the_folder_of_an_import(
    indexed: Dataset, cache: Cache, tmp_path: Path
) -> None:
    for location in (str(indexed.folder), f"file://{indexed.folder}"):
        opened = open_dataset(location, tmp_path, cache, no_progress)
        assert opened == read_dataset(indexed.folder)
    assert not Path(str(cache.folder)).exists()


def test_a_folder_that_cannot_be_written_is_indexed_in_the_cache(
    plain: Path, indexed: Dataset, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_can_write", lambda folder: False)  # the tests may run as root, who can write all
    before = set(plain.iterdir())
    opened = open_dataset("plain", tmp_path, cache, no_progress)
    require_same(opened, indexed)
    assert set(plain.iterdir()) == before
    assert opened.folder.is_relative_to(tmp_path / "cache")
    os.utime(plain / "train-000000.tar", ns=(0, 0))  # as if it was written anew
    assert open_dataset("plain", tmp_path, cache, no_progress).folder != opened.folder


def test_a_folder_with_braces_in_its_name_is_a_folder(
    plain: Path, indexed: Dataset, cache: Cache, tmp_path: Path
) -> None:
    plain.rename(tmp_path / "a{0..9}[x]")
    require_same(open_dataset("a{0..9}[x]", tmp_path, cache, no_progress), indexed)


def write_lists(folder: Path, indexed: Dataset, wrong: int = 0) -> None:
    counts = {shard.file: shard.samples + wrong for split in indexed.splits for shard in split.shards}
    timm = {
        split.name: {
            "filenames": [s.file for s in split.shards],
            "shard_lengths": [counts[s.file] for s in split.shards],
        }
        for split in indexed.splits
    }
    (folder / "_info.json").write_text(json.dumps({"splits": timm}))
    (folder / "sizes.json").write_text(json.dumps(counts))
    shards = [{"url": file, "nsamples": count} for file, count in counts.items()]
    (folder / "shards.json").write_text(json.dumps({"shardlist": shards}))


@pytest.mark.parametrize("name", ["_info.json", "sizes.json", "shards.json"])
def test_lists_of_other_tools(plain: Path, indexed: Dataset, cache: Cache, tmp_path: Path, web: Web, name: str) -> None:
    write_lists(plain, indexed)
    require_same(open_dataset(f"plain/{name}", tmp_path, cache, no_progress), indexed)
    require_same(open_dataset(f"{web.url}/{name}", tmp_path, cache, no_progress), indexed)


def test_a_list_whose_counts_are_not_what_is_found(plain: Path, indexed: Dataset, cache: Cache, tmp_path: Path) -> None:
    write_lists(plain, indexed, wrong=1)
    for location in ("plain", "plain/_info.json", "plain/sizes.json", "plain/shards.json"):
        with pytest.raises(DataError, match=r"\.tar: has \d+ samples, but the list of shards says \d+"):
            open_dataset(location, tmp_path, cache, no_progress)
    assert not list(tmp_path.rglob("dataset.json"))


def test_a_folder_of_a_web_server_with_a_description(
    plain: Path, indexed: Dataset, cache: Cache, tmp_path: Path, web: Web
) -> None:
    shutil.copy2(indexed.folder / "dataset.json", plain)
    opened = open_dataset(f"{web.url}/?token=SECRET", tmp_path, cache, no_progress)
    assert web.requests == [("/dataset.json", "")]  # no shard before one is read
    require_same(opened, indexed)
    assert web.gets() == 4
    with pytest.raises(DataError) as caught:
        opened.split("val")
    assert str(caught.value) == f"{web.url}/: has no split 'val', only train, validation"


def test_plain_shards_of_a_web_server(indexed: Dataset, cache: Cache, tmp_path: Path, web: Web) -> None:
    location = f"{web.url}/{SPEC}?token=SECRET"
    require_same(open_dataset(location, tmp_path, cache, no_progress), indexed)
    assert web.gets() == 4  # what was loaded to be indexed is there to be read
    require_same(open_dataset(location, tmp_path, cache, no_progress), indexed)
    assert web.gets() == 4


def test_plain_shards_of_a_web_server_that_do_not_fit_into_the_cache(
    indexed: Dataset, cache: Cache, tmp_path: Path, web: Web
) -> None:
    largest = max(shard.bytes for split in indexed.splits for shard in split.shards)
    small = cache.model_copy(update={"max_gibibytes": largest * 2.5 / (1 << 30)})
    require_same(open_dataset(f"{web.url}/{SPEC}", tmp_path, small, no_progress), indexed)
    assert web.gets() > 4


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", r"/\*.tar: a web server has no list of its files. Write the shards with braces"),
        ("nothing", r"/nothing/\*.tar: a web server has no list of its files"),
        ("train-*.tar", r"/train-\*.tar: a web server has no list of its files"),
        ("train-{000000..000009}.tar", r"/train-00000\d.tar: not found \(404\)"),
        ("classes.txt.tar", "/classes.txt.tar: not found"),
    ],
)
def test_what_a_web_server_does_not_have(cache: Cache, tmp_path: Path, web: Web, location: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^{web.url}{message}"):
        open_dataset(f"{web.url}/{location}", tmp_path, cache, no_progress)


def test_a_page_in_place_of_a_shard_is_told_with_its_url(plain: Path, cache: Cache, tmp_path: Path, web: Web) -> None:
    (plain / "train-000000.tar").write_text("<html>Please log in</html>")
    with pytest.raises(DataError, match=rf"^{web.url}/train-000000.tar: byte 0: not a plain tar file but an HTML"):
        open_dataset(f"{web.url}/{SPEC}", tmp_path, cache, no_progress)


def test_a_description_from_elsewhere_cannot_say_where_shards_lie(
    plain: Path, indexed: Dataset, cache: Cache, tmp_path: Path, web: Web
) -> None:
    values = json.loads((indexed.folder / "dataset.json").read_text())
    shard = values["splits"]["train"]["shards"][0]
    shard["url"] = "/etc/passwd"
    (plain / "dataset.json").write_text(json.dumps(values))
    opened = open_dataset(web.url, tmp_path, cache, no_progress)
    assert opened.splits[0].shards[0].url == f"{web.url}/train-000000.tar"
    shard["file"] = "/etc/passwd"
    (plain / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=f"^{web.url}/dataset.json: shard '/etc/passwd' is no file inside the folder"):
        open_dataset(web.url, tmp_path, cache, no_progress)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("plain/train-{000000..000009}.tar", r"train-000002.tar: no such file; 8 of the 10 shards of data.path are"),
        ("plain/nothing-*.tar", "matches no file"),
        ("plain/none.json", "none.json: no such file"),
        ("nowhere", "nowhere: no such folder"),
        ("empty", r"empty/dataset.json: missing"),
        ("pipe:cat plain/train-000000.tar", "data is not read from pipe"),
        ("plain/train-{000000..999999999}.tar", "names 1,000,000,000 shards or more"),
        ("plain/classes.txt", "classes.txt: no such folder"),
    ],
)
def test_what_is_not_there_is_told(plain: Path, cache: Cache, tmp_path: Path, location: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        open_dataset(location, tmp_path, cache, no_progress)


OPENER = """
import sys
from pathlib import Path
from megabatch.configs.cache import Cache
from megabatch.data.dataset import fingerprint
from megabatch.data.sources.open import open_dataset
calls = []
sys.stdin.readline()
opened = open_dataset(sys.argv[1], Path.cwd(), Cache(folder=sys.argv[2]), lambda done, total: calls.append(done))
print(len(calls), fingerprint(opened))
"""


@pytest.mark.parametrize("location", ["plain", "plain/*.tar"])
def test_processes_that_open_new_shards_at_once_index_them_once(
    plain: Path, indexed: Dataset, tmp_path: Path, location: str
) -> None:
    command = [sys.executable, "-c", OPENER, location, str(tmp_path / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    told = [process.communicate("go\n", timeout=300)[0].split() for process in processes]
    assert sorted(calls for calls, _ in told) == ["0", "0", "4"]
    assert {found for _, found in told} == {fingerprint(indexed)}


def test_an_index_that_was_interrupted_is_not_taken_for_one(
    plain: Path, indexed: Dataset, cache: Cache, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for location in ("plain", "plain/*.tar"):
        with pytest.raises(KeyboardInterrupt):
            open_dataset(location, tmp_path, cache, interrupt)
        assert not list(tmp_path.rglob("dataset.json"))
        require_same(open_dataset(location, tmp_path, cache, no_progress), indexed)
        (plain / "dataset.json").unlink(missing_ok=True)


def test_class_names_that_may_not_be_read_are_numbers(indexed: Dataset, cache: Cache, tmp_path: Path, web: Web) -> None:
    """An object store answers 403 in place of 404 to those who may not list."""
    web.faults["/classes.txt"] = [status(403)]
    assert open_dataset(f"{web.url}/{SPEC}", tmp_path, cache, no_progress).classes == ("0", "1", "2")


def test_indexing_anew_sees_what_changed(plain: Path, cache: Cache, tmp_path: Path, web: Web) -> None:
    location = f"{web.url}/{SPEC}"
    first = open_dataset(location, tmp_path, cache, no_progress)
    (plain / "classes.txt").write_text("a\nb\nc\n")
    assert open_dataset(location, tmp_path, cache, no_progress).classes == first.classes
    assert index_dataset(location, tmp_path, cache, no_progress).classes == ("a", "b", "c")
    assert open_dataset(location, tmp_path, cache, no_progress).classes == ("a", "b", "c")


def test_two_folders_may_have_shards_of_one_name(plain: Path, cache: Cache, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "second")
    opened = open_dataset("{plain,second}/train-00000?.tar", tmp_path, cache, no_progress)
    reader = SplitReader(opened.folder, opened.split("train"))
    assert reader.samples == 40
    assert {Path(reader.read(number).shard).parent.name for number in range(40)} == {"plain", "second"}
