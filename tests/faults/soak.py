"""Harms a training at random moments, again and again, and judges what it leaves each time (support/invariants.py).

    python tests/faults/soak.py --harms 50 --seed 0 --ranks 2 --engine ddp --folder /tmp/soak
    python tests/faults/soak.py --minutes 30 --folder /tmp/soak
    python tests/faults/soak.py --minutes 30 --hosts 4 --folder /tmp/soak          # soak_hosts.py; needs root

A run is started, harmed and resumed until it finishes; then the next one begins, until all harms are used. Every run
must end with the losses, weights and optimizer state of one that was left alone, bit for bit. The moments and victims
are a function of the seed; what they hit depends on the machine.
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.supervise import send
from support.hosts import hosts
from support.invariants import same_training, violations
from support.runs import Workplace, is_of_run, steps_done
from support.shards import dataset

SAMPLES, EPOCHS, STEPS = 44, 200, 600
RECIPE = (
    f"epochs={EPOCHS}", "checkpoint.every_epochs=50", "checkpoint.every_steps=4", "evaluation.every_epochs=20",
    "data.validation_split=validation", "averaging={name: ema, decay: 0.9}",
)  # fmt: skip
KINDS = ("kill a rank", "kill all", "pause a rank", "ask to stop")
LONGEST_WAIT = 10.0  # seconds from the start of the command to the harm
_ORPHANS_GONE = 3.0  # seconds


@dataclass
class Report:
    """What was done, and what came of it."""

    harms: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    seconds_to_end: list[float] = field(default_factory=list)
    finished_runs: int = 0

    def __str__(self) -> str:
        """Return a few lines for a person."""
        lines = [f"{count:4d} x {what}" for what, count in sorted(self.harms.items())]
        lines.append(f"{self.finished_runs} runs finished")
        if self.seconds_to_end:
            lines.append(f"the longest time from a kill to the end was {max(self.seconds_to_end):.1f} s")
        lines += [f"broken promise: {text}" for text in self.broken] or ["no promise was broken"]
        return "\n".join(lines)


class Soak:
    """One recipe on a number of ranks, and the run of it that nothing disturbs."""

    def __init__(self, place: Workplace, seed: int, ranks: int, engine: str):
        self.place = place
        self.dice = random.Random(seed)
        self.report = Report()
        self._settings = (*RECIPE, f"engine={engine}", f"cluster.processes_per_node={ranks}")
        self._name = f"soak-{ranks}-{seed}"
        done = place.megabatch("launch", "recipe.yaml", *self._settings, "--run-dir", f"{self._name}-alone")
        assert done.returncode == 0, done.stderr
        self._alone = place.folder / f"{self._name}-alone"
        self.report.broken += violations(self._alone, SAMPLES, STEPS)

    def harm(self, harms: int, minutes: float = math.inf) -> Report:
        """Disturb runs until `harms` are done or the time is up, and the last run has finished."""
        left, number, deadline = harms, 0, time.monotonic() + 60 * minutes
        while left > 0 and time.monotonic() < deadline:
            run_dir = RunDir(self.place.folder / f"{self._name}-{number}")
            left = self._one_run(run_dir, left)
            number += 1
        return self.report

    def _one_run(self, run_dir: RunDir, left: int) -> int:
        """Start and harm one run until it has finished; return how many harms are left."""
        name = run_dir.root.name
        while True:
            chosen = ("--resume", name) if run_dir.job.exists() else ("recipe.yaml", *self._settings, "--run-dir", name)
            process = self.place.popen("launch", *chosen)
            harmed = left > 0 and self._harm_one(process.pid, run_dir)
            left -= harmed
            began = time.monotonic()
            code = process.wait(timeout=600)
            if code not in (0, 3):
                self.report.seconds_to_end.append(time.monotonic() - began)
            self._judge(run_dir, code, harmed)
            if code == 0:
                return left

    def _harm_one(self, pid: int, run_dir: RunDir) -> bool:
        """Wait a random time and do one harm; False if the command ended before."""
        kind, moment = self.dice.choice(KINDS), self.dice.uniform(0.0, LONGEST_WAIT)
        deadline = time.monotonic() + moment
        while time.monotonic() < deadline:
            if _ended(pid):
                return False
            time.sleep(0.002)
        below = descendants(pid)
        ranks = [child for child in below if not descendants(child)]
        when = _phase(run_dir, ranks)
        if kind == "ask to stop":
            send([pid], signal.SIGTERM)
        elif kind == "kill all" or not ranks:
            kind = "kill all"
            send([pid, *below], signal.SIGKILL)
        elif kind == "kill a rank":
            send([self.dice.choice(ranks)], signal.SIGKILL)
        else:
            victim = self.dice.choice(ranks)
            send([victim], signal.SIGSTOP)
            time.sleep(3.0)
            send([victim], signal.SIGCONT)
        self.report.harms[f"{kind} {when}"] += 1
        return True

    def _judge(self, run_dir: RunDir, code: int, harmed: bool) -> None:
        where = f"{run_dir.root.name}, after {sum(self.report.harms.values())} harms: "
        finished = STEPS if code == 0 else None
        if run_dir.metrics.exists():
            found = violations(run_dir.root, SAMPLES, finished)
            self.report.broken += [where + text for text in found]
        if code == 0:
            self.report.finished_runs += 1
            self.report.broken += [where + text for text in same_training(run_dir.root, self._alone)]
        elif not harmed:
            self.report.broken.append(f"{where}exit code {code} though nothing was done to it")
        if orphans := _orphans(run_dir):
            self.report.broken.append(f"{where}processes {orphans} are left")
            send(orphans, signal.SIGKILL)


def _phase(run_dir: RunDir, ranks: list[int]) -> str:
    """Return what the run seems to be doing, from outside."""
    if not ranks:
        return "before there are ranks"
    if any(run_dir.checkpoints.glob(".*.saving")):
        return "while saving"
    log = max((file.stat().st_mtime for file in (run_dir.root / "samples").glob("*")), default=0.0)
    return "while training" if steps_done(run_dir) and time.time() - log < 0.5 else "while starting"


def _ended(pid: int) -> bool:
    """Return whether a child has ended; it stays a zombie until it is waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _orphans(run_dir: RunDir) -> list[int]:
    """Return the processes of the run that outlive its end by more than they may."""
    deadline = time.monotonic() + _ORPHANS_GONE
    while (left := _of_run(run_dir)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _of_run(run_dir: RunDir) -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if is_of_run(int(folder.name), run_dir)]


