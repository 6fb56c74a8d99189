"""From names to a checked job: load, describe the data, refuse, plan, look at the world.

The one effect: shards without an index are indexed when they are first used.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import Loaded, load
from megabatch.configs.normalization import Auto, resolved
from megabatch.data.arrangement import Arrangement, arrange
from megabatch.data.errors import DataError
from megabatch.launcher.accelerate_config import accelerate_problems
from megabatch.launcher.engine_file import with_engine_file
from megabatch.launcher.hosts.hostfile import with_hosts
from megabatch.launcher.known_classes import with_outputs
from megabatch.launcher.memory_limits import MEMORY_ADVICE, is_want_of_memory
from megabatch.launcher.memory_need import does_not_fit
from megabatch.launcher.plan import Plan, make_plan
from megabatch.launcher.preflight import preflight
from megabatch.launcher.pretrained import with_ewc, with_pretrained
from megabatch.launcher.progress import progress_on_stderr
from megabatch.launcher.pruning import with_pruning
from megabatch.launcher.quantization import require_quantization
from megabatch.launcher.refusals import refusals
from megabatch.launcher.save_job import write_job
from megabatch.launcher.secret_values import secret_problems
from megabatch.launcher.starter import Starter
from megabatch.launcher.teachers import with_teachers
from megabatch.launcher.tracking import tracking_problems


@dataclass(frozen=True)
class Prepared:
    """A job that may be launched, and its plan."""

    job: Job
    plan: Plan


def prepare(recipe: str, cluster: str, overrides: Sequence[str]) -> Prepared:
    """Load and check everything that can be known without torch. Raises ConfigError with every problem."""
    return check(job_of(load(recipe, cluster, overrides)))


def check(job: Job) -> Prepared:
    """Check a job against its data and this machine. Raises ConfigError with every problem."""
    if job.recipe.continual is not None:
        seen = "a recipe with stages is started by `megabatch launch`, and each stage is a run of its own"
        raise ConfigError([Problem("continual", f"{seen}. For anything else write continual=null, or name a stage")])
    job = with_hosts(with_pruning(with_ewc(with_pretrained(job))))
    require_quantization(job)
    try:
        arrangement = _arrange(job)
        job = _with_statistics(with_engine_file(job), arrangement)
        dataset = arrangement.whole
        job = with_teachers(with_outputs(job, dataset.classes), dataset.classes)
        wrong = refusals(job.recipe, job.cluster, dataset)
        world = [m for described in arrangement.described for m in preflight(job.recipe, job.cluster, described)]
        problems = [*(Problem("", message) for message in (*wrong, *world)), *accelerate_problems(job, os.environ)]
        problems += [*secret_problems(job.cluster), *tracking_problems(job.recipe)]
        if problems:
            raise ConfigError(problems)
        plan = make_plan(job.recipe, job.cluster, dataset, arrangement.order())
        data = {"data_fingerprint": arrangement.fingerprint(), "data_contents": arrangement.contents()}
        return Prepared(job.model_copy(update=data), plan)
    except DataError as error:
        raise ConfigError([Problem("", str(error))]) from None


def _with_statistics(job: Job, arrangement: Arrangement) -> Job:
    """Return the job with the numbers that `data.normalize: auto` stands for, so that job.yaml has them."""
    data = job.recipe.data
    if not isinstance(data.normalize, Auto):
        return job
    if len(arrangement.datasets) > 1:
        seen = "data.normalize is auto, but there are several data.sources, each with statistics of its own"
        raise ConfigError([Problem("", f"{seen}. Write data.normalize: {{name: fixed, mean: ..., std: ...}}")])
    (dataset,) = arrangement.datasets
    file = dataset.folder / "stats.json"
    try:
        stats = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        stats = "no JSON"
    try:
        normalize = resolved(data.normalize, stats, data.train_split, dataset.shown)
    except ValueError as error:
        raise ConfigError([Problem("", str(error))]) from None
    data = data.model_copy(update={"normalize": normalize})
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"data": data})})


def _arrange(job: Job) -> Arrangement:
    """Open the data, and say so if shards had to be indexed for that."""
    indexed = 0
    with progress_on_stderr("shards indexed") as show:

        def progress(done: int, total: int) -> None:
            nonlocal indexed
            indexed = done
            show(done, total)

        arrangement = arrange(job, progress)
    if indexed:
        folders = ", ".join(str(dataset.folder) for dataset in arrangement.datasets)
        print(f"indexed {indexed:,} shards on first use; their index is in {folders}", file=sys.stderr)
    return arrangement


def job_of(loaded: Loaded) -> Job:
    """Return the job of a recipe and a cluster, not checked against data or machine."""
    return Job(
        recipe=loaded.recipe,
        cluster=loaded.cluster,
        working_folder=str(Path.cwd()),
        data_fingerprint="",
        version=version("megabatch"),
    )


def inspect_model(job: Job, starter: Starter | None = None) -> dict[str, Any]:
    """Build the model in a process of its own (it needs torch) and return what that process found out.

    The process is the starter's where there is one, else it is gone afterwards.
    Raises ConfigError with the problems it reports: an unknown model, images that do not fit, ...
    """
    with tempfile.TemporaryDirectory() as folder:
        job_file = Path(folder) / "job.yaml"
        write_job(job, job_file)
        done = starter.inspect(job_file) if starter is not None else _inspected_alone(job, job_file)
    if done.returncode != 0:
        raise ConfigError([Problem("", f"the model could not be inspected{_why(done)}")])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    problems = found["problems"] or does_not_fit(job, found)
    if problems:
        raise ConfigError(Problem("", problem) for problem in problems)
    return found


def _inspected_alone(job: Job, job_file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megabatch.trainer.inspect_model", str(job_file)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.cluster.threads_per_process)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=job.working_folder, env=environment)


def _why(ended: subprocess.CompletedProcess[str]) -> str:
    """Return why a process of ours ended badly: in one line for want of memory, else all that it said."""
    said = ended.stderr.strip()
    if ended.returncode == -signal.SIGKILL or is_want_of_memory(said):
        last = said.splitlines()[-1] if said else "it was killed"
        return f" for want of memory ({last}). {MEMORY_ADVICE}"
    return f":\n{said}"


def inspect_models(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Build the models of several jobs in one process and return what was found, problems included."""
    if not jobs:
        return []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"job-{number}.yaml" for number in range(len(jobs))]
        for job, file in zip(jobs, files, strict=True):
            write_job(job, file)
        command = [sys.executable, "-m", "megabatch.trainer.inspect_jobs", *map(str, files)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(jobs[0].cluster.threads_per_process)}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=jobs[0].working_folder, env=environment
        )
    if done.returncode != 0:
        raise ConfigError([Problem("", f"the models could not be inspected{_why(done)}")])
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found
