"""A backend of your own: the ranks of this machine, started by another command, such as nice, numactl or a container.

In the cluster file: backend: {name: custom, module: my_backend, watched: true, options: {prefix: [nice, -n, "10"]}}
"""

from collections.abc import Callable, Sequence

from megabatch.configs.cluster import CustomBackend
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import child_environment, node_command, rank_environment
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending, run


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return what would be run; `megabatch launch --dry-run` prints it. Raises ConfigError, and has no effect."""
    backend, nodes = job.cluster.backend, job.cluster.nodes
    assert isinstance(backend, CustomBackend)
    if nodes > 1:
        raise ConfigError([Problem("cluster.nodes", f"{nodes}: my_backend starts ranks on this machine. Write 1")])
    prefix = [str(word) for word in backend.options.get("prefix", ())]
    return Submission([*prefix, *node_command(run_dir.job, trainer_arguments)], rank_environment(job))


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Run it and return how it ended. A scheduler would be given the job here, and the cluster file say watched: false.

    `run` watches the ranks: it passes Ctrl-C on, so that they save, and finds out which of them failed, and why.
    """
    say(f"started by: {submission.argv[0]}")
    return run(submission.argv, child_environment(job), run_dir, job.working_folder, say)
