"""`megabatch drill`: interrupts a run on purpose, and proves from its folder that it came back exactly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.json_files import tail
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import arrange
from megabatch.data.draws import Order
from megabatch.data.steps import Steps, steps_of
from megabatch.launcher import slurm_queue
from megabatch.launcher.cancel import stop_ranks
from megabatch.launcher.status import RUNNING, WAITING, Status, holds, look, main_process

_SECONDS_BETWEEN_LOOKS = 0.5
_MEGABATCH = (sys.executable, "-c", "from megabatch.launcher.cli import main; main()")
Line = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One thing that must be so after an interruption."""

    holds: bool
    text: str


def run(run_dir: RunDir, steps: int, say: Callable[[str], None]) -> list[Check]:
    """Interrupt the run, wait until it has trained `steps` steps more, and return what was found.

    A run that is local or over ssh is resumed here, and this function returns when it has ended. Raises ConfigError for
    a run that cannot be interrupted.
    """
    job = read_job(run_dir.job)
    before = _require_training(run_dir, job)
    assert before.attempt is not None
    say(f"interrupting after step {before.step}")
    with _interrupted(run_dir, job, say):
        _wait_for_steps(run_dir, before.attempt, steps, say)
        return judge(run_dir, job, before.attempt)


def _require_training(run_dir: RunDir, job: Job) -> Status:
    if job.cluster.backend.name not in ("local", "slurm", "ssh"):
        name = job.cluster.backend.name
        problem = f"its backend is {name}: stop it and start it yourself. A drill needs the backend local, ssh or slurm"
        raise ConfigError([Problem(str(run_dir.root), problem)])
    status = look(run_dir)
    if status.state != RUNNING or status.step is None:
        seen = f"{status.state}, {status.detail}" if status.detail else status.state
        raise ConfigError([Problem(str(run_dir.root), f"does not train now ({seen}): only a training run is drilled")])
    return status


@contextmanager
def _interrupted(run_dir: RunDir, job: Job, say: Callable[[str], None]) -> Iterator[None]:
    """Interrupt the run, and have it go on; wait for the end of one that was resumed here."""
    if job.cluster.backend.name == "slurm":
        number = slurm_queue.number_of(run_dir)
        assert number is not None
        slurm_queue.requeue(number)
        say(f"requeued Slurm job {number}")
        yield
        return
    if job.cluster.backend.name == "ssh":
        _stop_launcher(run_dir, job)
    else:
        _stop(run_dir)
    say(f"stopped; going on with: megabatch launch --resume {run_dir.root}")
    resumed = subprocess.Popen([*_MEGABATCH, "launch", "--resume", str(run_dir.root)])
    try:
        yield
    finally:
        resumed.wait()


def _stop(run_dir: RunDir) -> None:
    """Stop the ranks; wait until what started them has ended too, for it looks at the folder once more."""
    owner = main_process(run_dir)
    above = None if owner is None else _starter_of(owner[0])
    stop_ranks(run_dir)
    while (owner is not None and holds(owner[0], run_dir)) or (above is not None and above.exists()):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    time.sleep(_SECONDS_BETWEEN_LOOKS)


def _stop_launcher(run_dir: RunDir, job: Job) -> None:
    """Have the launcher, on whatever machine, stop the ranks; wait until it has. Raises ConfigError if it does not."""
    deadline = time.monotonic() + job.cluster.limits.collective_timeout_seconds
    run_dir.cancel.touch()
    while run_dir.cancel.exists():
        if time.monotonic() > deadline:
            run_dir.cancel.unlink(missing_ok=True)
            raise ConfigError([Problem(str(run_dir.root), "its launcher did not stop it: look there")])
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _starter_of(rank: int) -> Path | None:
    """Return /proc/PID of what started a rank, unless that is a shell: torchrun and the like were given its name."""
    try:
        stat = Path(f"/proc/{rank}/stat").read_text(encoding="utf-8", errors="replace")
        parent = Path("/proc") / stat.rpartition(")")[2].split()[1]
        return parent if b"megabatch.trainer" in (parent / "cmdline").read_bytes() else None
    except OSError:
        return None


