"""One Slurm of five nodes for all tests of this folder (one for each process of pytest-xdist)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster.slurm_cluster import SlurmCluster, slurm_cluster

from support.runs import Workplace

CLUSTER = """\
name: two-nodes
nodes: 2
processes_per_node: 1
loader_threads: 1
backend: {name: slurm, partition: all, time_minutes: 10, exclude: node1}
limits: {silent_seconds: 20}
"""


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster


@pytest.fixture
def slurm(running: SlurmCluster, workplace: Workplace) -> SlurmCluster:
    (workplace.folder / "cluster.yaml").write_text(CLUSTER)
    return running
