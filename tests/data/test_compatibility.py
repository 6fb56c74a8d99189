"""The shard format both ways: what others read of our shards, and what we read of theirs, is the same samples."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.data.arrangement import arrange
from megabatch.data.dataset import Dataset
from megabatch.data.errors import DataError
from megabatch.data.indexing import index_shards, verify
from megabatch.data.read import SplitReader
from megabatch.data.tar_index import index_tar, read_index, write_index
from support.damage import jpeg, photo_dataset, photo_tiles

Samples = dict[str, tuple[bytes, int]]
# webdataset leaves files to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
)
PHOTOS = [jpeg(tile) for tile in photo_tiles(6)]
LONG = "folder/" * 36 + "a"  # 253 characters, 257 with its extension
KEYS = ("a", "n01/b", "x" * 120, "köln/straße", "名前/画像", LONG)


def no_progress(done: int, total: int) -> None:
    pass


def ours(dataset: Dataset) -> Samples:
    """Read every sample of train through the index."""
    reader = SplitReader(dataset.folder, dataset.split("train"))
    samples = [reader.read(number) for number in range(reader.samples)]
    return {sample.key: (bytes(sample.image), sample.label) for sample in samples}


def indexed(folder: Path) -> Samples:
    """Read shards that somebody else wrote; every byte of them verified."""
    dataset = index_shards(folder, None, no_progress)
    assert verify(dataset, no_progress, decode=True) == []
    return ours(dataset)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Thirty photographs in three shards, as `megabatch data import` writes them."""
    return photo_dataset(tmp_path_factory.mktemp("imported"))


def shards(dataset: Dataset) -> list[Path]:
    return [dataset.folder / shard.file for shard in dataset.split("train").shards]


# What others read of our shards.


def test_webdataset_reads_our_shards(imported: Dataset) -> None:
    found = webdataset.WebDataset([str(path) for path in shards(imported)], shardshuffle=False)
    assert {sample["__key__"]: (sample["jpg"], int(sample["cls"])) for sample in found} == ours(imported)
    decoded = webdataset.WebDataset(str(shards(imported)[0]), shardshuffle=False).decode("rgb8").to_tuple("jpg", "cls")
    assert [label for _, label in decoded] == [label for _, label in list(ours(imported).values())[:10]]


def test_tarfile_and_gnu_tar_read_our_shards(imported: Dataset, tmp_path: Path) -> None:
    expected = ours(imported)
    for path in shards(imported):
        subprocess.run(["tar", "-xf", str(path), "-C", str(tmp_path)], check=True, capture_output=True)
        with tarfile.open(path) as tar:
            for info in tar:
                image, label = expected[info.name.rpartition(".")[0]]
                payload = image if info.name.endswith(".jpg") else str(label).encode()
                assert tar.extractfile(info).read() == payload  # type: ignore[union-attr]
                assert (tmp_path / info.name).read_bytes() == payload
    assert len(list(tmp_path.rglob("*.*"))) == 2 * len(expected)


@pytest.mark.parametrize("with_info", [True, False])
def test_timm_reads_our_shards(imported: Dataset, tmp_path: Path, with_info: bool) -> None:
    """timm wants _info.json, which nobody here writes, or the names and the number of samples in the split."""
    import timm.data

    folder = shutil.copytree(imported.folder, tmp_path / "data")
    split = "train-{000000..000002}.tar|30"
    if with_info:
        recorded = imported.split("train").shards
        info = {"name": "train", "num_samples": 30, "filenames": [shard.file for shard in recorded],
                "shard_lengths": [shard.samples for shard in recorded]}  # fmt: skip
        (folder / "_info.json").write_text(json.dumps({"splits": {"train": info}}))
        split = "train"
    found = [(np.array(image), label) for image, label in timm.data.create_dataset("wds/", str(folder), split=split)]
    expected = webdataset.WebDataset([str(path) for path in shards(imported)], shardshuffle=False).decode("rgb8")
    pairs = list(expected.to_tuple("jpg", "cls"))
    assert len(found) == len(pairs) == 30
    for (image, label), (other, other_label) in zip(found, pairs, strict=True):
        assert label == other_label
        assert np.array_equal(image, other)


def test_timm_takes_a_shard_for_a_tar_of_class_folders_too(imported: Dataset) -> None:
    """Keys are CLASS/STEM, and classes are numbered in the order of their names, as timm numbers folders."""
    import timm.data

    found = timm.data.create_dataset("", str(shards(imported)[0]))
    expected = {key: label for key, (_, label) in list(ours(imported).items())[:10]}
    names = [Path(name).with_suffix("") for name in found.filenames()]
    assert {"/".join(name.parts[-2:]): found[i][1] for i, name in enumerate(names)} == expected


def dali_samples(tars: list[Path], indexes: list[Path]) -> list[tuple[bytes, int]]:
    dali = pytest.importorskip("nvidia.dali", reason="pip install nvidia-dali-cuda130: 200 MB, needs no GPU for this")

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():  # type: ignore[no-untyped-def]
        images, labels = dali.fn.readers.webdataset(
            paths=list(map(str, tars)), index_paths=list(map(str, indexes)), ext=["jpg;jpeg;png;webp", "cls"],
            missing_component_behavior="error",
        )  # fmt: skip
        return images, labels

    built = pipeline()
    built.build()
    outputs = [built.run() for _ in range(built.reader_meta()["__Webdataset_0"]["epoch_size"])]
    return [(bytes(np.asarray(images[0])), int(bytes(np.asarray(labels[0])))) for images, labels in outputs]


