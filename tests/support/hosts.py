"""Several hosts on one machine: network namespaces on a bridge, each with a name, an address, /etc/hosts and an sshd.

    with hosts(folder, 3) as cluster: ...       # mb1, mb2, mb3 at 10.77.N.1, 2, 3; this machine is at 10.77.N.254
    with hosts(folder, 3, ipv6=True) as ...     # at fd77:0:0:N::1, 2, 3 and at no other kind of address

Each has a second address in 10.78.N, where nobody should hear anything, and processes of its own: none sees another's.

They share this machine's file system but for `folder/apart`, of which each has its own. Needs root, iproute2 and openssh-server.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support import relay

ALONE = ("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")  # own name and processes
SSHD_CONFIG = """\
Port 22
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
PasswordAuthentication no
MaxStartups 100
"""
SSH_CONFIG = """\
Host *
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    User root
"""


@dataclass(frozen=True)
class Hosts:
    """Running hosts. `config` is the file that ssh needs to know them by name."""

    folder: Path
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    here: str
    number: int
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def apart(self) -> Path:
        """A folder that every host has, each its own."""
        return self.folder / "apart"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    def namespace(self, name: str) -> str:
        return f"{name}-{self.number}"

    def command(self, name: str, *command: str) -> list[str]:
        """Return the argv that runs a command on a host."""
        return ["ip", "netns", "exec", self.namespace(name), *command]

    def on(self, name: str, *command: str) -> str:
        """Run a command on a host and return what it prints."""
        return _run(*self.command(name, *command))

    def write_names(self, name: str, **other: str) -> None:
        """Give a host its /etc/hosts: itself as Debian writes it, the others by their addresses, or by `other` ones.

        A name whose other address is "" is unknown.
        """
        names = {**dict(zip(self.names, self.addresses, strict=True)), name: "127.0.1.1", **other}
        folder = Path("/etc/netns") / self.namespace(name)
        lines = "".join(f"{address} {known}\n" for known, address in names.items() if address)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{lines}")

    def cut_off(self, name: str) -> None:
        """Pull a host's cable."""
        _run("ip", "link", "set", self._cable(name), "down")

    def connect(self, name: str) -> None:
        """Plug it in again."""
        _run("ip", "link", "set", self._cable(name), "up")

    def lose_power(self, name: str) -> None:
        """Let a host be gone without a word: its cable first, then every process."""
        self.cut_off(name)
        self.daemons[name].kill()  # the first process of the host, which takes all others with it
        self.daemons[name].wait()

    def boot(self, name: str) -> None:
        """Start a host."""
        self.connect(name)
        self.daemons[name] = _sshd(self, name, self.addresses[self.names.index(name)])
        _wait_for_sshd(self, name)

    def drop(self, name: str, *others: str) -> None:
        """Let what a host sends to others get lost; what they send arrives."""
        for address in map(self.addresses.__getitem__, map(self.names.index, others)):
            _run("ip", "-n", self.namespace(name), "route", "add", "blackhole", address)

    def drop_nothing(self) -> None:
        """Let everything arrive again."""
        for name in self.names:
            _run("ip", "-n", self.namespace(name), "route", "flush", "type", "blackhole")

    @contextmanager
    def without_launcher(self) -> Iterator[None]:
        """Take this machine out of the hosts' network; they still have each other."""
        bridge = f"mbbr{self.number}"
        _run("ip", "address", "del", f"{self.here}{_prefix(self.here)}", "dev", bridge)
        yield
        _run("ip", "address", "add", f"{self.here}{_prefix(self.here)}", "dev", bridge)

    @contextmanager
    def bad_line(self, name: str, delay: float, lose_every: int) -> Iterator[list[int]]:
        """Pass all that a host sends and gets through a relay; yields what will hold how many frames that lost."""
        bridge, cable, first, second = f"mbbr{self.number}", self._cable(name), *(f"mbr{self.number}-{i}" for i in "12")
        _run("ip", "link", "add", first, "type", "veth", "peer", "name", second)
        _run("ip", "link", "set", first, "master", bridge, "up")
        _run("ip", "link", "set", second, "up")
        _run("ip", "link", "set", cable, "nomaster")
        command = [sys.executable, relay.__file__, cable, second, str(delay), str(lose_every)]
        lost: list[int] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            try:
                yield lost
            finally:
                process.terminate()
                lost.append(int(process.stdout.readline()))
                _run("ip", "link", "set", cable, "master", bridge)
                _run("ip", "link", "del", first)

    def listening(self, name: str) -> list[tuple[str, int]]:
        """Return where a host's processes listen: address and port."""
        lines = self.on(name, "ss", "-Hltn").splitlines()
        found = (line.split()[3].rpartition(":") for line in lines)
        return sorted((address, int(port)) for address, _, port in found)

    def processes(self, name: str) -> list[int]:
        """Return the processes of a host, its sshd's aside."""
        found = []
        for pid in map(int, _run("ip", "netns", "pids", self.namespace(name)).split()):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if command and not command.startswith((b"sshd", b"/usr/sbin/sshd", b"unshare")):
                found.append(pid)
        return found

    def _cable(self, name: str) -> str:
        return f"mbv{self.number}-{self.names.index(name) + 1}"