def _wait_for_steps(run_dir: RunDir, attempt: int, steps: int, say: Callable[[str], None]) -> None:
    told = ""
    while True:
        status = look(run_dir)
        seen = f"{status.state}, {status.detail}"
        if seen != told:
            say(seen)
        told = seen
        lines = tail(run_dir.metrics)
        trained = [line for line in lines if line.get("kind") == "step" and line["attempt"] > attempt]
        if len(trained) >= steps or (trained and status.state not in (RUNNING, WAITING)):
            return
        if status.state in ("failed", "finished"):
            return
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def judge(run_dir: RunDir, job: Job, attempt: int) -> list[Check]:
    """Return whether what was trained after an attempt fits to what that attempt had trained."""
    lines = [line for line in _lines(run_dir.metrics) if line.get("kind") == "step"]
    old, new = ({n["step"]: n for n in lines if (n["attempt"] > attempt) == late} for late in (False, True))
    if not new:
        return [Check(False, f"no step was trained after the interruption: see {run_dir.logs}")]
    recipe = job.recipe
    arrangement = arrange(job)
    order = arrangement.order()
    steps = steps_of(recipe, order.samples)
    checks = [_goes_on(old, new, recipe.tracking.every_steps), _same_again(old, new), _right_count(new, steps)]
    if recipe.tracking.sample_log and recipe.data.train_stream is None:
        return [*checks, _right_samples(run_dir, order, steps, min(new) - 1, max(new) - 1)]
    return checks


def _goes_on(old: dict[int, Line], new: dict[int, Line], every: int) -> Check:
    last, first = max(old, default=0), min(new)
    missing = sorted(set(range(every, max(new) + 1, every)) - set(old) - set(new))
    text = f"attempt {new[first]['attempt']} began with step {first}; the one before ended with step {last}"
    return Check(not missing, f"{text}; steps {missing[:5]} are missing" if missing else text)


def _same_again(old: dict[int, Line], new: dict[int, Line]) -> Check:
    again = sorted(set(old) & set(new))
    others = [step for step in again if old[step]["loss"] != new[step]["loss"]]
    if not again:
        return Check(True, "no step was trained twice")
    text = f"{len(again)} steps were trained again from the checkpoint"
    return Check(
        not others, f"{text}, of which {others[:5]} had another loss" if others else f"{text}, to the same loss"
    )


def _right_count(new: dict[int, Line], steps: Steps) -> Check:
    wrong = [step for step, line in new.items() if line["samples_seen"] != steps.samples_seen(step)]
    last = max(new)
    text = f"{new[last]['samples_seen']:,} samples were seen after step {last}"
    return Check(not wrong, f"{text}, {steps.samples_seen(last):,} are right" if wrong else f"{text}, as planned")


def _right_samples(run_dir: RunDir, order: Order, steps: Steps, first: int, last: int) -> Check:
    """Compare the logged samples, a few steps before the interruption included, with the order of the recipe."""
    begin = max(0, first - 3)
    trained: dict[int, dict[int, list[int]]] = {}
    for file in sorted((run_dir.root / "samples").glob("*.jsonl")):
        for line in _lines(file):
            if begin <= line["step"] <= last:
                trained.setdefault(line["step"], {})[line["number"]] = line["sample_ids"]
    for step in range(begin, last + 1):
        numbers = trained.get(step, {})
        ids = [sample for number in sorted(numbers) for sample in numbers[number]]
        span = steps.at(step)
        if ids != order.draws(span.epoch, span.start, span.stop).sample_ids.tolist():
            return Check(False, f"step {step + 1} was not trained on the samples that the recipe's order has there")
    return Check(True, f"the samples of steps {begin + 1} to {last + 1} are those of the recipe's order, each once")


def _lines(file: Path) -> Iterator[Line]:
    """Yield the lines of a log; one that was cut short is left out."""
    if not file.exists():
        return
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(text)
        except ValueError:
            continue


def verdict(checks: Sequence[Check]) -> bool:
    """Return whether the run came back exactly."""
    return all(check.holds for check in checks)
