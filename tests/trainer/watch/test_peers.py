"""Whose fault is an error?"""

from __future__ import annotations

import pytest
import torch.distributed as dist

from megabatch.trainer.errors import TrainingError
from megabatch.trainer.watch.peers import is_of_peer, is_timeout

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation"


@pytest.mark.parametrize(
    ("error", "of_peer", "timeout"),
    [
        (RuntimeError(GLOO), True, True),
        (RuntimeError("[...pair.cc:534] Connection closed by peer [127.0.0.1]:41211"), True, False),
        (dist.DistBackendError("NCCL error in: ..."), True, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("a mistake"), False, False),
        (TrainingError("the loss is nan"), False, False),
        (ConnectionResetError(104, "Connection reset by peer"), False, False),
        (BrokenPipeError(32, "Broken pipe"), False, False),
    ],
)
def test_who_has_caused_an_error(error: Exception, of_peer: bool, timeout: bool) -> None:
    assert (is_of_peer(error), is_timeout(error)) == (of_peer, timeout)
