"""The name of this machine: the one that Slurm knows it by where it is one of its nodes, for it may be another one."""

from __future__ import annotations

import os
import socket


def host_name() -> str:
    """Return it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
