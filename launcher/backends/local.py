"""Backend `local`: the ranks on this machine, watched until they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import child_environment, node_command, rank_environment
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending, run


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the command that starts all ranks."""
    return Submission(node_command(run_dir.job, trainer_arguments), rank_environment(job))


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Run the command to its end."""
    return run(submission.argv, child_environment(job), run_dir, job.working_folder, say)
