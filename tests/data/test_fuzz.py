"""Mutated files of every kind that is read: a result or an error of ours, nothing else, and nothing silent.

python tests/faults/fuzz.py --cases 100000 --seed 1                # a longer campaign
MEGABATCH_FUZZ_EXAMPLES=100000 pytest tests/data/test_fuzz.py      # with what hypothesis makes up, too
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.fuzz import fuzz as campaign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megabatch.data.errors import DataError
from megabatch.data.tar_index import index_tar
from support.fuzz_kinds import KINDS, read_back, small_shards

TESTS = Path(__file__).parents[1]
ASKED_FOR = os.environ.get("MEGABATCH_FUZZ_EXAMPLES")
CASES = 250  # of each kind; tests/faults/fuzz.py is for more


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=int(ASKED_FOR or examples),
        derandomize=ASKED_FOR is None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("fuzz") / "data").folder


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_refused_or_read_and_nothing_is_silent(tmp_path: Path, kind: str) -> None:
    report = campaign(kind, int(ASKED_FOR or CASES), 0, tmp_path)
    assert not report.failed, str(report)
    assert report.outcomes.total() == int(ASKED_FOR or CASES)
    assert set(report.outcomes) == {"accepted", "refused"}


@fuzz(200)
@given(st.one_of(st.binary(max_size=3000), st.binary(min_size=512, max_size=512).map(lambda block: block * 4)))
def test_random_bytes_are_no_shard(folder: Path, raw: bytes) -> None:
    path = folder / "random.bin"
    path.write_bytes(raw)
    try:
        samples = index_tar(path)
    except DataError as error:
        assert str(error).startswith(f"{path}: byte 0: ")  # noqa: PT017
    else:
        assert samples == ()
        assert not raw.strip(b"\0")


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
