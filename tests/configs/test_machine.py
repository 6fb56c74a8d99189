"""`auto` in a cluster file: what this machine has, and only where the ranks run here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs import machine
from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load

AUTO = dict.fromkeys(["device", "processes_per_node", "threads_per_process", "loader_threads"], "auto")


@given(st.integers(0, 16), st.integers(1, 512), st.sets(st.sampled_from(list(AUTO))))
def test_numbers_are_whole_and_above_zero_and_what_was_written_stays(gpus: int, cores: int, written: set[str]) -> None:
    by_hand = {"device": "cpu", "processes_per_node": 3, "threads_per_process": 5, "loader_threads": 7}
    values = machine.with_numbers({**AUTO, **{key: by_hand[key] for key in written}}, gpus, cores)
    assert all(values[key] == by_hand[key] for key in written)
    assert values["device"] == ("cuda" if gpus and "device" not in written else "cpu")
    numbers = [values[key] for key in AUTO if key != "device"]
    assert all(isinstance(number, int) and number >= 1 for number in numbers)
    assert written or gpus == 0 or values["processes_per_node"] == gpus
    if not written and values["processes_per_node"] <= cores:
        assert values["processes_per_node"] * values["threads_per_process"] <= cores


def test_gpus_are_those_of_the_driver_and_no_more_than_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    monkeypatch.setattr(machine, "NVIDIA_DEVICES", tmp_path)
    assert machine.gpus({}) == 4
    assert machine.gpus({"CUDA_VISIBLE_DEVICES": "2,3"}) == 2
    assert machine.gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0
    loaded = load("digits", "this-machine").cluster
    assert (loaded.device, loaded.processes_per_node) == ("cuda", 4)


def test_this_machine_is_a_cluster_file() -> None:
    loaded = load("digits", "this-machine", ["cluster.device=cpu"]).cluster
    assert loaded.processes_per_node == 1
    assert loaded.threads_per_process == machine.cores()


@pytest.mark.parametrize(
    "others", ["cluster.nodes=2", "cluster.backend=slurm", "cluster.backend={name: ssh, hosts: [a]}"]
)
def test_auto_is_refused_where_the_ranks_run_on_other_machines(others: str) -> None:
    with pytest.raises(ConfigError, match=r"this-machine.yaml.*:3.*device: auto is what this machine has"):
        load("digits", "this-machine", [others])
