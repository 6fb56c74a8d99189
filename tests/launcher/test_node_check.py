"""What `megabatch check --cluster` makes of what the ranks tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabatch.configs.node_facts import judge
from megabatch.launcher.node_check import TITLES, rows
from support.runs import Workplace

GIB = 1 << 30
GOOD: dict[str, Any] = {
    "megabatch": "0.1.0", "torch": "2.15.0", "python": "3.11.7", "device": "cpu", "job": "9f2c", "cannot_write": "", "unseen": [],
    "sums_are_right": True, "clock_seconds": 0.01, "memory_free_bytes": 8 * GIB, "disk_free_bytes": 90 * GIB,
    "shared_memory_free_bytes": GIB, "sent_bytes_per_second": 1e9, "operations_per_second": 4e10,
    "images_per_second": 900.0,
}  # fmt: skip


def told(changed: dict[str, Any], which: int = 2) -> list[dict[str, Any]]:
    """Return the facts of four ranks on two hosts, those of one changed."""
    ranks = [{**GOOD, "rank": rank, "host": f"node{rank // 2 + 1}"} for rank in range(4)]
    ranks[which] |= changed
    return ranks


def problems(ranks: list[dict[str, Any]], device: str = "cpu") -> list[str]:
    return [finding.told for finding in judge(ranks, device)]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert problems(told({})) == []
    assert len(rows(told({}))[0]) == len(TITLES)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"torch": "2.11.0"}, "node2: has torch 2.11.0, the others 2.15.0. Install the same on all nodes"),
        ({"device": "H100"}, "node2: has device H100, the others cpu. Install the same on all nodes"),
        ({"cannot_write": "Read-only file system"}, "node2, rank 2: cannot write to the run folder: Read-only file"),
        (
            {"unseen": [0]},
            "node2, rank 2: does not see in the run folder what rank 0 wrote there. It must be on a file",
        ),
        ({"job": "77aa"}, "node2, rank 2: reads another job.yaml than rank 0: it sees the run folder as it was."),
        ({"sums_are_right": False}, "node2, rank 2: sums over the ranks are wrong. Do not train with this node"),
        ({"clock_seconds": -3600.0}, "node2, rank 2: the clock is -3600 s beside that of rank 0. Start NTP there"),
        ({"memory_free_bytes": GIB // 2}, "node2, rank 2: only 0.5 GiB of memory are free"),
        ({"disk_free_bytes": 0}, "node2, rank 2: only 0.0 GiB are free on the disk of the run folder"),
        ({"data_error": "train-0.tar: gone"}, "node2, rank 2: the data cannot be read: train-0.tar: gone"),
        ({"operations_per_second": 1e10}, "node2: computes at 25% of the usual speed. All ranks wait for it"),
        ({"images_per_second": 90.0}, "node2: reads and decodes images at 10% of the usual speed."),
    ],
)
def test_what_is_wrong_is_told_with_the_host(changed: dict[str, Any], found: str) -> None:
    (only,) = problems(told(changed))
    assert only.startswith(found)


def test_little_shared_memory_matters_on_gpus_alone() -> None:
    ranks = told({"shared_memory_free_bytes": 1 << 20})
    assert problems(ranks) == []
    (only,) = problems(ranks, "cuda")
    assert "too little for NCCL. In a container start it with --shm-size=1g or --ipc=host" in only


def test_ranks_of_one_machine_are_not_compared_in_speed() -> None:
    assert problems([{**rank, "host": "one"} for rank in told({"operations_per_second": 1e9})]) == []


@pytest.mark.processes
def test_real_ranks_look_around_and_leave_nothing_behind(workplace: Workplace) -> None:
    done = workplace.megabatch("check", "recipe.yaml", "cluster.processes_per_node=3", "--cluster", "laptop", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [rank["rank"] for rank in found["ranks"]] == [0, 1, 2]
    assert found["problems"] == []
    for rank in found["ranks"]:
        assert rank["unseen"] == []
        assert rank["sums_are_right"]
        assert abs(rank["clock_seconds"]) < 5
        assert rank["images_per_second"] > 0
    assert not list((workplace.folder / "runs").glob(".check-*"))


@pytest.mark.processes
def test_shards_that_cannot_be_read_are_told_before_any_rank_starts(workplace: Workplace, tmp_path: Path) -> None:
    done = workplace.megabatch("check", "recipe.yaml", f"data.path={tmp_path}", "--cluster", "laptop")
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
