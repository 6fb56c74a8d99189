"""Jobs over ssh on the hosts of support/hosts.py: their cluster file, how they are started and waited for."""

from __future__ import annotations

import subprocess
import sys
import time

from cluster.slurm_cluster import describe

from megabatch.configs.run_dir import RunDir
from support.hosts import Hosts
from support.runs import Workplace, environment, steps_done

TOKEN = "canary-token-8c1d"


def cluster_file(cluster: Hosts, silent_seconds: int = 5, **values: object) -> str:
    """Return the text of a cluster file with all hosts, and with further keys of its backend."""
    backend = {"name": "ssh", "hosts": list(cluster.names), "config_file": str(cluster.config), **values}
    inside = ", ".join(f"{key}: {value}" for key, value in backend.items() if value is not None)
    nodes = len(cluster.names) - int(str(values.get("spares", 0)))
    limits = f"limits: {{silent_seconds: {silent_seconds}}}"
    return f"name: three\nnodes: {nodes}\nloader_threads: 1\n{limits}\nbackend: {{{inside}}}\n"


def started(place: Workplace, *arguments: str) -> subprocess.Popen[str]:
    """Start `megabatch launch` as a user does."""
    command = [sys.executable, "-c", "from megabatch.launcher.cli import main; main()", "launch", *arguments]
    inside = {**environment(), "SOME_TOKEN": TOKEN}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place.folder, env=inside, stdout=pipe, stderr=pipe, text=True)


def wait_for_step(run_dir: RunDir, step: int, launcher: subprocess.Popen[str]) -> None:
    """Return once the run has trained so far; end it and tell what it said if it does not get there."""
    deadline = time.monotonic() + 120
    while steps_done(run_dir) < step:
        if launcher.poll() is not None or time.monotonic() > deadline:
            launcher.kill()
            raise AssertionError("".join(launcher.communicate()) + describe(run_dir))
        time.sleep(0.1)


def ended(launcher: subprocess.Popen[str], run_dir: RunDir, code: int) -> str:
    """Return what the launcher said in the end."""
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == code, out + err + describe(run_dir)
    return out + err


def nothing_runs_on(cluster: Hosts) -> bool:
    return not any(cluster.processes(name) for name in cluster.names)