def missing() -> str:
    """Return why there can be no hosts here, or an empty text."""
    absent = [name for name in ("ip", "ssh", "sshd") if _program(name) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install iproute2 openssh-client openssh-server"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    name = f"mbprobe-{os.getpid()}"
    add, try_out, delete = (
        ["ip", "netns", "add", name],
        ["ip", "netns", "exec", name, *ALONE, "true"],
        ["ip", "netns", "del", name],
    )
    done = [subprocess.run(command, capture_output=True, check=False) for command in (add, try_out, delete)]
    if all(process.returncode == 0 for process in done):
        return ""
    return "needs network and process namespaces, which this kernel or container does not allow"


@contextmanager
def hosts(folder: Path, count: int, ipv6: bool = False) -> Iterator[Hosts]:
    """Start hosts and stop them again; nothing of them outlives the block."""
    number = _unused_number()
    names = tuple(f"mb{i}" for i in range(1, count + 1))
    network = f"fd77:0:0:{number:x}::" if ipv6 else f"10.77.{number}."
    addresses = tuple(f"{network}{i}" for i in range(1, count + 1))
    cluster = Hosts(folder, names, addresses, f"{network}{'ff' if ipv6 else '254'}", number)
    cluster.apart.mkdir(parents=True)
    try:
        _connect(cluster)
        _write_keys(cluster)
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it
        for name, address in zip(names, addresses, strict=True):
            cluster.daemons[name] = _sshd(cluster, name, address)
        for name in names:
            _wait_for_sshd(cluster, name)
        yield cluster
    finally:
        for daemon in cluster.daemons.values():
            daemon.kill()  # and with it all of the host
            daemon.wait()
        _disconnect(cluster)


def _unused_number() -> int:
    """Tests that run side by side, and clusters in one test, have networks of their own."""
    return next(
        n for n in (i % 250 for i in itertools.count(os.getpid())) if not Path(f"/sys/class/net/mbbr{n}").exists()
    )


def elsewhere(address: str) -> str:
    """Return the same host's address in the other network."""
    return address.replace("10.77.", "10.78.", 1).replace("fd77:", "fd78:", 1)


def _prefix(address: str) -> str:
    return "/64" if ":" in address else "/24"


def _at_once(address: str) -> list[str]:
    """An IPv6 address is of no use for seconds, until nobody else is known to have it."""
    return ["nodad"] if ":" in address else []


def _connect(cluster: Hosts) -> None:
    bridge = f"mbbr{cluster.number}"
    _run("ip", "link", "add", bridge, "type", "bridge")
    for address in (cluster.here, elsewhere(cluster.here)):
        _run("ip", "address", "add", f"{address}{_prefix(address)}", "dev", bridge, *_at_once(address))
    _run("ip", "link", "set", bridge, "up")
    for i, (name, address) in enumerate(zip(cluster.names, cluster.addresses, strict=True), 1):
        inside = cluster.namespace(name)
        _run("ip", "netns", "add", inside)
        (Path("/etc/netns") / inside).mkdir(parents=True)
        cluster.write_names(name)
        cable = f"mbv{cluster.number}-{i}"
        _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", inside)
        _run("ip", "link", "set", cable, "master", bridge, "up")
        _run("ip", "-n", inside, "link", "set", "lo", "up")
        for own in (address, elsewhere(address)):
            _run("ip", "-n", inside, "address", "add", f"{own}{_prefix(own)}", "dev", "eth0", *_at_once(own))
        _run("ip", "-n", inside, "link", "set", "eth0", "up")


def _disconnect(cluster: Hosts) -> None:
    for name in cluster.names:
        inside = cluster.namespace(name)
        found = subprocess.run(["ip", "netns", "pids", inside], capture_output=True, text=True, check=False).stdout
        for pid in map(int, found.split()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        subprocess.run(["ip", "netns", "del", inside], capture_output=True, check=False)
        shutil.rmtree(Path("/etc/netns") / inside, ignore_errors=True)
    subprocess.run(["ip", "link", "del", f"mbbr{cluster.number}"], capture_output=True, check=False)


def _write_keys(cluster: Hosts) -> None:
    folder = cluster.folder
    for name in ("key", "host_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    public = (folder / "host_key.pub").read_text()
    known = zip(cluster.names, cluster.addresses, strict=True)
    (folder / "known_hosts").write_text("".join(f"{name},{address} {public}" for name, address in known))
    text = SSH_CONFIG.format(folder=folder)
    for name, address in zip(cluster.names, cluster.addresses, strict=True):
        text += f"Host {name}\n    HostName {address}\n"
    cluster.config.write_text(text)


def _sshd(cluster: Hosts, name: str, address: str) -> subprocess.Popen[bytes]:
    config = cluster.folder / f"sshd_config-{name}"
    config.write_text(SSHD_CONFIG.format(folder=cluster.folder, address=address))
    alone = f"mount -t tmpfs none {cluster.apart}"  # `ip netns exec` has mounts of its own
    daemon = f"hostname {name} && {alone} && exec {_program('sshd')} -D -e -f {config}"
    with (cluster.folder / f"sshd-{name}.log").open("ab") as log:
        return subprocess.Popen(
            cluster.command(name, *ALONE, "sh", "-c", daemon),
            stdout=log,
            stderr=log,
        )


def _wait_for_sshd(cluster: Hosts, name: str) -> None:
    deadline = time.monotonic() + 30
    while subprocess.run(["ssh", "-F", cluster.config, name, "true"], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, (cluster.folder / f"sshd-{name}.log").read_text()
        time.sleep(0.1)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


if __name__ == "__main__":  # to try something by hand: hosts stay until Enter is pressed
    with hosts(Path(sys.argv[1]), int(sys.argv[2])) as running:
        input(f"{running}\n")
