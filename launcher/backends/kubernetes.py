"""Backend `kubernetes`: a JobSet, one pod a node, handed to kubectl.

A pod that is evicted or preempted gets SIGTERM: its ranks tell the others, all save, and every pod ends with code 3
(pod.py). By that, or because Kubernetes marks the pod as a target of disruption, the Job fails for the reason
`PodFailurePolicy`, for which the JobSet starts all pods anew, as often as needed. Any other failure counts toward
`max_restarts`. https://jobset.sigs.k8s.io/docs/concepts/
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.hosts import Kubernetes
from megabatch.configs.job import Job
from megabatch.configs.new_file import FOR_ITS_OWNER, write_new
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import rank_environment
from megabatch.launcher.control_characters import refuse_control_characters
from megabatch.launcher.render import yaml_text
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending, ExitCode

_JOB = "node"
_CONTAINER = "ranks"
_MEMORY = "/dev/shm"  # noqa: S108  # a volume of the pod's own
_LONGEST_NAME = 40  # of 63 that a pod's name may have with what Kubernetes appends to it


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the manifest and the command that hands it over. Raises ConfigError for what no pod would see."""
    backend = _backend(job)
    environment = rank_environment(job)
    refuse_control_characters(job, run_dir, backend.python, environment)
    _require_on_volume(job, run_dir, backend)
    text = yaml_text(_job_set(job, backend, run_dir, environment, trainer_arguments))
    return Submission(["kubectl", "create", "--filename", str(run_dir.manifest)], script=text)


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Write the manifest, hand it to kubectl and return at once."""
    assert submission.script is not None
    run_dir.logs.mkdir(parents=True, exist_ok=True)
    for stale in run_dir.failures():
        stale.unlink()
    write_new(run_dir.manifest, submission.script, FOR_ITS_OWNER)
    done = subprocess.run(submission.argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return Ending(ExitCode.FAILED, f"kubectl refused {run_dir.manifest}: {done.stderr.strip()}")
    name = _name(run_dir)
    say(f"{done.stdout.strip()}: `kubectl get pods --selector jobset.sigs.k8s.io/jobset-name={name}` shows its pods")
    return Ending(ExitCode.DONE, "")


def _backend(job: Job) -> Kubernetes:
    assert isinstance(job.cluster.backend, Kubernetes)
    return job.cluster.backend


def _require_on_volume(job: Job, run_dir: RunDir, backend: Kubernetes) -> None:
    problems = [
        Problem("", f"{what} {folder} is not below cluster.backend.mount={backend.mount}, which is all that the pods "
                f"share with this machine. {remedy}")
        for what, folder, remedy in (
            ("the run folder", run_dir.root, "Instead: --run-dir there"),
            ("the working folder", Path(job.working_folder), "Launch from a folder there"),
        )
        if run_dir.root.is_absolute() and not folder.is_relative_to(backend.mount)
    ]  # fmt: skip
    if problems:
        raise ConfigError(problems)


def _job_set(
    job: Job, backend: Kubernetes, run_dir: RunDir, environment: dict[str, str], trainer_arguments: Sequence[str]
) -> dict[str, Any]:  # Any: YAML
    name = _name(run_dir)
    metadata = {"name": name, **({"namespace": backend.namespace} if backend.namespace else {})}
    evicted = [{"type": "DisruptionTarget", "status": "True"}]
    stopped = {"containerName": _CONTAINER, "operator": "In", "values": [ExitCode.STOPPED.value]}
    pods = {
        "parallelism": job.cluster.nodes,
        "completions": job.cluster.nodes,
        "completionMode": "Indexed",  # a pod's index is its node's number
        "backoffLimit": 0,  # one pod alone is never started anew
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": evicted},
                {"action": "FailJob", "onExitCodes": stopped},  # the pods that stopped with it
            ]
        },
        "template": {"spec": _pod(job, backend, name, run_dir, environment, trainer_arguments)},
    }
    preempted = {
        "name": "preempted",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": name},
            "failurePolicy": {"maxRestarts": backend.max_restarts, "rules": [preempted]},
            "replicatedJobs": [{"name": _JOB, "replicas": 1, "template": {"spec": pods}}],
        },
    }


def _pod(
    job: Job, backend: Kubernetes, name: str, run_dir: RunDir, environment: dict[str, str], arguments: Sequence[str]
) -> dict[str, Any]:  # Any: YAML
    first_pod = f"{name}-{_JOB}-0-0.{name}"
    command = [
        backend.python, "-m", "megabatch.launcher.pod", "--meet", f"{first_pod}:{backend.port}",
        str(run_dir.job), *arguments,
    ]  # fmt: skip
    container: dict[str, Any] = {
        "name": _CONTAINER,
        "image": backend.image,
        "command": [_literal(word) for word in command],
        "workingDir": job.working_folder,
        "env": [{"name": key, "value": _literal(value)} for key, value in environment.items()],
        "resources": _resources(job, backend),
        "volumeMounts": [{"name": "shared", "mountPath": backend.mount}, {"name": "memory", "mountPath": _MEMORY}],
    }
    if backend.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": backend.secret}}]
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": backend.grace_seconds,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsUser": os.getuid(), "runAsGroup": os.getgid()},  # who may read job.yaml
        "containers": [container],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": backend.claim}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},  # NCCL needs more than the 64 MiB of a container
        ],
    }


def _resources(job: Job, backend: Kubernetes) -> dict[str, dict[str, str]]:
    cluster = job.cluster
    threads = cluster.processes_per_node * (cluster.threads_per_process + cluster.loader_threads)
    asked = {"cpu": str(backend.cpus or threads)}
    if backend.memory_gigabytes is not None:
        asked["memory"] = f"{backend.memory_gigabytes}G"
    gpus = {"nvidia.com/gpu": str(cluster.processes_per_node)} if cluster.device == "cuda" else {}
    return {"requests": {**asked, **gpus}, **({"limits": gpus} if gpus else {})}


def _literal(text: str) -> str:
    """Return a text that Kubernetes hands on as it is: it fills in $(NAME), and takes $$ for $.

    >>> _literal("/runs/$(HOME)")
    '/runs/$$(HOME)'
    """
    return text.replace("$", "$$")


def _name(run_dir: RunDir) -> str:
    """Return a name for the JobSet: that of the run folder, in signs that a host name may have.

    >>> _name(RunDir(Path("/shared/runs/Digits_2-20261121-181200")))
    'digits-2-20261121-181200'
    """
    plain = re.sub(r"[^a-z0-9]+", "-", run_dir.root.name.lower()).strip("-")
    return re.sub(r"^(?=[0-9])|^$", "run-", plain)[:_LONGEST_NAME].rstrip("-")
