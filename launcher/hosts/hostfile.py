"""Reads hostfiles: DeepSpeed's `node1 slots=8` and MPI's `node1:8`, `node1 slots=8 max-slots=8` or plain `node1`.

https://www.deepspeed.ai/getting-started/#resource-configuration-multi-node
https://docs.open-mpi.org/en/main/launching-apps/scheduling.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.hosts import Ssh
from megabatch.configs.job import Job

_LINE = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9_.\-]*)(?::(?P<after>\d+))?(?P<rest>(?:\s+[a-z_-]+\s*=\s*\d+)*)"
)
_SLOTS = re.compile(r"(?<![a-z_-])slots\s*=\s*(\d+)")


class Host(NamedTuple):
    """A host and how many ranks it takes, if the file says so."""

    name: str
    slots: int | None
    where: str


def read_hostfile(file: Path, shown: str) -> list[Host]:
    """Return the hosts of a file in its order. Raises ConfigError with every line that cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([Problem(shown, f"{why}. A hostfile has a line `HOST slots=N` for each host")]) from None
    hosts: list[Host] = []
    problems: list[Problem] = []
    for where, line in _lines(text, shown):
        host = _host(line, where)
        if host is None:
            problems.append(Problem(where, f"{line!r} is no host: write HOST, HOST slots=N or HOST:N"))
        elif any(host.name == other.name for other in hosts):
            problems.append(Problem(where, f"{host.name} is there twice: keep one line, with all its slots"))
        else:
            hosts.append(host)
    if not hosts and not problems:
        problems.append(Problem(shown, "has no host: write a line HOST slots=N for each"))
    if problems:
        raise ConfigError(problems)
    return hosts


def _lines(text: str, shown: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if content:
            yield f"{shown}:{number}", content


def _host(line: str, where: str) -> Host | None:
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    slots = _SLOTS.search(found["rest"])
    if slots is not None and found["after"] is not None:
        return None
    count = slots[1] if slots else found["after"]
    return Host(found["host"].strip("[]"), int(count) if count else None, where)


def with_hosts(job: Job) -> Job:
    """Return the job with the hosts of its `hostfile` in place of that. Raises ConfigError where they do not fit."""
    cluster, backend = job.cluster, job.cluster.backend
    if not isinstance(backend, Ssh) or backend.hostfile is None:
        return job
    hosts = read_hostfile(Path(job.working_folder) / backend.hostfile, backend.hostfile)
    problems = [
        Problem(host.where, f"{host.name} has {host.slots} slots, but cluster.processes_per_node is "
                f"{cluster.processes_per_node}. All hosts take the same number of ranks: make the two equal")
        for host in hosts if host.slots not in (None, cluster.processes_per_node)
    ]  # fmt: skip
    if problem := backend.unlike_nodes(len(hosts), cluster.nodes):
        problems.append(Problem(backend.hostfile, f"{problem}, or another hostfile"))
    if problems:
        raise ConfigError(problems)
    filled = backend.model_copy(update={"hosts": tuple(host.name for host in hosts), "hostfile": None})
    return job.model_copy(update={"cluster": cluster.model_copy(update={"backend": filled})})
