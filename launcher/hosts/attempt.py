"""One start of a job over ssh: open the ways to the hosts, choose those that can train together, watch them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NamedTuple

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.hosts import Ssh
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.hosts import watched
from megabatch.launcher.hosts.check import Group, gather
from megabatch.launcher.hosts.connection import Connection, Event, ssh_command


class Work(NamedTuple):
    """What is to be started: the command of each host once it is known how many meet where, and their variables."""

    job: Job
    backend: Ssh
    run_dir: RunDir
    commands: Callable[[int, str], list[list[str]]]
    environment: Mapping[str, str]


class Gathered(NamedTuple):
    """Hosts that can start now, and what they say."""

    group: Group
    events: SimpleQueue[Event]


@contextmanager
def gathered(work: Work) -> Iterator[Gathered]:
    """Connect to the hosts and choose, for as long as the block. Raises ConfigError if too few are good."""
    backend = work.backend
    events: SimpleQueue[Event] = SimpleQueue()
    connections: list[Connection] = []
    try:
        for node, host in enumerate(backend.hosts):
            connections.append(_connection(node, host, backend, events))
        group = gather(connections, events, work.job, backend, work.run_dir)
        for connection in connections:
            if connection not in group.connections:
                connection.close()
        yield Gathered(group, events)
    finally:
        for connection in connections:
            connection.close()


def train(work: Work, hosts: Gathered, say: Callable[[str], None]) -> watched.Outcome:
    """Start the ranks on these hosts, and return how they ended."""
    cluster = work.job.cluster
    for text in _told(hosts.group, cluster.nodes):
        say(text)
    start = watched.Start(
        work.commands(len(hosts.group.connections), hosts.group.address), work.environment, work.job.working_folder,
        cluster.processes_per_node, cluster.limits, work.backend.grace_seconds,
    )  # fmt: skip
    return watched.run(hosts.group.connections, hosts.events, start, work.run_dir, say)


def _told(group: Group, nodes: int) -> list[str]:
    """Return a line for each host that is left out, and one for what follows from it."""
    if not group.left_out:
        return []
    names = [connection.host for connection in group.connections]
    fewer = f": {len(names)} instead of {nodes}" if len(names) < nodes else ""
    return [*(f"left out: {problem}" for problem in group.left_out), f"the ranks run on {', '.join(names)}{fewer}"]


def _connection(node: int, host: str, backend: Ssh, events: SimpleQueue[Event]) -> Connection:
    try:
        return Connection(node, host, ssh_command(backend, host), backend.python or sys.executable, events)
    except OSError as error:
        raise ConfigError([Problem("cluster.backend.program", f"{backend.program}: {error.strerror}")]) from None
