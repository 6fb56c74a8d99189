"""Mutated shards, indexes, descriptions and images: a result or an error of ours, nothing else, and nothing silent.

MEGABATCH_FUZZ_EXAMPLES=100000 pytest tests/data/test_fuzz.py    # a longer campaign, with other seeds at every run
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megabatch.data.dataset import Dataset, Shard, Split, read_dataset, write_dataset
from megabatch.data.decode import decode_image
from megabatch.data.errors import DataError
from megabatch.data.importer import sha256_of
from megabatch.data.indexing import verify
from megabatch.data.tar_index import Sample, index_tar, read_index, write_index
from support.mutate import mutated_bytes, mutated_tar, whole_images, whole_tars

TESTS = Path(__file__).parents[1]
ASKED_FOR = os.environ.get("MEGABATCH_FUZZ_EXAMPLES")
MOST_PIXELS = 1_000_000
Result = TypeVar("Result")
seeds = st.integers(0, 2**63)


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=int(ASKED_FOR or examples),
        derandomize=ASKED_FOR is None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of small shards, one in each format of tar."""
    folder = tmp_path_factory.mktemp("fuzz")
    shards = []
    for number, raw in enumerate(whole_tars()):
        path = folder / f"train-{number}.tar"
        path.write_bytes(raw)
        samples = index_tar(path)
        write_index(samples, path.with_suffix(".idx"))
        shards.append(Shard(path.name, len(samples), len(raw), sha256_of(path)))
    samples_in_all = sum(shard.samples for shard in shards)
    write_dataset(Dataset(folder, ("a", "b"), (Split("train", tuple(shards), {0: samples_in_all}),)))
    return folder


def outcome(read: Callable[[], Result]) -> tuple[Result | None, str]:
    """Return what was read, or our message; any other exception is a failed test."""
    try:
        return read(), ""
    except DataError as error:
        return None, str(error)


def found_by_tarfile(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
        return [(info.name, info.offset_data, info.size) for info in tar if not info.isdir()]


def problems(folder: Path, path: Path) -> list[str]:
    """Return what verify says about one file."""
    return [problem for problem in verify(read_dataset(folder), lambda a, b: None) if problem.startswith(f"{path}:")]


def content(raw: bytes, samples: tuple[Sample, ...]) -> list[tuple[str, bytes]]:
    return [(m.name, raw[m.offset : m.offset + m.size]) for sample in samples for m in sample.members]


@fuzz(400)
@given(st.integers(0, 2), seeds)
def test_a_mutated_tar_is_an_error_or_what_tarfile_reads_and_never_passes_for_the_whole_one(
    folder: Path, number: int, seed: int
) -> None:
    path = folder / f"train-{number}.tar"
    raw = path.read_bytes()
    other = mutated_tar(raw, seed)
    whole = index_tar(path)
    try:
        path.write_bytes(other)
        samples, message = outcome(lambda: index_tar(path))
        if samples is None:
            assert message.startswith(f"{path}: byte ")
        else:
            assert [(m.name, m.offset, m.size) for s in samples for m in s.members] == found_by_tarfile(path)
            assert content(other, samples) == content(raw, whole) or problems(folder, path)
    finally:
        path.write_bytes(raw)


@fuzz(200)
@given(st.one_of(st.binary(max_size=3000), st.binary(min_size=512, max_size=512).map(lambda block: block * 4)))
def test_random_bytes_are_no_shard(folder: Path, raw: bytes) -> None:
    path = folder / "random.bin"
    path.write_bytes(raw)
    samples, message = outcome(lambda: index_tar(path))
    if samples is None:
        assert message.startswith(f"{path}: byte 0: ")
    else:
        assert samples == ()
        assert not raw.strip(b"\0")


@fuzz(400)
@given(st.integers(0, 2), seeds)
def test_a_mutated_index_is_an_error_or_a_whole_index_that_verify_compares(
    folder: Path, number: int, seed: int
) -> None:
    path = folder / f"train-{number}.idx"
    raw = path.read_bytes()
    whole = read_index(path)
    try:
        path.write_bytes(mutated_bytes(raw, seed))
        samples, message = outcome(lambda: read_index(path))
        if samples is None:
            assert message.startswith(f"{path}: not a whole index (")
        else:
            assert all(member.size >= 0 and member.offset >= 512 for sample in samples for member in sample.members)
            assert (samples != whole) == bool(problems(folder, path))
    finally:
        path.write_bytes(raw)


def read_back(folder: Path, text: bytes) -> None:
    """Read a description; whatever is accepted must be the same after it is written and read again."""
    (folder / "dataset.json").write_bytes(text)
    found, message = outcome(lambda: read_dataset(folder))
    if found is None:
        assert message.startswith(f"{folder / 'dataset.json'}: ")
    else:
        write_dataset(found)
        assert read_dataset(folder) == found


@fuzz(300)
@given(seeds)
def test_a_mutated_description_is_an_error_or_a_description(folder: Path, tmp_path: Path, seed: int) -> None:
    read_back(tmp_path, mutated_bytes((folder / "dataset.json").read_bytes(), seed))


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**20), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


@fuzz(300)
@given(st.data(), values)
def test_a_description_with_another_value_anywhere_is_an_error_or_a_description(
    folder: Path, tmp_path: Path, data: st.DataObject, value: object
) -> None:
    described = json.loads((folder / "dataset.json").read_text())
    parent = described
    while True:
        name = data.draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
        if not isinstance(parent[name], dict | list) or not parent[name] or data.draw(st.booleans()):
            break
        parent = parent[name]
    parent[name] = value
    read_back(tmp_path, json.dumps(described).encode())


IMAGES = whole_images()


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
@fuzz(400)
@given(st.integers(0, len(IMAGES) - 1), seeds)
def test_a_mutated_image_is_an_error_or_pixels(number: int, seed: int) -> None:
    payload = mutated_bytes(IMAGES[number], seed)
    try:
        pixels = decode_image(payload, MOST_PIXELS)
    except ValueError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.shape[0] * pixels.shape[1] <= MOST_PIXELS


WITH_LITTLE_MEMORY = """
import resource, sys, warnings
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from megabatch.data.decode import decode_image
from megabatch.data.tar_index import index_tar
from support.mutate import mutated_bytes, mutated_tar, whole_images, whole_tars

warnings.simplefilter("ignore")
path, examples = Path(sys.argv[2]), int(sys.argv[3])
tars, images = whole_tars(), whole_images()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (20 + examples // 100,) * 2)
for seed in range(examples):
    path.write_bytes(mutated_tar(tars[seed % len(tars)], seed))
    for read in (lambda: index_tar(path), lambda: decode_image(mutated_bytes(images[seed % len(images)], seed), 10**6)):
        try:
            read()
        except ValueError:
            pass
print("survived", examples)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux does")
def test_nothing_takes_more_than_64_mib_or_hangs(tmp_path: Path) -> None:
    examples = str(int(ASKED_FOR or 600))
    command = [sys.executable, "-c", WITH_LITTLE_MEMORY, str(TESTS), str(tmp_path / "a.tar"), examples]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == f"survived {examples}\n", done.stderr[-2000:]
