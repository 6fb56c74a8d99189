"""Before anything is started: which hosts answer, are alike, share the run folder, and can meet?

Of those the first are chosen. If they are too few, everything that is wrong with any is told at once; nothing has been
started then.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.hosts import Ssh
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.hosts.connection import Connection, Event
from megabatch.launcher.hosts.look import nonce_file, versions
from megabatch.launcher.hosts.messages import Message

_ANSWER_SECONDS = 30.0
_SHARED_SECONDS = 5.0  # until a file that one host wrote is seen by another, on a network file system
_NO_PROGRAM, _NO_CONNECTION = 127, 255  # exit codes of sh and of ssh
Problems = dict[Connection, list[str]]


class Group(NamedTuple):
    """Hosts that can train together, in the order of their ranks, and the address at which they meet."""

    connections: list[Connection]
    address: str
    left_out: list[str]  # what is wrong with each of the hosts that are not among them


def gather(
    connections: Sequence[Connection], events: SimpleQueue[Event], job: Job, backend: Ssh, run_dir: RunDir
) -> Group:
    """Return the first hosts that are good, as many as there are nodes. Raises ConfigError if too few are.

    It has all that is wrong with the hosts then.
    """
    answers = _answers(connections, events, "here", backend.connect_seconds + _ANSWER_SECONDS)
    bad = _problems(connections, answers)
    while True:
        good = [connection for connection in connections if connection not in bad]
        chosen, spare = good[: job.cluster.nodes], good[job.cluster.nodes :]
        if len(chosen) < job.cluster.min_nodes:
            raise ConfigError(Problem("", problem) for problems in bad.values() for problem in problems)
        address, found = _try(chosen, spare, events, job, backend, run_dir)
        if not found:
            told = ["; ".join(problems) for problems in bad.values()]
            return Group(chosen, address, told)
        bad |= found


def _try(
    connections: Sequence[Connection],
    spare: Sequence[Connection],
    events: SimpleQueue[Event],
    job: Job,
    backend: Ssh,
    run_dir: RunDir,
) -> tuple[str, Problems]:
    """Return where these hosts would meet, and what is wrong with them. Raises ConfigError if all are to blame."""
    found = _look(connections, events, job, backend, run_dir)
    if problems := _problems(connections, found):
        return "", problems
    if len(connections) == 1:
        return "127.0.0.1", {}
    address, problems = _agreed(connections, found, backend)
    if problems:
        return "", problems
    first, *others = connections
    first.ask("listen", address=address, port=backend.port)
    if problems := _problems([first], _answers([first], events, "answer", _ANSWER_SECONDS)):
        return "", problems
    return address, _unreached(first, [*others, *spare], address, events, backend)


def _unreached(
    first: Connection, others: Sequence[Connection], address: str, events: SimpleQueue[Event], backend: Ssh
) -> Problems:
    """Return which hosts cannot connect to the first one; if none of several can, it is that one that is bad."""
    seconds = float(backend.connect_seconds)
    for other in others:
        other.ask("reach", address=address, port=backend.port, seconds=seconds)
    problems = _problems(others, _answers(others, events, "answer", seconds + _ANSWER_SECONDS))
    if len(problems) == len(others) > 1:
        return {first: [f"{first.host}: no other host can reach it. {next(iter(problems.values()))[0]}"]}
    return problems


def _look(
    connections: Sequence[Connection], events: SimpleQueue[Event], job: Job, backend: Ssh, run_dir: RunDir
) -> Mapping[int, Message]:
    nonce = secrets.token_hex(8)
    nonce_file(run_dir.root, nonce).write_text(nonce, encoding="ascii")
    try:
        for connection in connections:
            connection.ask(
                "look", folder=job.working_folder, run_dir=str(run_dir.root), nonce=nonce, node=connection.node,
                meeting="localhost" if connection is connections[0] else _name(connections, backend),  # it is there
            )  # fmt: skip
        found = _answers(connections, events, "answer", _ANSWER_SECONDS)
        for connection in connections:
            found[connection.node].setdefault("problems", []).extend(
                _unlike(found[connection.node], job.cluster)
                + _unseen(found[connection.node], connection, run_dir, nonce)
            )
    finally:
        for file in run_dir.root.glob(f"{nonce_file(run_dir.root, nonce).name}*"):
            file.unlink(missing_ok=True)
    return found


def _unlike(found: Message, cluster: Cluster) -> list[str]:
    """Return in what a host differs from this machine, or from the cluster file."""
    if "versions" not in found:
        return []
    told = [
        f"has {name} {found['versions'][name]}, this machine has {here}: install the same, or write "
        "cluster.backend.python: the interpreter that has it there"
        for name, here in versions().items()
        if found["versions"][name] != here
    ]
    if cluster.device == "cuda" and found["gpus"] < cluster.processes_per_node:
        told.append(f"has {found['gpus']} GPUs, the cluster file says processes_per_node={cluster.processes_per_node}")
    return told


def _unseen(found: Message, connection: Connection, run_dir: RunDir, nonce: str) -> list[str]:
    """Return that this machine does not see what a host wrote, if it does not."""
    if found["problems"]:
        return []
    deadline = time.monotonic() + _SHARED_SECONDS
    while not nonce_file(run_dir.root, nonce, connection.node).exists():
        if time.monotonic() > deadline:
            return [f"wrote to {run_dir.root}, and this machine does not see it: the folder is not shared"]
        time.sleep(0.1)
    return []


def _name(connections: Sequence[Connection], backend: Ssh) -> str:
    return backend.address or connections[0].host


def _agreed(connections: Sequence[Connection], found: Mapping[int, Message], backend: Ssh) -> tuple[str, Problems]:
    """Return the address by which all other hosts know the first one, or what is wrong with those that do not."""
    name = _name(connections, backend)
    problems: Problems = {}
    known: list[list[str]] = []
    for other in connections[1:]:
        addresses = found[other.node]["addresses"]
        known.append([address for address in addresses if not ipaddress.ip_address(address).is_loopback])
        if not known[-1]:
            problems[other] = [
                f"{other.host}: takes {name} for itself ({', '.join(addresses)}): the ranks could not meet there. "
                "Write cluster.backend.address: the address of the first host in the hosts' network"
            ]
    common = [address for address in known[0] if all(address in others for others in known)]
    if not problems and not common:
        shown = "; ".join(
            f"{other.host} knows {', '.join(own)}" for other, own in zip(connections[1:], known, strict=True)
        )
        told = f"{name} has another address on each host ({shown}). Write cluster.backend.address: one that all reach"
        raise ConfigError([Problem("", told)])
    return (common[0] if common else ""), problems


def _answers(
    connections: Sequence[Connection], events: SimpleQueue[Event], kind: str, seconds: float
) -> dict[int, Message]:
    """Return one answer of each host; for a host that gives none, a message with the problem."""
    waited = {connection.node: connection for connection in connections}
    answers: dict[int, Message] = {}
    deadline = time.monotonic() + seconds
    while len(answers) < len(waited):
        try:
            node, message = events.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            break
        if node in waited and message["event"] == kind:
            answers[node] = message
        elif node in waited and message["event"] == "closed":
            answers[node] = {"problems": [_why_closed(waited[node], message["code"])]}
    late = {"problems": [f"gave no answer for {seconds:.0f} s: look there"]}
    return {node: answers.get(node, late) for node in waited}


def _why_closed(connection: Connection, code: int) -> str:
    said = connection.last_words()
    if code == _NO_CONNECTION:
        last = said.splitlines()[-1] if said else "ssh failed"
        return f"ssh cannot get there: {last}. `ssh {connection.host} true` must work without a question"
    if code == _NO_PROGRAM:
        return f"has no such Python ({said}): write cluster.backend.python: the interpreter there"
    if "No module named" in said:
        last = said.splitlines()[-1]
        return f"its Python has no megabatch, or an older one ({last}): install the same version there"
    return f"the agent could not start (exit code {code}): {said}"


def _problems(connections: Sequence[Connection], answers: Mapping[int, Message]) -> Problems:
    """Return what is wrong with each host that has a problem, under its name."""
    return {
        connection: [f"{connection.host}: {problem}" for problem in problems]
        for connection in connections
        if (problems := answers[connection.node].get("problems"))
    }
