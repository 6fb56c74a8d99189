"""Backend `local`: torchrun on this machine, watched until it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from megabatch.configs.cluster import Local
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import child_environment, rank_environment, torchrun_command
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending, run


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the command that starts all ranks."""
    backend = job.cluster.backend
    assert isinstance(backend, Local)
    meeting = ["--standalone"]  # picks a free port
    command = torchrun_command(job, run_dir.job, meeting, backend.max_restarts, trainer_arguments)
    return Submission(command, rank_environment(job))


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Run the command to its end."""
    return run(submission.argv, child_environment(job), run_dir, job.working_folder, say)
