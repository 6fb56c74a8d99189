"""Backend `ssh`: an agent on every host, which starts the ranks there; watched from here until all have ended.

No value of the job is ever read by a shell: the remote command is constant, and everything else crosses as JSON over
standard input, the variables of the ranks too. So nothing of it is in `ps`, here or there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.hosts import Ssh
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.command import passed_on, rank_environment, torchrun_command
from megabatch.launcher.hosts import watched
from megabatch.launcher.hosts.check import meeting_address
from megabatch.launcher.hosts.connection import Connection, Event, ssh_command
from megabatch.launcher.submission import Submission, shown_on_hosts
from megabatch.launcher.supervise import Ending


def render(job: Job, run_dir: RunDir, trainer_arguments: Sequence[str] = ()) -> Submission:
    """Return the command of a host without what differs between hosts; shown is what to start on each."""
    backend = _backend(job)
    interpreter, *command = torchrun_command(job, run_dir.job, [], 0, trainer_arguments)
    argv = [backend.python or interpreter, *command]
    environment = rank_environment(job)
    address = backend.address or backend.hosts[0]
    commands = [_of_node(argv, job, node, address) for node in range(len(backend.hosts))]
    shown = shown_on_hosts(backend.hosts, commands, environment, job.working_folder)
    return Submission(argv, environment, shown=shown)


def submit(submission: Submission, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> Ending:
    """Open the ways to all hosts, check them, start the ranks and wait. Raises ConfigError before anything started."""
    backend = _backend(job)
    secrets = passed_on(backend.pass_environment)
    events: SimpleQueue[Event] = SimpleQueue()
    connections: list[Connection] = []
    try:
        for node, host in enumerate(backend.hosts):
            argv = ssh_command(backend, host)
            connections.append(Connection(node, host, argv, backend.python or sys.executable, events))
        address = meeting_address(connections, events, job, backend, run_dir)
        start = watched.Start(
            [_of_node(submission.argv, job, connection.node, address) for connection in connections],
            {**secrets, **submission.environment}, job.working_folder, job.cluster.limits,
        )  # fmt: skip
        return watched.run(connections, events, start, run_dir, say)
    except OSError as error:
        raise ConfigError([Problem("cluster.backend.program", f"{backend.program}: {error.strerror}")]) from None
    finally:
        for connection in connections:
            connection.close()


def _backend(job: Job) -> Ssh:
    assert isinstance(job.cluster.backend, Ssh)
    return job.cluster.backend


def _of_node(argv: Sequence[str], job: Job, node: int, address: str) -> list[str]:
    """Return the command of one host: behind `python -m MODULE` comes who it is, and where the ranks meet."""
    endpoint = f"{address}:{_backend(job).port}"
    meeting = [
        "--nnodes", str(job.cluster.nodes), "--node-rank", str(node),
        "--rdzv-backend", "static", "--rdzv-endpoint", endpoint,
    ]  # fmt: skip
    return [*argv[:3], *meeting, *argv[3:]]
