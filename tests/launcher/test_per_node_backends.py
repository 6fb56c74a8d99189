"""`accelerate launch` and `deepspeed`: the commands, and the files as those programs read them."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig
from deepspeed.launcher.runner import fetch_hostfile

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import launch
from megabatch.launcher.backends import per_node
from megabatch.launcher.submission import Submission

TWO_NODES = ("cluster.nodes=2", "cluster.backend.address=n1")


def made(run_dir: RunDir, backend: str, *overrides: str) -> tuple[Job, Submission]:
    loaded = load("digits", "laptop", [f"cluster.backend={{name: {backend}}}", *overrides])
    job = Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder="/project", data_fingerprint="", version="")
    submission = launch.render(job, run_dir)
    submission.write_files()
    return job, submission


@pytest.mark.parametrize(
    ("overrides", "kind", "ranks", "nodes", "address"),
    [
        ((), "MULTI_GPU", 2, 1, "127.0.0.1"),
        (("cluster.processes_per_node=1",), "NO", 1, 1, "127.0.0.1"),
        (TWO_NODES, "MULTI_GPU", 4, 2, "n1"),
    ],
)
def test_accelerate_reads_its_config(
    tmp_path: Path, overrides: tuple[str, ...], kind: str, ranks: int, nodes: int, address: str
) -> None:
    run_dir = RunDir(tmp_path)
    _, submission = made(run_dir, "accelerate", *overrides)
    read = ClusterConfig.from_yaml_file(str(run_dir.accelerate_config))
    assert (read.distributed_type.value, read.num_processes, read.num_machines) == (kind, ranks, nodes)
    assert (read.main_process_ip, read.main_process_port, read.mixed_precision) == (address, 29500, "no")
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"{tmp_path}/accelerate.yaml"]
    machine = ["--machine_rank", "0"] if nodes > 1 else []
    assert submission.argv == [*start, *machine, "-m", "megabatch.trainer", f"{tmp_path}/job.yaml"]


@pytest.mark.parametrize(("overrides", "slots"), [((), [2]), (TWO_NODES, [2, 2])])
def test_deepspeed_reads_its_hostfile(tmp_path: Path, overrides: tuple[str, ...], slots: list[int]) -> None:
    run_dir = RunDir(tmp_path)
    _, submission = made(run_dir, "deepspeed", *overrides)
    assert list(fetch_hostfile(str(run_dir.hostfile)).values()) == slots
    address = "n1" if len(slots) > 1 else "127.0.0.1"
    assert submission.argv == [
        sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", f"{tmp_path}/hostfile", "--no_ssh",
        "--node_rank", "0", "--master_addr", address, "--master_port", "29500", "--no_local_rank", "--quiet",
        "--module", "megabatch.trainer", f"{tmp_path}/job.yaml",
    ]  # fmt: skip
    assert submission.environment["DS_ACCELERATOR"] == "cpu"


@pytest.mark.parametrize("backend", ["accelerate", "deepspeed"])
def test_a_port_that_is_taken_is_told_before_the_start(tmp_path: Path, backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job, submission = made(RunDir(tmp_path), backend, f"cluster.backend.port={port}")
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            per_node.submit(submission, job, RunDir(tmp_path), print)
