"""Jobs over ssh on hosts that are network namespaces of this machine, each with a real sshd (support/hosts.py)."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.host_runs import TOKEN, cluster_file, ended, nothing_runs_on, started, wait_for_step
from cluster.slurm_cluster import until

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load, read_job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.backends import ssh
from support.hosts import Hosts, elsewhere, hosts, missing
from support.runs import Workplace, losses, steps_done, trained_samples

pytestmark = [pytest.mark.hosts, pytest.mark.skipif(bool(missing()), reason=missing())]
OVERRIDES = ("epochs=22", "checkpoint.every_epochs=22", "checkpoint.every_steps=4", "model.name=witness:model")
# What a rank sees of its host, and a step long enough for the test to come in between.
WITNESS = """\
import os, socket, time
from pathlib import Path
from network import small

def model(num_classes):
    seen = [socket.gethostname(), os.environ.get("SOME_TOKEN", ""), os.environ.get("OMP_NUM_THREADS", "")]
    Path(f"seen-{os.environ.get('RANK', 'none')}").write_text(" ".join(seen))
    network = small(num_classes)
    network.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    return network

def failing(num_classes):
    network, batches = small(num_classes), []
    def count(*_):
        batches.append(1)
        if len(batches) > 4 and os.environ.get("RANK") == "1":
            raise ValueError("on purpose")
    network.register_forward_pre_hook(count)
    return network
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("network") / "hosts", 3) as running:
        yield running


@pytest.fixture(scope="module")
def place(workplace: Workplace, cluster: Hosts) -> Workplace:
    (workplace.folder / "witness.py").write_text(WITNESS)
    (workplace.folder / "cluster.yaml").write_text(cluster_file(cluster))
    return workplace


