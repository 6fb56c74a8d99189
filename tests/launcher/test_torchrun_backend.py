"""The command for every machine, and how many ranks may answer it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.launch import render
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.world import read_world


def cluster(**values: object) -> Cluster:
    backend = {"name": "torchrun", "endpoint": "node1:29500", **values}
    return Cluster.model_validate({"name": "two", "nodes": 3, "processes_per_node": 2, "backend": backend})


def command(chosen: Cluster) -> str:
    loaded = load("digits", "laptop")
    job = Job(recipe=loaded.recipe, cluster=chosen, working_folder="/project", data_fingerprint="", version="")
    return str(render(job, RunDir(Path("/project/runs/mine"))))


def test_every_machine_gets_one_command_that_names_where_they_meet() -> None:
    start = f"OMP_NUM_THREADS=1 TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 {sys.executable} -m torch.distributed.run"
    meeting = "--rdzv-backend c10d --rdzv-endpoint node1:29500 --rdzv-id mine --nproc-per-node 2"
    end = "-m megabatch.trainer /project/runs/mine/job.yaml"
    assert command(cluster()) == f"{start} --nnodes 3 {meeting} {end}"
    elastic = command(cluster(min_nodes=2, max_restarts=5))
    assert elastic == f"{start} --nnodes 2:3 {meeting} --max-restarts 5 {end}"


def test_only_whole_machines_and_enough_of_them_train() -> None:
    allowed = {None: {6}, 1: {2, 4, 6}, 2: {4, 6}, 3: {6}}
    for min_nodes, counts in allowed.items():
        chosen = cluster(min_nodes=min_nodes)
        assert {count for count in range(9) if chosen.may_have(count)} == counts
        for count in range(1, 9):
            environment = {"WORLD_SIZE": str(count), "RANK": "0", "LOCAL_RANK": "0"}
            if count in counts:
                assert read_world(chosen, environment).num_ranks == count
            else:
                with pytest.raises(TrainingError, match=f"but {count} were started"):
                    read_world(chosen, environment)


def test_the_message_says_how_many_machines_are_enough() -> None:
    with pytest.raises(TrainingError, match=r"2 to 3 nodes x 2.*--nnodes 2:3 --nproc-per-node 2"):
        read_world(cluster(min_nodes=2), {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cluster.backend={name: torchrun, endpoint: 'node1:29500', min_nodes: 2}", "min_nodes=2 is more than nodes=1"),
        ("cluster.backend={name: torchrun, endpoint: node1}", "backend.endpoint: .*write HOST:PORT"),
        ("cluster.backend={name: torchrun}", "endpoint"),
        ("cluster.backend={name: local, max_restarts: -1}", "max_restarts"),
    ],
)
def test_a_mistake_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("digits", "laptop", [override])
