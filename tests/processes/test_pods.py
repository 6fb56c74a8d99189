"""The commands of a JobSet's pods, run here as a kubelet would: a pod that is asked to stop brings all of them down and
back, and the run goes on exactly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from ruamel.yaml import YAML

from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.backends.kubernetes import render
from support.runs import Workplace, environment, losses, steps_done, trained_samples

pytestmark = pytest.mark.processes
OVERRIDES = ("epochs=12", "checkpoint.every_epochs=12", "model.name=network:unhurried")


def pods(workplace: Workplace, run_dir: RunDir) -> list[subprocess.Popen[bytes]]:
    """Start the container of every pod; the first pod is called localhost."""
    text = render(read_job(run_dir.job), run_dir).script
    assert text is not None
    (replicated,) = YAML(typ="safe", pure=True).load(text)["spec"]["replicatedJobs"]
    job: dict[str, Any] = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    command = [word.replace("localhost-node-0-0.localhost", "localhost") for word in container["command"]]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    return [
        subprocess.Popen(
            command, cwd=container["workingDir"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**environment(), **variables, "JOB_COMPLETION_INDEX": str(index)},
        )
        for index in range(job["completions"])
    ]  # fmt: skip


def test_a_preempted_pod_stops_all_and_they_go_on_exactly(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = f"image: image, claim: claim, mount: {workplace.folder}, python: '{sys.executable}', port: {port}"
    backend = f"cluster.backend={{name: kubernetes, {values}}}"
    (workplace.folder / "kubectl").write_text("")
    (workplace.folder / "kubectl").chmod(0o755)
    with monkeypatch.context() as changed:
        changed.setenv("PATH", str(workplace.folder), prepend=os.pathsep)
        run_dir = workplace.job("localhost", 1, *OVERRIDES, "cluster.nodes=2", backend)
    running = pods(workplace, run_dir)
    deadline = time.monotonic() + 200
    while steps_done(run_dir) < 8:
        assert time.monotonic() < deadline, "the run does not get on"
        assert [pod.poll() for pod in running] == [None, None]
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    assert [pod.wait(timeout=100) for pod in running] == [3, 3]
    at = steps_done(run_dir)
    assert run_dir.checkpoint(at).is_dir()
    assert at < 36
    assert [pod.wait(timeout=200) for pod in pods(workplace, run_dir)] == [0, 0]
    alone = workplace.train("pods-reference", 2, *OVERRIDES)
    assert losses(run_dir) == losses(alone)
    assert trained_samples(run_dir) == trained_samples(alone)
