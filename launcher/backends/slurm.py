"""Backend `slurm`: one sbatch script, from the template in slurm/, that starts torchrun once on every node.

A shell never reads a value: in the body every one is quoted, and the #SBATCH lines hold words that the schema has
checked, numbers, and one path. Control characters are refused, for no quotes help there: a newline in a #SBATCH line
would end the comment, and what follows would run as a command.

scancel and the time limit send SIGTERM to every process of the job; the ranks save, and Slurm kills what is left after
its KillWait. Nothing here sends a signal.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import resources

from megabatch.configs.cluster import Slurm
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import rank_environment
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending, ExitCode

# Our key -> sbatch's option.
_OPTIONS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "reservation": "reservation",
    "time_minutes": "time",
}
_MARK = re.compile(r"^#[A-Z]+(?:_[A-Z]+)*\n|@[A-Z_]+@", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the script and the sbatch command that submits it. Raises ConfigError for what no script can hold."""
    backend = job.cluster.backend
    assert isinstance(backend, Slurm)
    environment = rank_environment(job)
    _refuse_unsafe(job, run_dir, environment)
    template = resources.files("megabatch.slurm").joinpath("job.sbatch").read_text(encoding="utf-8")
    filled = {
        "#SBATCH_LINES": _header(job, backend, run_dir),
        "#MODULES": [f"module load {shlex.quote(module)}" for module in backend.modules],
        "#ENVIRONMENT": [f"export {name}={shlex.quote(value)}" for name, value in environment.items()],
        "@FOLDER@": [shlex.quote(job.working_folder)],
        "@PYTHON@": [shlex.quote(sys.executable)],
        "@RANKS_PER_NODE@": [str(job.cluster.processes_per_node)],
        "@ARGUMENTS@": [shlex.join([str(run_dir.job), *trainer_arguments])],
    }

    def value(mark: re.Match[str]) -> str:  # in one pass: a value that looks like a mark stays what it is
        if mark[0].startswith("#"):
            return "".join(f"{line}\n" for line in filled[mark[0].rstrip()])
        return filled[mark[0]][0]

    return Submission(["sbatch", "--parsable", str(run_dir.submission)], {}, _MARK.sub(value, template))


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Write the script, hand it to sbatch and return at once with the job's number."""
    assert submission.script is not None
    run_dir.logs.mkdir(parents=True, exist_ok=True)  # Slurm does not make the folder of the log
    for stale in run_dir.failures():  # how the last attempt ended says nothing about this one
        stale.unlink()
    run_dir.submission.touch(mode=0o600)  # like job.yaml: the environment may hold what others must not see
    run_dir.submission.chmod(0o600)
    run_dir.submission.write_text(submission.script, encoding="utf-8")
    done = subprocess.run(submission.argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return Ending(ExitCode.FAILED, f"sbatch refused {run_dir.submission}: {done.stderr.strip()}")
    number = done.stdout.strip().partition(";")[0]
    say(
        f"submitted as Slurm job {number}: `squeue -j {number}` shows it, "
        f"{run_dir.logs}/slurm-{number}.log is its output"
    )
    return Ending(ExitCode.DONE, "")


def _header(job: Job, backend: Slurm, run_dir: RunDir) -> list[str]:
    cluster = job.cluster
    threads = cluster.processes_per_node * (cluster.threads_per_process + cluster.loader_threads)
    log = str(run_dir.logs).replace("%", "%%")  # sbatch fills in %j, %x, ...
    lines = [
        f"--job-name={job.recipe.name}",
        f"--nodes={cluster.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={backend.cpus_per_task or threads}",  # without it a task may get one core for all its ranks
        *(f"--{option}={getattr(backend, ours)}" for ours, option in _OPTIONS.items() if getattr(backend, ours)),
    ]
    if backend.memory_gigabytes:
        lines.append(f"--mem={backend.memory_gigabytes}G")
    if cluster.device == "cuda":
        lines.append(f"--gres=gpu:{cluster.processes_per_node}")
    lines += [f'--output="{log}/slurm-%j.log"', "--open-mode=append"]
    return [f"#SBATCH {line}" for line in lines]


def _refuse_unsafe(job: Job, run_dir: RunDir, environment: dict[str, str]) -> None:
    values = {
        "the working folder": job.working_folder,
        "the run folder": str(run_dir.root),
        "the Python interpreter": sys.executable,
        **{f"cluster.environment.{name}": value for name, value in environment.items()},
    }
    problems = [
        Problem("", f"{what} {value!r} has a control character: no batch script can hold it. Use another one")
        for what, value in values.items()
        if _CONTROL.search(value)
    ]
    if re.search(r'["\\]', str(run_dir.root)):
        message = f"the run folder {str(run_dir.root)!r} has a double quote or a backslash: sbatch cannot be told of it"
        problems.append(Problem("", f"{message}. Use another --run-dir"))
    if problems:
        raise ConfigError(problems)
