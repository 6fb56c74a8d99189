"""Fills slurm/job.sbatch: #SBATCH lines and one block of values; the body is the same for every job.

A shell never reads a value: every one is quoted, and the #SBATCH lines hold words that the schema has checked, numbers,
and one path. Control characters are refused, for no quotes help there: a newline in a #SBATCH line would end the
comment, and what follows would run as a command. The environment is in a file of its own, which only its owner can
read: Slurm keeps a copy of the script, and shows it to administrators.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from importlib import resources

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.slurm import Apptainer, Pyxis, Slurm

# Our key -> sbatch's option.
_OPTIONS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "reservation": "reservation",
    "exclude": "exclude",
    "time_minutes": "time",
}
_MARK = re.compile(r"^#(?:SBATCH_LINES|SETTINGS)\n", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # and what is no text at all


def script(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = (), array_tasks: int | None = None) -> str:
    """Return the batch script; with `array_tasks` that of an array, whose runs lie below `run_dir`.

    Raises ConfigError for what no script can hold.
    """
    refuse_unsafe(job, run_dir)
    template = resources.files("megabatch.slurm").joinpath("job.sbatch").read_text(encoding="utf-8")
    filled = {
        "#SBATCH_LINES\n": [f"#SBATCH {line}" for line in _header(job, run_dir, array_tasks)],
        "#SETTINGS\n": _settings(job, run_dir, trainer_arguments),
    }
    return _MARK.sub(lambda mark: "".join(f"{line}\n" for line in filled[mark[0]]), template)


def environment_file(environment: dict[str, str]) -> str:
    """Return the text of RUN_DIR/job.environment, which the script reads in."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())


def _header(job: Job, run_dir: RunDir, array_tasks: int | None) -> list[str]:
    cluster, backend = job.cluster, slurm_of(job)
    log = str(run_dir.logs).replace("%", "%%")  # sbatch fills in %j, %x, ...
    lines = [
        f"--job-name={job.recipe.name}",
        f"--nodes={cluster.nodes}",
        *_tasks(cluster, backend),
        *(f"--{option}={getattr(backend, ours)}" for ours, option in _OPTIONS.items() if getattr(backend, ours)),
        f"--signal=B:USR1@{backend.save_seconds}",
        "--requeue" if backend.requeue else "--no-requeue",
    ]
    if backend.memory_gigabytes:
        lines.append(f"--mem={backend.memory_gigabytes}G")
    if cluster.device == "cuda":
        kind = f"{backend.gpu_type}:" if backend.gpu_type else ""
        lines.append(f"--gres=gpu:{kind}{cluster.processes_per_node}")
    if array_tasks is not None:
        limit = f"%{backend.array_at_once}" if backend.array_at_once else ""
        lines.append(f"--array=0-{array_tasks - 1}{limit}")
    number = "%A_%a" if array_tasks is not None else "%j"
    return [*lines, f'--output="{log}/slurm-{number}.log"', "--open-mode=append"]


def _tasks(cluster: Cluster, backend: Slurm) -> list[str]:
    """Return how many tasks a node has, and their CPUs: without a number a task may get one core for all its ranks."""
    threads = cluster.threads_per_process + cluster.loader_threads
    if backend.task == "rank":
        ranks = cluster.processes_per_node
        return [f"--ntasks-per-node={ranks}", f"--cpus-per-task={backend.cpus_per_task or threads}"]
    whole = cluster.processes_per_node * threads
    return ["--ntasks-per-node=1", f"--cpus-per-task={backend.cpus_per_task or whole}"]


def _settings(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str]) -> list[str]:
    """Return the lines of values; everything that is text is quoted."""
    backend = slurm_of(job)
    container = backend.container
    srun_options, in_container = _container(job, run_dir, backend)
    again = backend.requeue and not trainer_arguments  # an evaluation has no checkpoint to go on from
    return [
        'jobs=("$@")',
        f"folder={shlex.quote(job.working_folder)}",
        f"python={shlex.quote(container.python if container else sys.executable)}",
        f"task={backend.task}",
        f"arguments=({shlex.join(trainer_arguments)})",
        f"modules=({shlex.join(backend.modules)})",
        f"srun_options=({shlex.join(srun_options)})",
        f"in_container=({shlex.join(in_container)})",
        f"requeue={'yes' if again else 'no'}",
    ]


def _container(job: Job, run_dir: RunDir, backend: Slurm) -> tuple[list[str], list[str]]:
    """Return srun's options for a container, and the command that runs another one in a container."""
    container = backend.container
    if container is None:
        return [], []
    mounts = [job.working_folder, str(run_dir.root), *container.mounts]
    if isinstance(container, Pyxis):
        mounted = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in mounts)
        folder = f"--container-workdir={job.working_folder}"
        return [f"--container-image={container.image}", f"--container-mounts={mounted}", folder], []
    assert isinstance(container, Apptainer)
    gpus = ["--nv"] if job.cluster.device == "cuda" else []
    binds = [word for mount in mounts for word in ("--bind", mount)]
    return [], ["apptainer", "exec", *gpus, *binds, "--pwd", job.working_folder, container.image]


def slurm_of(job: Job) -> Slurm:
    """Return the keys of the backend, which is this one."""
    assert isinstance(job.cluster.backend, Slurm)
    return job.cluster.backend


def refuse_unsafe(job: Job, run_dir: RunDir) -> None:
    """Raise ConfigError for values that no batch script can hold."""
    values = {
        "the working folder": job.working_folder,
        "the run folder": str(run_dir.root),
        "the Python interpreter": sys.executable,
        **{f"cluster.environment.{name}": value for name, value in job.cluster.environment.items()},
    }
    problems = [
        Problem("", f"{what} {value!r} has a control character: no batch script can hold it. Use another one")
        for what, value in values.items()
        if _CONTROL.search(value)
    ]
    if re.search(r'["\\]', str(run_dir.root)):
        message = f"the run folder {str(run_dir.root)!r} has a double quote or a backslash: sbatch cannot be told of it"
        problems.append(Problem("", f"{message}. Use another --run-dir"))
    if slurm_of(job).container is not None:
        problems += _unmountable({"the working folder": job.working_folder, "the run folder": str(run_dir.root)})
    if problems:
        raise ConfigError(problems)


def _unmountable(folders: dict[str, str]) -> list[Problem]:
    return [
        Problem(
            "", f"{what} {folder!r} has a colon or a comma: a container cannot be told to mount it. Use another one"
        )
        for what, folder in folders.items()
        if re.search("[:,]", folder)
    ]
