"""The manifest against the models that Kubeflow generates from Kubernetes' own schema, and what a fake kubectl gets.

No cluster is here; tests/processes/test_pods.py runs the commands of its pods on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from ruamel.yaml import YAML

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.backends.kubernetes import render, submit
from megabatch.launcher.supervise import ExitCode

BACKEND = "{name: kubernetes, image: 'registry/me/megabatch:0.1', claim: shared, mount: /shared, secret: keys}"


def job(*overrides: str, folder: str = "/shared/project") -> Job:
    loaded = load("digits", "laptop", ["cluster.nodes=2", f"cluster.backend={BACKEND}", *overrides])
    return Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=folder, data_fingerprint="", version="0.1.0"
    )


def manifest(made: Job, run_dir: str = "/shared/runs/digits-1", arguments: Sequence[str] = ()) -> dict[str, Any]:
    text = render(made, RunDir(Path(run_dir)), arguments).script
    assert text is not None
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return values


def pods(values: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = values["spec"]["replicatedJobs"]
    found: dict[str, Any] = replicated["template"]["spec"]
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("cluster.device=cuda", "cluster.backend.memory_gigabytes=64", "cluster.backend.namespace=mine"),
        ("cluster.backend.secret=null", "cluster.environment={NCCL_DEBUG: INFO}"),
    ],
)
def test_every_key_is_one_that_kubernetes_knows(overrides: Sequence[str]) -> None:
    values = manifest(job(*overrides))
    read = JobsetV1alpha2JobSet.from_dict(values)
    assert read is not None
    assert read.to_dict() == values  # a key that is none would be missing, one of another type be refused


def test_a_pod_is_a_node_and_they_meet_at_the_first() -> None:
    values = manifest(job(), arguments=["--evaluate", "test"])
    assert (pods(values)["completions"], pods(values)["parallelism"]) == (2, 2)
    pod = pods(values)["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == [
        "python", "-m", "megabatch.launcher.pod", "--meet", "digits-1-node-0-0.digits-1:29500",
        "/shared/runs/digits-1/job.yaml", "--evaluate", "test",
    ]  # fmt: skip
    assert values["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "digits-1"}
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert pod["securityContext"]["runAsUser"] == os.getuid()
    assert container["resources"]["requests"]["cpu"] == "4"  # 2 ranks, each a thread to compute and one to load


def test_what_stopped_on_request_is_started_again_without_end_and_what_failed_is_not() -> None:
    values = manifest(job("cluster.backend.max_restarts=5"))
    policy = values["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 5
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    evicted, stopped = pods(values)["podFailurePolicy"]["rules"]
    assert evicted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert stopped["onExitCodes"]["values"] == [ExitCode.STOPPED.value]
    assert pods(values)["backoffLimit"] == 0
    assert pods(values)["template"]["spec"]["restartPolicy"] == "Never"


def test_folders_that_the_pods_do_not_have_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        manifest(job(folder="/home/me"), "/tmp/run")
    told = sorted(problem.message.partition(" is not below")[0] for problem in caught.value.problems)
    assert told == ["the run folder /tmp/run", "the working folder /home/me"]


@pytest.mark.parametrize(
    "override",
    ["cluster.backend.image='a b'", "cluster.backend.claim=Shared", "cluster.backend.mount=shared",
     "cluster.backend.secret='a/b'", "cluster.backend.namespace=-x"],
)  # fmt: skip
def test_a_name_that_kubernetes_would_not_take_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0].removeprefix("cluster.")):
        job(override)


@pytest.mark.parametrize(("code", "ending"), [(0, ExitCode.DONE), (1, ExitCode.FAILED)])
def test_kubectl_gets_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, ending: ExitCode
) -> None:
    (tmp_path / "kubectl").write_text(
        f'#!/bin/sh\necho "$@" > "{tmp_path}/called"; echo created; echo why >&2; exit {code}'
    )
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    made = job(f"cluster.backend.mount={tmp_path}", folder=str(tmp_path))
    run_dir = RunDir(tmp_path / "run")
    told: list[str] = []
    found = submit(render(made, run_dir), made, run_dir, told.append)
    assert (tmp_path / "called").read_text() == f"create --filename {run_dir.manifest}\n"
    assert run_dir.manifest.stat().st_mode & 0o777 == 0o600
    assert found.code == ending
    if code:
        assert found.message == f"kubectl refused {run_dir.manifest}: why"
    else:
        assert told == ["created: `kubectl get pods --selector jobset.sigs.k8s.io/jobset-name=run` shows its pods"]
