"""With an unfit node no training begins, and it is named: by the ranks, and to what leaves nodes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megabatch.launcher.requeue import ending
from support.runs import Workplace, environment

pytestmark = pytest.mark.processes


def other_megabatch(folder: Path) -> Path:
    """Return a folder that makes Python believe in another version of this package."""
    told = folder / "megabatch-9.9.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: megabatch\nVersion: 9.9\n")
    return folder


def test_a_node_with_another_version_ends_the_job_before_it_begins(workplace: Workplace, tmp_path: Path) -> None:
    run_dir = workplace.job("unfit", 1, "cluster.nodes=3", "cluster.backend={name: slurm, max_excluded_nodes: 1}")

    def node(number: int) -> subprocess.Popen[bytes]:
        own = {**environment(), "SLURMD_NODENAME": f"node{number}"}
        if number == 1:
            own["PYTHONPATH"] = os.pathsep.join([str(other_megabatch(tmp_path / "path")), own.get("PYTHONPATH", "")])
        command = [
            sys.executable, "-m", "megabatch.trainer.node", "--nodes", "3", "--node-rank", str(number),
            "--meet", "localhost:29748", str(run_dir.job),
        ]  # fmt: skip
        return subprocess.Popen(command, cwd=workplace.folder, env=own, stdout=subprocess.DEVNULL)

    nodes = [node(number) for number in range(3)]
    assert [started.wait(timeout=120) for started in nodes] == [1, 1, 1]
    failures = [json.loads(run_dir.failure(rank).read_text()) for rank in range(3)]
    assert [failure["of_another_rank"] for failure in failures] == [True, False, True]
    assert failures[1]["message"].startswith("has megabatch 9.9, the others ")
    assert "rank 1 on node1 failed: UnfitNodeError: has megabatch 9.9" in failures[0]["message"]
    attempt = ending(run_dir, "7", 1, time_is_up=False)
    assert (attempt.cause, attempt.host) == ("unfit", "node1")
    assert not run_dir.metrics.exists()
    assert not list(run_dir.root.glob(".seen-by-*"))
