"""At the end of a batch job: back into the queue, or is this the end? `python -m megabatch.launcher.requeue`.

Asked by the batch script, on the job's first node. Exit code 75 asks for a requeue; standard output is then the name of
a node to leave out, or empty. Any other exit code is the one to end the job with.

A run that was asked to stop and has saved goes on as often as that happens. Failures are counted: those in a row that
came without a new checkpoint between them. So is a time limit that comes before any new checkpoint. A job that Slurm
kills and requeues by itself, after a preemption or when a node is lost, never gets here, and is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from megabatch.configs.json_files import json_object, read_json
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import CHECKPOINT_PREFIX, RunDir
from megabatch.configs.slurm import Slurm
from megabatch.launcher.report.fresh import write_within
from megabatch.launcher.supervise import INPUT_ERRORS, UNFIT_NODE

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h
_SECONDS_FOR_A_REPORT = 10.0  # Slurm kills 30 s after the time limit (KillWait), and the job must be requeued before
Cause = Literal["finished", "stopped", "time", "failed", "unfit", "mistake"]


@dataclass(frozen=True)
class Attempt:
    """How one attempt of a job ended. `step` is that of the newest checkpoint, `host` where it failed first.

    It is `unfit` if the ranks found at their start that no training may begin with a node.
    """

    job: str
    cause: Cause
    step: int
    host: str | None = None
    excluded: str | None = None


@dataclass(frozen=True)
class Decision:
    """Whether the job is to go on, why, and which node is to be left out."""

    goes_on: bool
    why: str
    excluded: str | None = None


def decide(attempts: Sequence[Attempt], settings: Slurm) -> Decision:
    """Return what follows the last of the attempts of one job."""
    last = attempts[-1]
    if last.cause == "finished":
        return Decision(False, "finished")
    if last.cause == "mistake":
        return Decision(False, "not requeued: a mistake in the job or its data would be there again")
    failures = _failures_in_a_row(attempts)
    if failures > settings.max_restarts:
        return Decision(False, f"not requeued: {failures} failures in a row without a new checkpoint")
    counted = f", failure {failures} without a new checkpoint" if failures else ""
    return Decision(True, f"requeued to go on from step {last.step}{counted}", _bad_node(attempts, settings))


def _failures_in_a_row(attempts: Sequence[Attempt]) -> int:
    """Count back to where the newest checkpoint was another one."""
    steps_before = [0, *(attempt.step for attempt in attempts)]
    counts = [
        attempt.cause in ("failed", "unfit") or (attempt.cause == "time" and attempt.step <= before)
        for attempt, before in zip(attempts, steps_before, strict=False)
    ]
    return sum(count for count, a in zip(counts, attempts, strict=True) if a.step == attempts[-1].step)


def _bad_node(attempts: Sequence[Attempt], settings: Slurm) -> str | None:
    """Return the node that is unfit, or on which the last two attempts failed, unless enough are left out already."""
    excluded = {attempt.excluded for attempt in attempts} - {None}
    if len(excluded) >= settings.max_excluded_nodes:
        return None
    if attempts[-1].cause == "unfit":
        return attempts[-1].host
    hosts = [attempt.host for attempt in attempts[-2:] if attempt.cause == "failed"]
    return hosts[0] if len(hosts) == 2 and hosts[0] == hosts[1] else None


def ending(run_dir: RunDir, job: str, code: int, time_is_up: bool) -> Attempt:
    """Return how this attempt ended, as the ranks left it in the run folder."""
    step = newest_step(run_dir)
    outcome = read_json(run_dir.result).get("outcome") if run_dir.ended.exists() else None
    if code == 0 and outcome == "finished":
        return Attempt(job, "finished", step)
    if time_is_up:
        return Attempt(job, "time", step)
    if code == 0 and outcome == "stopped":
        return Attempt(job, "stopped", step)
    failures = [failure for file in run_dir.failures() if (failure := read_json(file))]
    causes = [failure for failure in failures if not failure["of_another_rank"]]
    if any(failure["kind"] in INPUT_ERRORS for failure in causes):
        return Attempt(job, "mistake", step)
    unfit = any(failure["kind"] == UNFIT_NODE for failure in causes)
    return Attempt(job, "unfit" if unfit else "failed", step, _host(failures, causes))


def _host(failures: list[dict[str, Any]], causes: list[dict[str, Any]]) -> str | None:
    """Return where the first failure was; of a rank that was killed the others say where it ran."""
    if causes:
        return str(min(causes, key=lambda failure: float(failure["time"]))["host"])
    verdict = next((failure["verdict"] for failure in failures if failure["verdict"] is not None), None)
    return None if verdict is None else str(verdict["host"])


def newest_step(run_dir: RunDir) -> int:
    """Return the step of the newest checkpoint, 0 without any."""
    names = [
        folder.name.removeprefix(CHECKPOINT_PREFIX) for folder in run_dir.checkpoints.glob(f"{CHECKPOINT_PREFIX}*")
    ]
    return max((int(name) for name in names if name.isdigit()), default=0)


def read_attempts(run_dir: RunDir, job: str | None = None) -> list[Attempt]:
    """Return the attempts that attempts.jsonl tells of, of one job or of all."""
    if not run_dir.attempts.exists():
        return []
    names = Attempt.__dataclass_fields__
    texts = run_dir.attempts.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line for text in texts if {"job", "cause", "step"} <= (line := json_object(text)).keys()]
    found = [Attempt(**{name: value for name, value in line.items() if name in names}) for line in lines]
    return [attempt for attempt in found if job is None or attempt.job == job]


def main() -> int:
    """Look how the job ended, write that down, and return the exit code that says what follows."""
    parser = argparse.ArgumentParser(prog="python -m megabatch.launcher.requeue")
    parser.add_argument("job", type=Path, help="RUN_DIR/job.yaml")
    parser.add_argument("--slurm-job", required=True, help="its number")
    parser.add_argument("--code", type=int, required=True, help="exit code of srun")
    parser.add_argument("--time-is-up", choices=["yes", "no"], default="no")
    arguments = parser.parse_args()
    run_dir = RunDir(arguments.job.absolute().parent)
    backend = read_job(arguments.job).cluster.backend
    settings = backend if isinstance(backend, Slurm) else Slurm()  # a job of another backend, handed to sbatch by hand
    attempt = ending(run_dir, arguments.slurm_job, arguments.code, arguments.time_is_up == "yes")
    decision = decide([*read_attempts(run_dir, attempt.job), attempt], settings)
    line = {**asdict(attempt), "excluded": decision.excluded, "decision": decision.why, "time": round(time.time(), 3)}
    with run_dir.attempts.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(line)}\n")
    write_within(run_dir, _SECONDS_FOR_A_REPORT)
    print(decision.why, file=sys.stderr, flush=True)
    if not decision.goes_on:
        return arguments.code or int(attempt.cause != "finished")
    print(decision.excluded or "")
    return REQUEUE


if __name__ == "__main__":
    sys.exit(main())
