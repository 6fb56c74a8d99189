"""Backend `torchrun`: one command, to be started by hand on every machine; elastic where the cluster file says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from megabatch.configs.cluster import Torchrun
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import rank_environment, torchrun_command
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending, ExitCode


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the command, which is the same on every machine."""
    cluster, backend = job.cluster, job.cluster.backend
    assert isinstance(backend, Torchrun)
    nodes = str(cluster.nodes) if cluster.min_nodes == cluster.nodes else f"{cluster.min_nodes}:{cluster.nodes}"
    meeting = [
        "--nnodes", nodes, "--rdzv-backend", "c10d", "--rdzv-endpoint", backend.endpoint,
        "--rdzv-id", run_dir.root.name,
    ]  # fmt: skip
    command = torchrun_command(job, run_dir.job, meeting, backend.max_restarts, trainer_arguments)
    return Submission(command, rank_environment(job))


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Say what to start, and where."""
    where = "on every machine" if job.cluster.nodes > 1 else "on the machine"
    say(f"now start this {where}, in {job.working_folder}:\n\n{submission}\n")
    return Ending(ExitCode.DONE, "")
