"""Hostfiles and accelerate configs as cluster files: what becomes of each key, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from megabatch.configs.cluster import Cluster
from megabatch.configs.load import load
from megabatch.launcher.cli import app

FROM_ACCELERATE = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: FSDP
downcast_bf16: 'no'
enable_cpu_affinity: true
gpu_ids: 0,2
fsdp_config: {fsdp_version: 2}
machine_rank: 1
main_process_ip: 10.0.0.1
main_process_port: 29600
main_training_function: main
mixed_precision: bf16
num_machines: 3
num_processes: 6
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
use_cpu: false
"""


def ran(file: Path, text: str, *options: str) -> Result:
    file.write_text(text)
    return CliRunner().invoke(app, ["cluster", "import", str(file), *options])


def imported(file: Path, text: str, *options: str) -> tuple[Cluster, list[str]]:
    """Return the cluster that the written file stands for, and the notes."""
    written = file.with_name("written.yaml")
    done = ran(file, text, "--output", str(written), *options)
    assert done.exit_code == 0, done.output
    cluster = load("digits", str(written)).cluster
    assert written.read_text() in ran(file, text, *options).stdout
    written.unlink()
    return cluster, done.stderr.splitlines()


def refused(file: Path, text: str, *options: str) -> list[str]:
    done = ran(file, text, *options)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    return [line.removeprefix("error: ").replace(f"{file.parent}/", "") for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    "text",
    [
        "node1 slots=4\nnode2 slots=4\n",  # DeepSpeed
        "# of the lab\n\nnode1:4\nnode2:4   # new\n",  # MPICH
        "node1 slots=4 max_slots=4\nnode2  slots = 4\n",  # Open MPI
    ],
)
def test_hostfiles_of_every_kind_say_the_same(tmp_path: Path, text: str) -> None:
    cluster, notes = imported(tmp_path / "hostfile", text)
    expected = {
        "name": "hostfile", "nodes": 2, "processes_per_node": 4, "device": "cuda",
        "backend": {"name": "ssh", "hosts": ("node1", "node2")},
    }  # fmt: skip
    assert cluster == Cluster.model_validate(expected)
    assert len(notes) == 1


def test_what_a_hostfile_does_not_say_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "hosts.of.lab"
    (told,) = refused(file, "node1\nnode2\n")
    assert "give --ranks-per-host N" in told
    cluster, _ = imported(file, "node1\n[fd00::2]\n", "--ranks-per-host", "2", "--device", "cpu")
    assert (cluster.num_ranks, cluster.device, cluster.name) == (4, "cpu", "hosts.of")
    assert cluster.backend.hosts == ("node1", "fd00::2")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("node1 slots=4\nnode2 slots=2\n", "hostfile: the hosts have different numbers of slots (node1 4, node2 2)."),
        ("node1 slots=4\nnode1 slots=2\n", "hostfile:2: node1 is there twice"),
        ("node1 slots=many\n", "hostfile:1: 'node1 slots=many' is no host"),
        ("node1:4 slots=4\n", "hostfile:1: 'node1:4 slots=4' is no host"),
        ("-oProxyCommand=sh slots=1\n", "hostfile:1: '-oProxyCommand=sh slots=1' is no host"),
        ("$(touch canary) slots=1\n", "hostfile:1: '$(touch canary) slots=1' is no host"),
        ("# nobody\n", "hostfile: has no host"),
    ],
)
def test_a_hostfile_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (line,) = refused(tmp_path / "hostfile", text)
    assert line.startswith(told)


def test_every_key_of_an_accelerate_config_is_taken_or_told(tmp_path: Path) -> None:
    cluster, notes = imported(tmp_path / "default_config.yaml", FROM_ACCELERATE)
    expected = {
        "name": "default_config", "nodes": 3, "processes_per_node": 2, "device": "cuda",
        "backend": {"name": "accelerate", "address": "10.0.0.1", "port": 29600},
        "environment": {"CUDA_VISIBLE_DEVICES": "0,2", "ACCELERATE_CPU_AFFINITY": "1"},
    }  # fmt: skip
    assert cluster == Cluster.model_validate(expected)
    assert notes == [
        "note: distributed_type: FSDP: engine: fsdp in the recipe",
        "note: fsdp_config: ...: engine: fsdp in the recipe, with options of its own (docs/engines.md)",
        "note: machine_rank: 1: every node says its own when it is started",
        "note: mixed_precision: bf16: precision in the recipe",
        "note: same_network: True: has no meaning here",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("num_processes: 7", "num_processes: 7 on num_machines=3: every machine must have as many as the others"),
        ("num_processes: -1", "num_processes: -1 is no number of processes or machines"),
        ("distributed_type: XLA", "distributed_type: XLA is nothing that can be trained with here"),
        ("distributed_type: 'NO'", "distributed_type: NO, but num_processes is 6"),
        (
            "compute_environment: AMAZON_SAGEMAKER",
            "compute_environment: AMAZON_SAGEMAKER is nothing that can be started",
        ),
        ("main_process_ip: null", "num_machines: 3, but no main_process_ip says where they meet"),
        ("gpu_ids: '1'", "gpu_ids: 1 has another number of GPUs than a machine has processes, 2"),
        ("gpu_ids: $(id)", "gpu_ids: '$(id)' is no list of numbers"),
        ("num_machnes: 3", "num_machnes: accelerate has no such key. Did you mean num_machines?"),
    ],
)
def test_contradictions_and_unknown_keys_are_refused(tmp_path: Path, line: str, told: str) -> None:
    key = line.partition(":")[0]
    text = "".join(row + "\n" for row in FROM_ACCELERATE.splitlines() if not row.startswith(f"{key}:")) + f"{line}\n"
    (found,) = refused(tmp_path / "config.yaml", text)
    assert f": {told}" in found
    assert found.startswith("config.yaml:")


def test_a_config_of_gpus_on_the_cpu_is_refused(tmp_path: Path) -> None:
    (told,) = refused(tmp_path / "config.yaml", "distributed_type: MULTI_GPU\nnum_processes: 2\nuse_cpu: true\n")
    assert told.endswith("use_cpu: true, but distributed_type is MULTI_GPU. One of the two is wrong")


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    written = tmp_path / "mine.yaml"
    written.write_text("mine\n")
    assert ran(tmp_path / "hostfile", "node1 slots=1\n", "--output", str(written)).exit_code == 2
    assert written.read_text() == "mine\n"
