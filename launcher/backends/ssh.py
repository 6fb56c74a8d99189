"""Backend `ssh`: an agent on every host, which starts the ranks there; watched from here until all have ended.

No value of the job is ever read by a shell: the remote command is constant, and everything else crosses as JSON over
standard input, the variables of the ranks too. So nothing of it is in `ps`, here or there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from megabatch.configs.hosts import Ssh
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import meeting_of, node_command, passed_on, rank_environment
from megabatch.launcher.control_characters import refuse_control_characters
from megabatch.launcher.hosts import restarts
from megabatch.launcher.hosts.attempt import Work
from megabatch.launcher.submission import Submission, shown_on_hosts
from megabatch.launcher.supervise import Ending


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return what to start on each host. At which address they meet is found out by `submit`."""
    backend = _backend(job)
    environment = rank_environment(job)
    refuse_control_characters(job, run_dir, backend.python or sys.executable, environment)
    nodes = job.cluster.nodes
    commands = _commands(job, nodes, run_dir, backend.address or backend.hosts[0], trainer_arguments)
    shown = shown_on_hosts(backend.hosts[:nodes], commands, environment, job.working_folder)
    return Submission(commands[0], environment, trainer_arguments=trainer_arguments, shown=shown)


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Open the ways to all hosts, check them, start the ranks and wait. Raises ConfigError before anything started."""
    backend = _backend(job)
    if submission.trainer_arguments:  # only a training begins anew: it goes on from its checkpoint
        backend = backend.model_copy(update={"max_restarts": 0})

    def commands(nodes: int, address: str) -> list[list[str]]:
        return _commands(job, nodes, run_dir, address, submission.trainer_arguments)

    environment = {**passed_on(backend.pass_environment), **submission.environment}
    return restarts.run(Work(job, backend, run_dir, commands, environment), say)


def _commands(job: Job, nodes: int, run_dir: RunDir, address: str, trainer_arguments: Sequence[str]) -> list[list[str]]:
    backend = _backend(job)
    endpoint = f"[{address}]:{backend.port}" if ":" in address else f"{address}:{backend.port}"
    return [
        node_command(run_dir.job, trainer_arguments, meeting_of(nodes, node, endpoint), backend.python)
        for node in range(nodes)
    ]


def _backend(job: Job) -> Ssh:
    assert isinstance(job.cluster.backend, Ssh)
    return job.cluster.backend
