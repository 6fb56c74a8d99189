"""Which errors of a collective another rank has caused, by the words of gloo, NCCL and torch's store."""

from __future__ import annotations

import torch.distributed as dist

from megabatch.configs.errors import ConfigError
from megabatch.data.errors import DataError
from megabatch.trainer.errors import TrainingError

_LOST = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket Timeout", "Connect timeout",
    "Connection was likely closed", "remote process exited",
)  # fmt: skip
_TIMED_OUT = ("Timed out waiting", "Watchdog caught collective operation timeout")


def is_timeout(error: BaseException) -> bool:
    """Return whether a collective waited too long for another rank."""
    return any(words in str(error) for words in _TIMED_OUT)


def is_of_peer(error: BaseException) -> bool:
    """Return whether the error may be the consequence of what another rank did.

    An OSError with such words is this rank's own: of a server that it reads from, say. torch raises RuntimeError.
    """
    if isinstance(error, (ConfigError, DataError, TrainingError, OSError)):
        return False
    return isinstance(error, dist.DistError) or is_timeout(error) or any(words in str(error) for words in _LOST)
