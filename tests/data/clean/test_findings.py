"""Every kind is planted once in real files, and exactly that is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.dirty_shards import (
    ALWAYS,
    MAX_PIXELS,
    clean_samples,
    encoded,
    one_of_everything,
    picture,
    sample,
    write_tar,
)

from megabatch.data.clean.clean import find, make_mask
from megabatch.data.clean.kinds import DEFAULT_MASKED, KINDS, Finding
from megabatch.data.clean.scan import Scan, scan
from megabatch.data.clean.shards import find_shards
from megabatch.data.errors import DataError
from megabatch.data.indexing import index_shards


def looked_at(folder: Path, threads: int = 2) -> tuple[Scan, list[Finding]]:
    scanned = scan(find_shards(folder), threads, MAX_PIXELS, lambda done, total: None)
    return scanned, find(scanned)


def named(scanned: Scan, findings: list[Finding]) -> set[tuple[str, str, str, str | None]]:
    def key(sample: int | None) -> str | None:
        return None if sample is None else scanned.keys[sample]

    return {(f.kind, scanned.split_of(f.sample), scanned.keys[f.sample], key(f.partner)) for f in findings}


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[tuple[str, str, str, str | None]]]:
    folder = tmp_path_factory.mktemp("dirty")
    return folder, one_of_everything(folder)


def test_what_was_planted_is_found_and_nothing_else(
    dirty: tuple[Path, set[tuple[str, str, str, str | None]]],
) -> None:
    folder, planted = dirty
    found = named(*looked_at(folder))
    assert found - planted == set()
    assert planted - found == set()
    assert {kind for kind, *_ in planted} == {kind.name for kind in KINDS}
