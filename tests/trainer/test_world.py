"""A world that differs from the job is refused, before anything is built."""

from __future__ import annotations

import pytest
import torch

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.world import World, join, leave, read_world


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


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"RANK": "1"}, "RANK=1 is set, but WORLD_SIZE is not"),
        ({"WORLD_SIZE": "1"}, "WORLD_SIZE=1 is set, but RANK is not"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is none of WORLD_SIZE=2 ranks, which count from 0"),
        ({"RANK": "a", "WORLD_SIZE": "1"}, "RANK=a is no number"),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "-1"}, "LOCAL_RANK=-1 is no number"),
        ({"RANK": "\u0663", "WORLD_SIZE": "9"}, "is no number"),
    ],
)
def test_variables_that_contradict_each_other_are_refused_with_what_to_do(variables: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        read_world(Cluster(name="x"), variables)
    assert "unset them for one rank by hand, or start with torchrun" in str(caught.value)


def test_ranks_without_a_place_to_meet_do_not_train_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="2 ranks, but no MASTER_ADDR to meet at"):
        join(World(0, 2, 0, torch.device("cpu")), Cluster(name="x", processes_per_node=2))


def test_an_address_left_over_from_another_job_does_not_keep_a_single_rank_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.255.255.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv("RANK", raising=False)
    threads = torch.get_num_threads()
    join(World(0, 1, 0, torch.device("cpu")), Cluster(name="x"))
    try:
        assert torch.distributed.get_world_size() == 1
    finally:
        leave()
        torch.set_num_threads(threads)
