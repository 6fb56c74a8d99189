"""The soak over several hosts, which are network namespaces of this machine (support/hosts.py): soak.py --hosts N.

One host is a spare, and one at a time is harmed; so the job can always go on with the same number of ranks, by itself
unless its launcher was killed or asked to stop. Then it is resumed here, as a user would do.
"""

from __future__ import annotations

import itertools
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from faults.soak import EPOCHS, RECIPE, SAMPLES, STEPS, Report

from megabatch.configs.metrics import read_metrics
from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.supervise import send
from support.hosts import Hosts
from support.invariants import same_training, violations
from support.runs import Workplace, environment

SILENT, GRACE = 4, 3  # seconds
BETWEEN_HARMS = 8.0  # seconds, on average
_ALL_ENDED = SILENT + GRACE + 30.0
SETTINGS = (*RECIPE, f"epochs={EPOCHS}", "model.name=network:unhurried")
CLUSTER = """\
name: soak
nodes: {nodes}
loader_threads: 1
limits: {{silent_seconds: {silent}}}
backend: {{name: ssh, hosts: {hosts}, config_file: {config}, spares: 1, max_restarts: 1000, grace_seconds: {grace},
           connect_seconds: 2}}
"""


class HostSoak:
    """One recipe on all hosts but one, and the run of it that nothing disturbs."""

    def __init__(self, place: Workplace, cluster: Hosts, seed: int):
        self.place = place
        self.cluster = cluster
        self.dice = random.Random(seed)
        self.report = Report()
        self._seconds = 0.0
        self._useful = 0.0
        self._longest = 0.0
        self._anew = 0
        self._harms: dict[str, Callable[[str], None]] = {
            "link down for 1 s": lambda host: self._link_down(host, 1.0),
            "link down for long": lambda host: self._link_down(host, self.dice.uniform(SILENT, 4 * SILENT)),
            "power lost": self._lose_power,
            "sends into nothing": self._drop,
            "kill a rank": lambda host: self._signal(self._ranks(host), signal.SIGKILL),
            "stop a rank": lambda host: self._signal(self._ranks(host), signal.SIGSTOP),
            "kill an agent": lambda host: self._signal(self._agents(host), signal.SIGKILL),
            "stop an agent": lambda host: self._signal(self._agents(host), signal.SIGSTOP),
            "launcher cut off": lambda _: self._cut_launcher_off(self.dice.uniform(0.5, 3 * SILENT)),
            "kill the launcher": lambda _: self._process.kill(),
            "ask the launcher to stop": lambda _: self._process.terminate(),
        }
        nodes = len(cluster.names) - 1
        text = CLUSTER.format(
            nodes=nodes, silent=SILENT, grace=GRACE, hosts=list(cluster.names), config=cluster.config
        )  # fmt: skip
        (place.folder / "hosts.yaml").write_text(text)
        settings = (*SETTINGS, f"cluster.processes_per_node={nodes}")
        done = place.megabatch("launch", "recipe.yaml", *settings, "--run-dir", "alone", timeout=1800)
        assert done.returncode == 0, done.stderr
        self._alone = RunDir(place.folder / "alone")
        self.report.broken += violations(self._alone.root, SAMPLES, STEPS)
        self._step_seconds = statistics.median(_gaps(self._alone))

    def harm(self, minutes: float) -> Report:
        """Disturb runs until the time is up and the last one has finished."""
        deadline, number = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < deadline:
            self._one_run(RunDir(self.place.folder / f"run-{number}"), deadline)
            number += 1
        return self.report

    def summary(self) -> str:
        """Return how the time was spent."""
        return (
            f"{self._anew} starts anew by the launcher itself; {self._useful / max(self._seconds, 1e-9):.0%} of "
            f"{self._seconds:.0f} s were steps that stayed, at a harm every {BETWEEN_HARMS:.0f} s on average; the longest "
            f"time without a step was {self._longest:.0f} s"
        )

    def _one_run(self, run_dir: RunDir, deadline: float) -> None:
        began, code = time.monotonic(), -1
        while code != 0:
            self._process = self._launch(run_dir)
            while self._process.poll() is None:
                self._wait(self.dice.expovariate(1 / BETWEEN_HARMS))
                if self._process.poll() is None and time.monotonic() < deadline:
                    self._harm_one(run_dir)
            code = self._process.returncode
            self._judge(run_dir, code)
        self._seconds += time.monotonic() - began
        self._useful += STEPS * self._step_seconds
        self._longest = max(self._longest, *_gaps(run_dir))
        self._anew += self._said(run_dir).count("all ranks are started anew")

    def _launch(self, run_dir: RunDir) -> subprocess.Popen[bytes]:
        chosen = ["recipe.yaml", *SETTINGS, "--cluster", "hosts.yaml", "--run-dir", run_dir.root.name]
        if run_dir.job.exists():
            chosen = ["--resume", run_dir.root.name]
        command = [sys.executable, "-c", "from megabatch.launcher.cli import main; main()", "launch", *chosen]
        with (self.place.folder / f"{run_dir.root.name}.said").open("ab") as said:
            return subprocess.Popen(command, cwd=self.place.folder, env=environment(), stdout=said, stderr=said)

    def _said(self, run_dir: RunDir) -> str:
        return (self.place.folder / f"{run_dir.root.name}.said").read_text()

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _harm_one(self, run_dir: RunDir) -> None:
        kind, host = self.dice.choice(list(self._harms)), self.dice.choice(self.cluster.names)
        self._harms[kind](host)
        self.report.harms[kind] += 1
        print(f"{time.strftime('%H:%M:%S')} {run_dir.root.name} {kind} ({host})", flush=True)

    def _link_down(self, host: str, seconds: float) -> None:
        self.cluster.cut_off(host)
        time.sleep(seconds)
        self.cluster.connect(host)

    def _lose_power(self, host: str) -> None:
        self.cluster.lose_power(host)
        time.sleep(self.dice.uniform(1.0, 4 * SILENT))
        self.cluster.boot(host)

    def _drop(self, host: str) -> None:
        self.cluster.drop(host, *(other for other in self.cluster.names if other != host))
        time.sleep(self.dice.uniform(1.0, 3 * SILENT))
        self.cluster.drop_nothing()

    def _cut_launcher_off(self, seconds: float) -> None:
        with self.cluster.without_launcher():
            time.sleep(seconds)

    def _signal(self, pids: list[int], number: signal.Signals) -> None:
        if pids:
            send([self.dice.choice(pids)], number)

    def _ranks(self, host: str) -> list[int]:
        return [pid for pid in self._named(host, b"megabatch.trainer.node") if not descendants(pid)]

    def _agents(self, host: str) -> list[int]:
        return self._named(host, b"megabatch.launcher.hosts.agent")

    def _named(self, host: str, word: bytes) -> list[int]:
        return [pid for pid in self.cluster.processes(host) if word in _command_line(pid)]

    def _judge(self, run_dir: RunDir, code: int) -> None:
        """Nothing may be left on any host, and what was trained must be right."""
        where = f"{run_dir.root.name}, after {sum(self.report.harms.values())} harms: "
        deadline = time.monotonic() + _ALL_ENDED
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        if left:
            self.report.broken.append(f"{where}processes {left} are left")
            send(left, signal.SIGKILL)
        if run_dir.metrics.exists():
            self.report.broken += [where + f for f in violations(run_dir.root, SAMPLES, STEPS if code == 0 else None)]
        if code == 0:
            self.report.finished_runs += 1
            self.report.broken += [where + text for text in same_training(run_dir.root, self._alone.root)]
        elif code == 2 and self._said(run_dir).splitlines()[-1].startswith("error: mb"):
            self.report.harms["(a start was refused, as hosts were bad)"] += 1
        elif code not in (3, -signal.SIGKILL, -signal.SIGTERM):
            self.report.broken.append(f"{where}exit code {code}: {self._said(run_dir)[-600:]}")

    def _left(self) -> list[int]:
        """Return what runs on the hosts, but for agents that were stopped: they hear of nothing."""
        running = [pid for name in self.cluster.names for pid in self.cluster.processes(name)]
        stopped = [pid for pid in running if _is_stopped(pid)]
        send(stopped, signal.SIGKILL)
        return [pid for pid in running if pid not in stopped]


def _gaps(run_dir: RunDir) -> list[float]:
    """Return the seconds from each step to the next one in metrics.jsonl, last attempts only."""
    times = [line["time"] for line in read_metrics(run_dir.metrics, "step")]
    return [after - before for before, after in itertools.pairwise(times)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
