"""Which hosts are chosen before a start, from what they answer; tests/cluster has real ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.hosts import Ssh
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.hosts.check import Group, gather
from megabatch.launcher.hosts.connection import Connection, Event
from megabatch.launcher.hosts.look import nonce_file, versions


class Host:
    """Stands for the connection to a host, and answers at once. `bad` is what is wrong there, by request."""

    def __init__(self, node: int, events: SimpleQueue[Event], bad: Mapping[str, str]):
        self.node = node
        self.host = f"n{node}"
        self._events = events
        self._bad = bad
        self._say(event="closed", code=255) if "here" in bad else self._say(event="here")

    def ask(self, do: str, **request: Any) -> None:
        where = f"{do} at n{request.get('address', '')[-1:]}"
        problems = [self._bad[kind] for kind in (do, where) if kind in self._bad]
        if do == "look":
            nonce_file(Path(request["run_dir"]), request["nonce"], self.node).touch()
            known = self._bad.get("knows", f"10.0.0.{request['meeting'].removeprefix('n')}")
            self._say(event="answer", versions=versions(), gpus=0, addresses=[known], problems=problems)
        else:
            self._say(event="answer", problems=problems)

    def last_words(self) -> str:
        return "Connection refused"

    def _say(self, **message: Any) -> None:
        self._events.put(Event(self.node, message))


def gathered(folder: Path, nodes: int, bad: Mapping[int, Mapping[str, str]], **settings: Any) -> Group:
    """Choose among n0, n1, n2 and n3."""
    spares = {} if nodes == 4 else {"spares": 4 - nodes}
    backend = Ssh.model_validate({"hosts": tuple(f"n{node}" for node in range(4)), **spares, **settings})
    cluster = load("digits", "laptop").cluster.model_copy(update={"nodes": nodes, "backend": backend})
    recipe = load("digits", "laptop").recipe
    job = Job(recipe=recipe, cluster=cluster, working_folder="/", data_fingerprint="", version="")
    events: SimpleQueue[Event] = SimpleQueue()
    connections = [cast(Connection, Host(node, events, bad.get(node, {}))) for node in range(4)]
    return gather(connections, events, job, backend, RunDir(folder))


def names(group: Group) -> list[str]:
    return [connection.host for connection in group.connections]


def test_without_a_problem_the_first_are_chosen_and_meet_at_the_first(tmp_path: Path) -> None:
    group = gathered(tmp_path, 3, {3: {"look": "not asked"}})
    assert (names(group), group.address, group.left_out) == (["n0", "n1", "n2"], "10.0.0.0", [])


@pytest.mark.parametrize("request_", ["here", "look", "listen", "reach"])
def test_a_spare_stands_in_for_a_host_that_is_bad(tmp_path: Path, request_: str) -> None:
    bad = 0 if request_ == "listen" else 1  # only the first one listens
    group = gathered(tmp_path, 3, {bad: {request_: "is bad"}})
    assert names(group) == [name for name in ("n0", "n1", "n2", "n3") if name != f"n{bad}"]
    assert group.address == ("10.0.0.1" if bad == 0 else "10.0.0.0")
    told = "ssh cannot get there: Connection refused. `ssh n1 true` must work without a question"
    assert group.left_out == [f"n{bad}: {told if request_ == 'here' else 'is bad'}"]


def test_a_first_host_that_nobody_reaches_is_to_blame_itself(tmp_path: Path) -> None:
    deaf = {node: {"reach at n0": "cannot reach the first host"} for node in (1, 2, 3)}
    group = gathered(tmp_path, 2, deaf)
    assert (names(group), group.address) == (["n1", "n2"], "10.0.0.1")
    assert group.left_out == ["n0: no other host can reach it. n1: cannot reach the first host"]
    assert names(gathered(tmp_path, 2, {1: deaf[1], 3: deaf[3]})) == ["n0", "n2"]


def test_fewer_hosts_do_where_the_cluster_file_says_so(tmp_path: Path) -> None:
    bad = {1: {"look": "is bad"}, 3: {"reach": "is worse"}}
    assert names(gathered(tmp_path, 4, bad, min_nodes=2)) == ["n0", "n2"]
    with pytest.raises(ConfigError) as caught:
        gathered(tmp_path, 4, bad, min_nodes=3)
    assert str(caught.value) == "n1: is bad\nn3: is worse"


def test_a_name_that_is_another_address_for_each_host_is_no_hosts_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n0 has another address on each host"):
        gathered(tmp_path, 3, {1: {"knows": "10.1.0.0"}}, min_nodes=1)


def test_a_host_that_takes_the_first_one_for_itself_is_replaced(tmp_path: Path) -> None:
    group = gathered(tmp_path, 3, {2: {"knows": "127.0.1.1"}})
    assert names(group) == ["n0", "n1", "n3"]
    assert "takes n0 for itself (127.0.1.1)" in group.left_out[0]