def test_dali_reads_our_shards_with_our_indexes(imported: Dataset) -> None:
    paths = shards(imported)
    assert dali_samples(paths, [path.with_suffix(".idx") for path in paths]) == list(ours(imported).values())


def test_dalis_own_indexer_writes_our_index(imported: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    path = shards(imported)[0]
    command = [sys.executable, "-m", "wds2idx", str(path), str(tmp_path / "theirs.idx")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "theirs.idx").read_text().strip() == path.with_suffix(".idx").read_text().strip()
    assert read_index(tmp_path / "theirs.idx") == read_index(path.with_suffix(".idx"))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_dali_reads_any_name_with_our_index(tmp_path: Path, form: int) -> None:
    path = written_by_tarfile(tmp_path / "train-0.tar", form, KEYS)
    write_index(index_tar(path), path.with_suffix(".idx"))
    assert dali_samples([path], [path.with_suffix(".idx")]) == [(PHOTOS[n], n) for n in range(len(KEYS))]


# What we read of shards that others wrote.


def expected(keys: tuple[str, ...]) -> Samples:
    return {key: (PHOTOS[number], number) for number, key in enumerate(keys)}


def written_by_tarfile(path: Path, form: int, keys: tuple[str, ...]) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for number, key in enumerate(keys):
            for extension, payload in (("jpg", PHOTOS[number]), ("cls", str(number).encode()), ("seg.png", b"mask")):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_we_read_what_tarfile_writes(tmp_path: Path, form: int) -> None:
    too_long_for_ustar = ("x" * 120, LONG)
    keys = tuple(key for key in KEYS if form != tarfile.USTAR_FORMAT or key not in too_long_for_ustar)
    written_by_tarfile(tmp_path / "train-0.tar", form, keys)
    assert indexed(tmp_path) == expected(keys)


@pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "posix"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_we_read_what_gnu_tar_packs_sorted_by_name(tmp_path: Path, form: str, prefix: str) -> None:
    keys = {"v7": KEYS[:2], "ustar": KEYS[:2] + KEYS[3:5]}.get(form, KEYS)
    source = tmp_path / "source"
    for number, key in enumerate(keys):
        (source / key).parent.mkdir(parents=True, exist_ok=True)
        (source / f"{key}.jpg").write_bytes(PHOTOS[number])
        (source / f"{key}.cls").write_text(f"{number}\n")
    command = ["tar", "--sort=name", f"--format={form}", "-C", str(source), "-cf", str(tmp_path / "train-0.tar")]
    members = [prefix or "."] if prefix else sorted(path.name for path in source.iterdir())
    subprocess.run([*command, *members], check=True)
    assert indexed(tmp_path) == expected(tuple(prefix + key for key in keys))


@pytest.mark.parametrize("mtime", [None, 0.5, 7])
def test_we_read_what_webdatasets_writers_write(tmp_path: Path, mtime: float | None) -> None:
    pattern = str(tmp_path / "train-%04d.tar")
    with webdataset.ShardWriter(pattern, maxcount=2, verbose=0, mtime=mtime) as writer:
        for number, key in enumerate(KEYS):
            meta = {"json": {"number": number}, "txt": "a caption", "npy": np.zeros(2)}
            writer.write({"__key__": key, "jpg": PHOTOS[number], "cls": number, **meta})
    assert len(list(tmp_path.glob("*.tar"))) == 3
    assert indexed(tmp_path) == expected(KEYS)


def test_captions_without_a_class_are_indexed_and_have_no_class_to_train_towards(tmp_path: Path) -> None:
    """The layout of img2dataset, which OpenCLIP trains on: jpg, txt and json."""
    with webdataset.TarWriter(str(tmp_path / "train-0.tar"), encoder=False) as writer:
        for number in range(3):
            key = f"{number:09d}"
            meta = json.dumps({"caption": "a cat", "key": key, "status": "success"}).encode()
            writer.write({"__key__": key, "jpg": PHOTOS[number], "txt": b"a cat", "json": meta})
    dataset = index_shards(tmp_path, None, no_progress)
    assert (dataset.classes, dataset.split("train").label_counts, dataset.split("train").samples) == ((), {}, 3)
    loaded = load("digits", "laptop", [f"data.path={tmp_path}", "data.validation_split=null"])
    job = Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder="/", data_fingerprint="", version="")
    with pytest.raises(
        DataError, match=r"split 'train' have no \.cls, .* Captions and JSON are read only if data.target"
    ):
        arrange(job)


def test_an_index_as_dalis_wds2idx_documents_it_is_read(tmp_path: Path) -> None:
    """https://docs.nvidia.com/deeplearning/dali, readers.webdataset: version and number of samples, then per line
    extension, offset, size and name of each component."""
    path = written_by_tarfile(tmp_path / "train-0.tar", tarfile.USTAR_FORMAT, KEYS[:2])
    with tarfile.open(path) as tar:
        fields = [(info.name.partition(".")[2], info.offset_data, info.size, info.name) for info in tar]
    lines = [" ".join(f"{e} {o} {s} {n}" for e, o, s, n in fields[start : start + 3]) for start in (0, 3)]
    (tmp_path / "train-0.idx").write_text("v1.2 2\n" + "\n".join(lines) + "\n")
    assert read_index(tmp_path / "train-0.idx") == index_tar(path)
