"""What an agent finds out about its host before anything is started: versions, folders, addresses, ports. No torch."""

from __future__ import annotations

import errno
import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from megabatch.configs.run_dir import RunDir
from megabatch.launcher.hosts.messages import Message

_GPUS = Path("/proc/driver/nvidia/gpus")
_PACKAGES = ("megabatch", "torch")
_SHOWN = 4  # process numbers


def look(folder: str, run_dir: str, nonce: str, node: int, meeting: str) -> Message:
    """Return what there is, and `problems`: what keeps this host from taking part.

    The launcher has written a file with the nonce into the run folder; this writes one beside it.
    """
    addresses, unknown = _addresses(meeting)
    shared = _share_problems(Path(run_dir), nonce, node)
    problems = [*_folder_problems(folder), *shared, *unknown, *_left_behind(RunDir(Path(run_dir)))]
    return {"versions": versions(), "gpus": _gpus(), "addresses": addresses, "problems": problems}


def versions() -> dict[str, str]:
    """Return of what every host must have the same, by name. Of Python, the patch level may differ."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def nonce_file(run_dir: Path, nonce: str, node: int | None = None) -> Path:
    """Return the file by which the launcher, or a node, shows that it has the run folder."""
    return run_dir / (f".hosts-{nonce}" if node is None else f".hosts-{nonce}-{node}")


def _gpus() -> int:
    return len(list(_GPUS.iterdir())) if _GPUS.is_dir() else 0


def _folder_problems(folder: str) -> list[str]:
    if Path(folder).is_dir():
        return []
    return [f"has no folder {folder}, from which the job was launched: share it, or launch from a folder that is"]


def _share_problems(run_dir: Path, nonce: str, node: int) -> list[str]:
    remedy = "Every host must have it at the same path: --run-dir on a file system that they share"
    try:
        if nonce_file(run_dir, nonce).read_text(encoding="ascii") != nonce:
            return [f"sees another run folder {run_dir} than the launcher. {remedy}"]
    except OSError:
        return [f"does not see the launcher's run folder {run_dir}. {remedy}"]
    try:
        RunDir(run_dir).job.open("rb").close()
    except OSError as error:
        return [f"cannot read {RunDir(run_dir).job}: {error.strerror}. Log in as the user who launches"]
    try:
        nonce_file(run_dir, nonce, node).write_text(nonce, encoding="ascii")
    except OSError as error:
        return [f"cannot write to the run folder {run_dir}: {error.strerror}. Make it writable there"]
    return []


def _left_behind(run_dir: RunDir) -> list[str]:
    """Return that ranks of the run are here already, if they are: of a start that was cut off, or not to be missed."""
    there = [pid for pid in (int(entry.name) for entry in Path("/proc").glob("[0-9]*")) if _is_rank(pid, run_dir)]
    if not there:
        return []
    shown = ", ".join(map(str, there[:_SHOWN])) + (", ..." if len(there) > _SHOWN else "")
    return [f"has ranks of this run from an earlier start (process {shown}): wait until they have ended, or end them"]


def _is_rank(pid: int, run_dir: RunDir) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return False
    return os.fsencode(run_dir.job) in words and any(word.startswith(b"megabatch.trainer") for word in words)


def _addresses(name: str) -> tuple[list[str], list[str]]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        told = f"does not know the name {name} ({error.strerror}), where the ranks are to meet"
        return [], [f"{told}. Write cluster.backend.address: the address of the first host in the hosts' network"]
    return list(dict.fromkeys(str(entry[4][0]) for entry in found)), []


def listener(address: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OSError whose text says what to change."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except OSError as error:
        raise OSError(_why_not(error, address, port)) from None


def _why_not(error: OSError, address: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken at {address}, where the ranks are to meet. Write another cluster.backend.port"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"does not have the address {address}, where the ranks are to meet. Write cluster.backend.address: one "
            "that the first host has, and all others reach"
        )
    return f"cannot listen at {address}, port {port}: {os.strerror(error.errno or 0)}"


def reach(address: str, port: int, seconds: float) -> str | None:
    """Return why this host cannot connect, or None if it can."""
    try:
        socket.create_connection((address, port), timeout=seconds).close()
    except OSError as error:
        why = error.strerror or "no answer"
        return f"cannot reach the first host at {address}, port {port} ({why}): open the ports between the hosts"
    return None