def main() -> int:
    """Do what the command line asks for, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--harms", type=int, default=50)
    parser.add_argument("--minutes", type=float, help="go on that long, however many harms it takes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--engine", default="ddp", help="as in a recipe, such as '{name: fsdp, min_parameters: 100}'")
    parser.add_argument("--hosts", type=int, help="train over ssh on so many network namespaces, one of them a spare")
    parser.add_argument("--folder", type=Path, required=True, help="a new folder for data and runs")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    dataset(arguments.folder, {"train": SAMPLES, "validation": 15, "test": 15})
    place = Workplace(arguments.folder)
    place.write()
    began = time.monotonic()
    if arguments.hosts is not None:
        return _harm_hosts(place, arguments)
    wish = (arguments.harms,) if arguments.minutes is None else (sys.maxsize, arguments.minutes)
    report = Soak(place, arguments.seed, arguments.ranks, arguments.engine).harm(*wish)
    print(f"{report}\n{time.monotonic() - began:.0f} s")
    return 1 if report.broken else 0


def _harm_hosts(place: Workplace, arguments: argparse.Namespace) -> int:
    from faults.soak_hosts import HostSoak

    with hosts(arguments.folder.absolute() / "hosts", arguments.hosts) as cluster:
        soak = HostSoak(place, cluster, arguments.seed)
        report = soak.harm(arguments.minutes or 5.0)
    print(f"{report}\n{soak.summary()}")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
