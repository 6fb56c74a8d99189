"""A world that differs from the job is refused, before anything is built."""

from __future__ import annotations

import pytest

from megabatch.configs.cluster import Cluster
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.world import read_world


def test_ranks_are_read_from_the_environment_of_torchrun() -> None:
    environment = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    world = read_world(Cluster(name="x", nodes=2, processes_per_node=2), environment)
    assert (world.rank, world.num_ranks, world.rank_of_node, world.is_main) == (3, 4, 1, False)


def test_a_single_process_needs_no_launcher() -> None:
    assert read_world(Cluster(name="x"), {}).num_ranks == 1


def test_another_number_of_ranks_than_the_job_asks_for_is_refused_with_both_remedies() -> None:
    with pytest.raises(TrainingError) as caught:
        read_world(Cluster(name="x", processes_per_node=2), {})
    assert str(caught.value) == (
        "the job asks for 2 ranks (1 nodes x 2), but 1 were started. "
        "Start torchrun --nproc-per-node 2 -m megabatch.trainer job.yaml, or write a job for 1 ranks: "
        "megabatch launch RECIPE cluster.nodes=1 cluster.processes_per_node=1 --dry-run --write RUN_DIR"
    )
