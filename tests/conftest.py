"""Shared by all tests: hypothesis without deadlines (the machine is shared), and folders to run jobs in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from support.runs import Workplace
from support.shards import dataset

settings.register_profile("megabatch", deadline=None, derandomize=True)
settings.load_profile("megabatch")

_LONGEST_FIRST = ("slurm", "hosts", "processes")
TRAIN_SAMPLES = 44  # with a global batch of 20 the last batch has 4: one micro-batch, so two of three ranks get fillers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take long, so that no process is left alone with one of them at the end."""
    marks = {item.path: set[str]() for item in items}
    for item in items:
        marks[item.path] |= {mark.name for mark in item.iter_markers()}
    items.sort(key=lambda item: [mark not in marks[item.path] for mark in _LONGEST_FIRST])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A folder with a recipe, a network and a small data set, for the runs of one test file."""
    folder = tmp_path_factory.mktemp("workplace")
    dataset(folder, {"train": TRAIN_SAMPLES, "validation": 15, "test": 15})
    place = Workplace(folder)
    place.write()
    return place
