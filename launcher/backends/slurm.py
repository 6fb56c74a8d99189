"""Backend `slurm`: one sbatch script (launcher/slurm_script.py); when it has ended, launcher/requeue.py decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import slurm_queue
from megabatch.launcher.command import rank_environment
from megabatch.launcher.slurm_script import environment_file, script
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending, ExitCode


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the script and the sbatch command that submits it. Raises ConfigError for what no script can hold."""
    text = script(job, run_dir, trainer_arguments)
    command = ["sbatch", "--parsable", str(run_dir.submission), str(run_dir.job)]
    return Submission(command, script=text, environment_file=environment_file(rank_environment(job)))


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Write the script, hand it to sbatch and return at once with the job's number."""
    assert submission.script is not None
    prepare_folder(job, run_dir)
    slurm_queue.write_private(run_dir.submission, submission.script)
    try:
        number = slurm_queue.submit(submission.argv)
    except slurm_queue.SlurmError as error:
        return Ending(ExitCode.FAILED, f"sbatch refused {run_dir.submission}: {error}")
    slurm_queue.remember(run_dir, number)
    say(
        f"submitted as Slurm job {number}: `squeue -j {number}` shows it, "
        f"{run_dir.logs}/slurm-{number}.log is its output"
    )
    return Ending(ExitCode.DONE, "")


def prepare_folder(job: Job, run_dir: RunDir) -> None:
    """Write what the script finds in the run folder beside job.yaml."""
    run_dir.logs.mkdir(parents=True, exist_ok=True)  # Slurm does not make the folder of the log
    for stale in run_dir.failures():  # how the last attempt ended says nothing about this one
        stale.unlink()
    slurm_queue.write_private(run_dir.job_environment, environment_file(rank_environment(job)))
