"""What is started on each host, as text; tests/cluster/test_hosts.py starts it over real sshds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.hosts import Ssh
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cancel import cancel
from megabatch.launcher.hosts.connection import REMOTE_COMMAND, ssh_command
from megabatch.launcher.hosts.hostfile import with_hosts
from megabatch.launcher.launch import render
from megabatch.launcher.save_job import write_job

TWO = "cluster.nodes=2"


def job(*overrides: str, folder: str = "/project") -> Job:
    loaded = load("digits", "laptop", [TWO, *overrides])
    return Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder=folder, data_fingerprint="", version="")


def test_every_host_gets_a_command_to_paste() -> None:
    shown = str(render(job("cluster.backend={name: ssh, hosts: [n1, n2]}", folder="/my project"), RunDir(Path("/run"))))
    start = f"cd '/my project' && OMP_NUM_THREADS=1 {sys.executable} -m megabatch.trainer.node --nodes 2 --node-rank"
    assert shown == (
        f"# on n1\n{start} 0 --meet n1:29500 /run/job.yaml\n\n# on n2\n{start} 1 --meet n1:29500 /run/job.yaml"
    )


def test_address_port_interpreter_and_arguments_are_those_of_the_cluster_file() -> None:
    backend = "{name: ssh, hosts: [n1, n2], address: 'fd00::1', port: 4000, python: /opt/python}"
    submission = render(job(f"cluster.backend={backend}"), RunDir(Path("/run")), ["--evaluate", "test"])
    assert submission.argv == [
        "/opt/python", "-m", "megabatch.trainer.node", "--nodes", "2", "--node-rank", "0", "--meet", "[fd00::1]:4000",
        "/run/job.yaml", "--evaluate", "test",
    ]  # fmt: skip


def test_the_command_over_ssh_has_nothing_of_the_job_and_no_questions() -> None:
    backend = Ssh(hosts=("n1",), user="me", ssh_port=2222, identity_file="a key", config_file="~/c", program="/bin/ssh")
    assert ssh_command(backend, "n1") == [
        "/bin/ssh", "-T", "-a", "-x", "-o", "ConnectTimeout=10", "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes",
        "-F", "~/c", "-i", "a key", "-l", "me", "-p", "2222", "--", "n1", REMOTE_COMMAND,
    ]  # fmt: skip


def test_a_run_on_other_machines_is_cancelled_through_its_folder(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    write_job(job("cluster.backend={name: ssh, hosts: [n1, n2]}"), run_dir.job)
    with pytest.raises(ConfigError, match="does not run: not started"):
        cancel(run_dir)
    assert not run_dir.cancel.exists()
    run_dir.lock.write_text("process 7 on n1\nstart 5f\n")
    assert cancel(run_dir).startswith("`megabatch launch` is asked to stop")
    assert run_dir.cancel.exists()


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("{name: ssh}", "no host is named"),
        ("{name: ssh, hosts: [n1, n2], hostfile: x}", "hosts and hostfile are both there"),
        ("{name: ssh, hosts: [n1, n1]}", "n1: there twice"),
        ("{name: ssh, hosts: [n1]}", "1 hosts, but nodes=2. Write nodes: 1"),
        ("{name: ssh, hosts: [n1, n2, n3, n4], spares: 1}", "4 hosts, but nodes=2 and spares=1. Write nodes: 3"),
        ("{name: ssh, hosts: [n1, n2], spares: 2}", "2 hosts, but nodes=2 and spares=2. Write spares: 1"),
        ("{name: ssh, hosts: [n1, n2], min_nodes: 3}", "min_nodes=3 is more than nodes=2"),
        ("{name: ssh, hosts: [n1, -oProxyCommand=x]}", "hosts.1"),
        ("{name: ssh, hosts: [n1, n2], user: 'a;b'}", "user"),
        ("{name: ssh, hosts: [n1, n2], identity_file: -x}", "begins with a dash"),
        ("{name: ssh, hosts: [n1, n2], port: 70000}", "port"),
        ("{name: accelerate}", "nodes=2, and no address to meet at"),
        ("{name: deepspeed}", "nodes=2, and no address to meet at"),
    ],
)
def test_a_mistake_in_the_cluster_file_is_named(backend: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job(f"cluster.backend={backend}")


def from_hostfile(folder: Path, text: str, *overrides: str) -> Job:
    (folder / "hosts.txt").write_text(text)
    backend = "cluster.backend={name: ssh, hostfile: hosts.txt}"
    return with_hosts(job(backend, *overrides, folder=str(folder)))


def test_the_hosts_of_a_hostfile_stand_in_the_job(tmp_path: Path) -> None:
    backend = from_hostfile(tmp_path, "n1 slots=2\nn2\n").cluster.backend
    assert isinstance(backend, Ssh)
    assert (backend.hosts, backend.hostfile) == (("n1", "n2"), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n1 slots=4\nn2 slots=2\n", "hosts.txt:1: n1 has 4 slots, but cluster.processes_per_node is 2"),
        ("n1\nn2\nn3\n", "hosts.txt: 3 hosts, but nodes=2. Write nodes: 3, or another hostfile"),
        ("n1 n2\n", "hosts.txt:1: 'n1 n2' is no host"),
    ],
)
def test_a_hostfile_that_does_not_fit_the_cluster_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_hostfile(tmp_path, text)
    assert str(caught.value).startswith(message)


def test_a_hostfile_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hosts.txt: No such file or directory"):
        with_hosts(job("cluster.backend={name: ssh, hostfile: hosts.txt}", folder=str(tmp_path)))
