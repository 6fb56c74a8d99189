"""Backend `slurm`: one sbatch script, from the template in slurm/, that starts torchrun once on every node.

Values reach the script only after the schema has checked them (letters, digits and a few signs, no spaces, no control
characters): a newline inside a quoted #SBATCH line would run as a command.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Sequence
from importlib import resources

from megabatch.configs.cluster import Slurm
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
    "cpus_per_task": "cpus-per-task",
}


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the script and the sbatch command that submits it."""
    backend = job.cluster.backend
    assert isinstance(backend, Slurm)
    template = resources.files("megabatch.slurm").joinpath("job.sbatch").read_text(encoding="utf-8")
    arguments = shlex.join([str(run_dir.job), *trainer_arguments])
    filled = {
        "#SBATCH_LINES": "\n".join(_header(job, backend, run_dir)),
        "#MODULES": "\n".join(f"module load {shlex.quote(module)}" for module in backend.modules),
        "#ENVIRONMENT": "\n".join(f"export {k}={shlex.quote(v)}" for k, v in rank_environment(job).items()),
        "@FOLDER@": shlex.quote(job.working_folder),
        "@PYTHON@": shlex.quote(_python()),
        "@RANKS_PER_NODE@": str(job.cluster.processes_per_node),
        "@ARGUMENTS@": arguments,
    }
    for mark, text in filled.items():
        template = template.replace(mark, text)
    script = "\n".join(line for line in template.split("\n") if line != "")  # a mark without values leaves no gap
    return Submission(
        ["sbatch", "--parsable", str(run_dir.submission)], {}, script.replace("\n# --", "\n\n# --") + "\n"
    )


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Write the script, hand it to sbatch and return at once with the job's number."""
    assert submission.script is not None
    run_dir.submission.write_text(submission.script, encoding="utf-8")
    run_dir.logs.mkdir(parents=True, exist_ok=True)
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
    lines = [
        f"--job-name={job.recipe.name}",
        f"--nodes={job.cluster.nodes}",
        "--ntasks-per-node=1",
        *(f"--{option}={getattr(backend, ours)}" for ours, option in _OPTIONS.items() if getattr(backend, ours)),
    ]
    if backend.memory_gigabytes:
        lines.append(f"--mem={backend.memory_gigabytes}G")
    if job.cluster.device == "cuda":
        lines.append(f"--gres=gpu:{job.cluster.processes_per_node}")
    lines += [f"--output={run_dir.logs}/slurm-%j.log", "--open-mode=append"]
    return [f"#SBATCH {line}" for line in lines]


def _python() -> str:
    import sys

    return sys.executable
