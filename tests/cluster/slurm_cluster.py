"""A real Slurm in a temporary folder: munged, slurmctld and several slurmd on this one machine.

The nodes are called node1, node2, ...; those names resolve nowhere, only their NodeAddr does (as on clouds). Runs as any
user: every daemon belongs to whoever starts the cluster.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from megabatch.configs.run_dir import RunDir

DAEMONS = ("munged", "slurmctld", "slurmd")

# Nodes claim 64 CPUs each whatever the machine has; tasks are not bound to any. Partition `low` is preempted at once
# (SIGTERM, and SIGKILL after KillWait), `graceful` may take its time, both by `high`. A requeued job waits for
# cred_expire; a node counts as lost after SlurmdTimeout. node1 is the first to be taken. Ranks of a job meet at a port that
# follows from its number, so two clusters on one machine begin with other numbers.
CONFIGURATION = """\
ClusterName=megabatch
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
FirstJobId={first_job}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait={kill_wait_seconds}
SlurmdTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=60 PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=graceful Nodes=ALL MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=100 PreemptMode=OFF
"""


@dataclass(frozen=True)
class SlurmCluster:
    """A running cluster. `environment` is what a user's shell needs to reach it."""

    folder: Path
    num_nodes: int
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, program: str, *arguments: str, name: str = "") -> None:
        """Start one of the daemons."""
        path = _program(program)
        assert path is not None
        with (self.folder / f"{program}.output").open("ab") as output:
            self.daemons[name or program] = subprocess.Popen(
                [path, *arguments], stdout=output, stderr=output, env={**os.environ, **self.environment}
            )

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self.start("slurmd", "-D", "-N", node, name=node)

    def kill(self, name: str) -> None:
        """Kill a daemon outright: slurmctld, or the slurmd of a node; what runs on the node goes on."""
        self.daemons[name].kill()
        self.daemons[name].wait()

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **self.environment}
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def state(self, number: str) -> str:
        """Return the state of a job: PENDING, RUNNING, COMPLETED, CANCELLED, ..."""
        found = re.search(r"JobState=(\S+)", self.run("scontrol", "show", "job", number))
        assert found is not None
        return found[1]

    def restarts(self, number: str) -> int:
        """Return how often a job was requeued."""
        found = re.search(r"Restarts=(\d+)", self.run("scontrol", "show", "job", number))
        assert found is not None
        return int(found[1])

    def wait(self, number: str, timeout_seconds: float = 120) -> str:
        """Wait until the job has ended and all its processes are gone; return its last state."""
        until(lambda: not self.run("squeue", "--noheader", f"--jobs={number}").strip(), timeout_seconds)
        return self.state(number)


def missing() -> str:
    """Return why no cluster can be started here, or an empty text."""
    absent = [name for name in DAEMONS if _program(name) is None]
    return f"needs {', '.join(absent)}: apt-get install slurm-wlm munge" if absent else ""


@contextmanager
def slurm_cluster(folder: Path, num_nodes: int = 5, kill_wait_seconds: int = 30) -> Iterator[SlurmCluster]:
    """Start a cluster in the folder and stop it again; nothing of it outlives the block."""
    cluster = SlurmCluster(folder, num_nodes)
    _configure(folder, num_nodes, kill_wait_seconds)
    try:
        cluster.start("munged", "--foreground", "--force", "--num-threads=2", *_munge_files(folder))
        until((folder / "munge.socket").exists)
        cluster.start("slurmctld", "-D")
        for number in range(1, num_nodes + 1):
            cluster.start_node(f"node{number}")
        until(lambda: _idle_nodes(cluster) == num_nodes)
        yield cluster
    finally:
        _stop(cluster)


def until(condition: Callable[[], bool], timeout_seconds: float = 60) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s in vain"
        time.sleep(0.1)


def describe(run_dir: RunDir) -> str:
    """Return all logs of a run, for the message of a test that fails."""
    return "\n".join(f"--- {file.name}\n{file.read_text()}" for file in sorted(run_dir.logs.glob("*")))


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def _configure(folder: Path, num_nodes: int, kill_wait_seconds: int) -> None:
    ports = _free_ports(num_nodes + 1)
    host = socket.gethostname()
    nodes = "\n".join(
        f"NodeName=node{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i]} CPUs=64 RealMemory=1000 "
        f"Weight={1 if i == 1 else 10}"
        for i in range(1, num_nodes + 1)
    )
    values = {"folder": folder, "ports": ports, "host": host, "nodes": nodes, "user": getpass.getuser()}
    text = CONFIGURATION.format(**values, first_job=50 * ports[0], kill_wait_seconds=kill_wait_seconds)
    (folder / "state").mkdir(parents=True)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)


def _munge_files(folder: Path) -> list[str]:
    names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    return [f"--{option}={folder}/munge.{name}" for option, name in names.items()]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _idle_nodes(cluster: SlurmCluster) -> int:
    command = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
    environment = {**os.environ, **cluster.environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return len(set(done.stdout.split()))  # a node comes once for each partition


def _stop(cluster: SlurmCluster) -> None:
    """Stop the daemons, then whatever they started: only processes that carry this cluster's SLURM_CONF."""
    for daemon in reversed(cluster.daemons.values()):
        daemon.terminate()
        try:
            daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    until(lambda: not _kill_rest(f"SLURM_CONF={cluster.folder / 'slurm.conf'}".encode()), 20)


def _kill_rest(mark: bytes) -> list[int]:
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environment.parent.name)
        try:
            if pid != os.getpid() and mark in environment.read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                found.append(pid)
        except (OSError, ProcessLookupError):
            continue
    return found
