"""Where the ranks meet: a store that rank 0 serves at one address and nowhere else.

torch's store and gloo have no passwords, so what they listen on is chosen here: the loopback address where all ranks
are on this machine, else the address that was named, and the interface that has it. The socket is opened before the
ranks are there, so that nobody else can take the port in between.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from megabatch.trainer.errors import TrainingError

STORE_SOCKET = "MEGABATCH_STORE_SOCKET"  # for rank 0 the number of the open socket, for the others nothing
_LOOPBACK = "127.0.0.1"
_WAITING = 2048  # connections that may wait: every rank opens several at once
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
_SIOCGIFADDR = 0x8915  # netdevice(7)


@dataclass(frozen=True)
class Meeting:
    """An address and port, and on the machine with rank 0 the socket that listens there."""

    address: str
    port: int
    socket: socket.socket | None

    def environment(self, rank: int) -> dict[str, str]:
        """Return the variables that tell a rank where to meet, and over which interface to talk."""
        variables = {"MASTER_ADDR": self.address, "MASTER_PORT": str(self.port)}
        variables[STORE_SOCKET] = str(self.socket.fileno()) if rank == 0 and self.socket is not None else ""
        return {**_over_interface_to(self.address), **variables}

    def close(self) -> None:
        """Close this process's end; rank 0 has its own."""
        if self.socket is not None:
            self.socket.close()


def meeting_on_this_machine() -> Meeting:
    """Return a meeting at a free port of the loopback interface."""
    opened = socket.create_server((_LOOPBACK, 0), backlog=_WAITING)
    return Meeting(_LOOPBACK, opened.getsockname()[1], opened)


def meeting_at(endpoint: str, has_rank_0: bool) -> Meeting:
    """Return a meeting at HOST:PORT, opened here if rank 0 is here. Raises TrainingError if it cannot be."""
    host, _, port = endpoint.rpartition(":")
    try:
        address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise TrainingError(
            f"{socket.gethostname()}: the ranks are to meet at {endpoint}, but {host} has no address here "
            f"({error.strerror}). Name the first node by an address that all nodes reach"
        ) from None
    return Meeting(str(address), int(port), _listen(str(address), int(port), endpoint) if has_rank_0 else None)


def _listen(address: str, port: int, endpoint: str) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=_WAITING)
    except OSError as error:
        raise TrainingError(
            f"{socket.gethostname()}: rank 0 cannot listen at {endpoint}: {error.strerror}. Name an address of the "
            "first node, and a port that is free there"
        ) from None


def store_of_meeting(num_ranks: int, timeout: timedelta, environment: Mapping[str, str]) -> dist.Store | None:  # type: ignore[name-defined]  # public, but not in __all__
    """Return the store where the ranks meet; None if another launcher started them, for torch to find its own."""
    given = environment.get(STORE_SOCKET)
    if given is None:
        return None
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    if not given:
        return dist.TCPStore(address, port, num_ranks, is_master=False, timeout=timeout)  # type: ignore[attr-defined]  # as above
    return dist.TCPStore(  # type: ignore[attr-defined]  # as above
        address, port, num_ranks, is_master=True, timeout=timeout, master_listen_fd=int(given)
    )


def _over_interface_to(address: str) -> dict[str, str]:
    """Return the variables that keep gloo and NCCL on one interface, unless the user's own say otherwise."""
    interface = _interface_to(address)
    if interface is None:
        return {}
    names = ["GLOO_SOCKET_IFNAME"] if interface == "lo" else ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"]
    return {name: os.environ.get(name, interface) for name in names}  # on one machine NCCL needs no network


def _interface_to(address: str) -> str | None:
    """Return the interface over which this machine talks to an address, if it can be told."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connect() of a datagram socket sends nothing
        try:
            probe.connect((address, 9))
            own = probe.getsockname()[0]
        except OSError:
            return None
        if family == socket.AF_INET6:
            return _interface_with(own)
        names = [name for _, name in socket.if_nameindex()]
        return next((name for name in names if _address_of(probe, name) == own), None)


def _interface_with(own: str) -> str | None:
    """Return the interface that has an IPv6 address: lines of proc(5) begin with the address and end with the name."""
    wanted = socket.inet_pton(socket.AF_INET6, own).hex()
    with suppress(OSError):  # not Linux
        for line in _IPV6_ADDRESSES.read_text(encoding="ascii").splitlines():
            address, *_, name = line.split()
            if address == wanted:
                return name
    return None


def _address_of(any_socket: socket.socket, interface: str) -> str | None:
    request = struct.pack("256s", interface.encode()[:15])
    try:
        return socket.inet_ntoa(fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)[20:24])
    except OSError:  # it has none
        return None