def where_the_token_is() -> list[str]:
    """Return the processes of this machine, the hosts' included, that have the token in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = file.read_bytes()
        except OSError:
            continue
        if TOKEN.encode() in text:
            found.append(text.decode())
    return found


@dataclass(frozen=True)
class Interrupted:
    """A run that was looked at in its midst, and then stopped by Ctrl-C."""

    run_dir: RunDir
    ranks_saw: list[str]
    commands_with_token: list[str]
    listening: dict[str, list[tuple[str, int]]]
    open_elsewhere: list[tuple[str, int]]
    open_here: list[bool]
    left: bool
    said: str


@pytest.fixture(scope="module")
def interrupted(place: Workplace, cluster: Hosts) -> Interrupted:
    run_dir = RunDir(place.folder / "over-ssh")
    before = {name: cluster.listening(name) for name in cluster.names}
    passed = "cluster.backend.pass_environment=[SOME_TOKEN]"
    run = started(place, "recipe.yaml", *OVERRIDES, "--cluster", "cluster.yaml", passed, "--run-dir", "over-ssh")
    wait_for_step(run_dir, 4, run)
    cluster.cut_off("mb2")
    time.sleep(2)  # less than silent_seconds: everybody waits
    cluster.connect("mb2")
    wait_for_step(run_dir, 10, run)
    opened = {name: sorted({*cluster.listening(name)} - {*before[name]}) for name in cluster.names}
    other = {name: elsewhere(address) for name, address in zip(cluster.names, cluster.addresses, strict=True)}
    observed = {
        "ranks_saw": [(place.folder / f"seen-{rank}").read_text() for rank in range(3)],
        "commands_with_token": where_the_token_is(),
        "listening": opened,
        "open_elsewhere": [(n, port) for n in cluster.names for _, port in opened[n] if is_open(other[n], port)],
        "open_here": [is_open(cluster.addresses[0], port) for _, port in opened["mb1"]],
    }
    with garbage_at([(address, port) for opened_here in opened.values() for address, port in opened_here]):
        wait_for_step(run_dir, steps_done(run_dir) + 5, run)
    run.send_signal(signal.SIGINT)
    said = ended(run, run_dir, 3)
    return Interrupted(run_dir, **observed, left=not nothing_runs_on(cluster), said=said)


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


@contextmanager
def garbage_at(places: list[tuple[str, int]]) -> Iterator[None]:
    """Send nonsense to all that listens; some connections stay open, without another word."""
    with ExitStack() as held:
        for place in places:
            for junk in (b"GET / HTTP/1.0\r\n\r\n", bytes(range(256)) * 16, b"\0" * 100, b"\xff" * 5000, b""):
                connection = held.enter_context(socket.create_connection(place, timeout=5))
                connection.sendall(junk)
                if junk.startswith(b"\0"):
                    connection.close()
        yield


def test_a_token_reaches_the_ranks_and_nobody_else(interrupted: Interrupted) -> None:
    assert interrupted.ranks_saw == [f"mb{number} {TOKEN} 1" for number in (1, 2, 3)]
    assert interrupted.commands_with_token == []
    files = [file for file in interrupted.run_dir.root.rglob("*") if file.is_file()]
    assert [file for file in files if TOKEN.encode() in file.read_bytes()] == []


def test_nothing_listens_outside_the_chosen_network(interrupted: Interrupted, cluster: Hosts) -> None:
    assert interrupted.open_here
    assert all(interrupted.open_here)  # the scan does find what is there
    assert interrupted.open_elsewhere == []
    addresses = {address for opened in interrupted.listening.values() for address, _ in opened}
    assert addresses <= {*cluster.addresses, "127.0.0.1"}


def test_stopped_cut_off_orphaned_and_over_a_bad_line_it_goes_on_exactly(
    place: Workplace, cluster: Hosts, interrupted: Interrupted
) -> None:
    run_dir = interrupted.run_dir
    assert "stopped. Go on with" in interrupted.said
    assert not interrupted.left
    at = steps_done(run_dir)
    assert run_dir.checkpoint(at).is_dir()  # not one of every four steps

    cut = started(place, "--resume", "over-ssh")
    wait_for_step(run_dir, at + 8, cut)
    cluster.cut_off("mb1")  # where the store is
    said = ended(cut, run_dir, 1)
    assert "mb1 has given no sign of life for" in said
    assert re.search(r"the store in which the ranks meet has given rank [12] on mb[23] no answer", said)
    until(lambda: nothing_runs_on(cluster))  # on the host that was cut off, too
    cluster.connect("mb1")

    orphaned = started(place, "--resume", "over-ssh")
    wait_for_step(run_dir, steps_done(run_dir) + 8, orphaned)
    orphaned.kill()
    orphaned.communicate()
    until(lambda: nothing_runs_on(cluster))
    assert run_dir.checkpoint(steps_done(run_dir)).is_dir()  # the ranks saved, though nobody was there to ask them

    with cluster.bad_line("mb2", delay=0.01, lose_every=40) as lost:
        ended(started(place, "--resume", "over-ssh"), run_dir, 0)
    assert lost[0] > 0
    local = place.train("local", 3, *OVERRIDES)
    assert losses(run_dir) == losses(local)
    assert trained_samples(run_dir) == trained_samples(local)
    assert len(run_dir.rank_logs()) == 3


def test_the_error_of_one_rank_ends_all_and_is_told_once(place: Workplace, cluster: Hosts) -> None:
    run_dir = RunDir(place.folder / "failing")
    chosen = ["epochs=20", "model.name=witness:failing", "--cluster", "cluster.yaml", "--run-dir", "failing"]
    said = ended(started(place, "recipe.yaml", *chosen), run_dir, 1)
    assert said.count("error: ") == 1
    assert "error: rank 1 on mb2: Traceback" in said
    assert said.count("ValueError: on purpose") == 1
    assert nothing_runs_on(cluster)


def test_every_host_is_looked_at_by_check(place: Workplace, cluster: Hosts) -> None:
    done = place.megabatch("check", "--cluster", "cluster.yaml")
    assert [line.split()[:2] for line in done.stdout.splitlines() if line[:1].isdigit()] == [
        [str(rank), name] for rank, name in enumerate(cluster.names)
    ], done.stderr


def problems(place: Workplace, cluster: Hosts, run: Path | None = None, **values: object) -> str:
    """Return why a job is not started."""
    file = place.folder / "wrong.yaml"
    file.write_text(cluster_file(cluster, **values))
    job = place.job("checked", 1)
    loaded = load(str(place.folder / "recipe.yaml"), str(file))
    checked = read_job(job.job).model_copy(update={"cluster": loaded.cluster})
    run_dir = RunDir(run or job.root)
    with pytest.raises(ConfigError) as caught:
        ssh.submit(ssh.render(checked, run_dir), checked, run_dir, print)
    assert sorted(run_dir.root.glob(".hosts-*")) == []
    assert not run_dir.logs.exists()
    return str(caught.value)


@contextmanager
def names_on(cluster: Hosts, host: str, **names: str) -> Iterator[None]:
    """Let a host know others by other addresses."""
    cluster.write_names(host, **names)
    yield
    cluster.write_names(host)


def test_hosts_that_ssh_cannot_get_to_are_all_named(place: Workplace, cluster: Hosts) -> None:
    nowhere = f"10.77.{cluster.number}.99"
    told = problems(place, cluster, hosts=["mb1", "nowhere.invalid", nowhere], connect_seconds=1).splitlines()
    assert told[0].startswith(f"{nowhere}: ssh cannot get there: ")
    assert told[1].startswith("nowhere.invalid: ssh cannot get there: ssh: Could not resolve hostname")
    assert told[1].endswith("`ssh nowhere.invalid true` must work without a question")
    refused = problems(place, cluster, ssh_port=2222).splitlines()
    assert len(refused) == 3
    assert all("Connection refused" in line for line in refused)


def test_a_host_whose_key_is_unknown_is_named(place: Workplace, cluster: Hosts, tmp_path: Path) -> None:
    stranger = tmp_path / "ssh_config"
    stranger.write_text(f"UserKnownHostsFile {tmp_path}/none\n{cluster.config.read_text()}")
    told = problems(place, cluster, config_file=stranger)
    assert "mb2: ssh cannot get there: Host key verification failed." in told


def test_another_python_or_megabatch_is_named(place: Workplace, cluster: Hosts, tmp_path: Path) -> None:
    assert "mb1: has no such Python" in problems(place, cluster, python="/no/such/python")
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    assert "mb1: its Python has no megabatch, or an older one" in problems(place, cluster, python=bare)
    (tmp_path / "torch-1.0.dist-info").mkdir()
    (tmp_path / "torch-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    other = tmp_path / "other"
    other.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    other.chmod(0o755)
    assert re.search(r"mb3: has torch 1\.0, this machine has \d", problems(place, cluster, python=other))


def test_a_run_folder_that_is_not_shared_is_told(place: Workplace, cluster: Hosts) -> None:
    run = cluster.apart / "run"
    run.mkdir()
    told = problems(place, cluster, run).splitlines()
    assert [line.partition(".")[0] for line in told] == [
        f"mb{number}: does not see the launcher's run folder {run}" for number in (1, 2, 3)
    ]


def test_names_that_stand_for_something_else_are_told(place: Workplace, cluster: Hosts) -> None:
    with names_on(cluster, "mb2", mb1="127.0.1.1"):  # as Debian writes it for a machine's own name
        assert "mb2: takes mb1 for itself (127.0.1.1)" in problems(place, cluster)
    with names_on(cluster, "mb3", mb1=""):
        assert "mb3: does not know the name mb1" in problems(place, cluster)
    with names_on(cluster, "mb3", mb1=cluster.addresses[1]):
        told = problems(place, cluster)
        assert f"mb1 has another address on each host (mb2 knows {cluster.addresses[0]}; mb3 knows" in told
    told = problems(place, cluster, address=cluster.addresses[1])
    assert f"mb1: does not have the address {cluster.addresses[1]}, where the ranks are to meet" in told


def test_a_port_that_is_taken_is_told(place: Workplace, cluster: Hosts) -> None:
    listen = "import socket, time; s = socket.create_server(('0.0.0.0', 29500)); print(1, flush=True); time.sleep(99)"
    taken = subprocess.Popen(cluster.command("mb1", sys.executable, "-c", listen), stdout=subprocess.PIPE)
    try:
        assert taken.stdout is not None
        taken.stdout.readline()
        with names_on(cluster, "mb1", mb1=""):  # that it does not know itself does no harm
            told = problems(place, cluster)
        assert told == (
            "mb1: port 29500 is taken at "
            f"{cluster.addresses[0]}, where the ranks are to meet. Write another cluster.backend.port"
        )
    finally:
        taken.kill()
        taken.communicate()
