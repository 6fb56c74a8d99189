"""Keys and tokens do not come into a job by the cluster file."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabatch.configs.cluster import Cluster
from megabatch.launcher.secret_values import secret_problems
from support.runs import Workplace

BACKENDS = {
    "{name: local}": "set it where you start the job",
    "{name: ssh, hosts: [n1]}": "cluster.backend.pass_environment",
    "{name: kubernetes, image: i, claim: c, mount: /}": "cluster.backend.secret",
}


def cluster(name: str, value: str) -> Cluster:
    return Cluster.model_validate({"name": "c", "environment": {name: value}})


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD", "token"])
def test_a_variable_that_is_called_a_secret_is_refused(name: str) -> None:
    (problem,) = secret_problems(cluster(name, "canary"))
    assert problem.message.startswith(f"cluster.environment.{name}: ")
    assert "canary" not in problem.message


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "MONKEY", "KEYBOARD"])
def test_others_are_not(name: str) -> None:
    assert secret_problems(cluster(name, "1")) == []


@pytest.mark.parametrize(("backend", "instead"), BACKENDS.items())
def test_it_is_refused_before_a_file_is_written(workplace: Workplace, backend: str, instead: str) -> None:
    done = workplace.megabatch(
        "launch", "recipe.yaml", f"cluster.backend={backend}", "cluster.environment={MY_TOKEN: canary-in-config}",
        "--dry-run", "--write", "with-secret",
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: cluster.environment.MY_TOKEN: a key or token would be written to job.yaml" in done.stderr
    assert instead in done.stderr
    assert "canary-in-config" not in done.stdout + done.stderr
    assert not Path(workplace.folder / "with-secret").exists()
