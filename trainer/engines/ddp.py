"""torch DistributedDataParallel: a full copy on every rank, gradients summed while the backward pass still runs.

Two of its habits are turned off. It divides by the number of ranks: a hook sums instead. It rebuilds its gradient
buckets after the first backward pass, so that a resumed run would add floats in another order than an uninterrupted
one and, from three ranks on, end in other last bits: two passes over zeros before training make the first step the
same as any other.
"""

# No `from __future__ import annotations`: torch compares the annotations of a communication hook as objects.
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from megabatch.configs.engines import DdpOptions
from megabatch.configs.model import Compile
from megabatch.trainer.engines.base import EngineBase, without_a_trace
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.world import World

_OLD_NAME, _NEW_NAME = "broadcast_buffers", "forward_sync_buffers"  # torch 2.15 renamed it
_NAME = _NEW_NAME if _NEW_NAME in inspect.signature(DistributedDataParallel).parameters else _OLD_NAME
_NOTHING = nullcontext()
_SENT_IN = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}
LEAVE_BUFFERS: dict[str, Any] = {_NAME: False}  # Any: mypy cannot see which argument it is; batch_norm.py keeps them


class DdpEngine(EngineBase):
    """The engine `ddp`. With one rank there is nothing to share, and the network is used as it is."""

    def __init__(
        self,
        network: nn.Module,
        settings: DdpOptions,
        world: World,
        example_NCHW: torch.Tensor,
        compile_settings: Compile | None = None,
        measure_noise: bool = False,
    ):
        self.network = network
        self.num_ranks = world.num_ranks
        self._local_squares: list[torch.Tensor] = []
        self._parallel: DistributedDataParallel | None = None
        if world.num_ranks > 1:
            self._parallel = self.share(network, settings, world)
            summing = _Summing(self._local_squares if measure_noise else None, _SENT_IN[settings.gradient_compression])
            self._parallel.register_comm_hook(summing, _sum_bucket)
        forward: Callable[[torch.Tensor], torch.Tensor] = network if self._parallel is None else self._parallel
        if compile_settings is not None:
            # `dynamic`: the last micro-batch of an epoch is smaller, and must not be compiled anew each time.
            mode = None if compile_settings.mode == "default" else compile_settings.mode
            forward = torch.compile(forward, backend=compile_settings.backend, mode=mode, dynamic=True)
        self._forward = forward
        if self._parallel is not None:
            self._settle_buckets(example_NCHW)

    @staticmethod
    def share(network: nn.Module, settings: DdpOptions, world: World) -> DistributedDataParallel:
        """Return the network as several ranks share it."""
        return DistributedDataParallel(
            network,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            **LEAVE_BUFFERS,
            bucket_cap_mb=settings.bucket_megabytes,
            find_unused_parameters=settings.find_unused_parameters,
            static_graph=settings.static_graph,
            gradient_as_bucket_view=True,
        )

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits_NK."""
        logits_NK: torch.Tensor = self._forward(images_NCHW)
        return logits_NK

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro-batch."""
        return _NOTHING if last or self._parallel is None else self._parallel.no_sync()

    @override
    def take_local_squares(self) -> torch.Tensor | None:
        """Return the sum of squares of this rank's own gradient, taken bucket by bucket before the sum over ranks."""
        if not self._local_squares:
            return None
        total = torch.stack(self._local_squares).sum()
        self._local_squares.clear()
        return total

    def _settle_buckets(self, example_NCHW: torch.Tensor) -> None:
        try:
            with without_a_trace(self.network):
                for _ in range(2):
                    self(example_NCHW).sum().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "finished reduction" not in str(error):
                raise
            raise TrainingError(
                "some parameters of the model take no part in its output, so their gradients never come. Freeze them "
                "(requires_grad=False), or set engine.find_unused_parameters=true (a search every step)"
            ) from error
        self._local_squares.clear()


class _Summing(NamedTuple):
    """What the hook below is told, the same for every bucket."""

    local_squares: list[torch.Tensor] | None
    sent_in: torch.dtype | None


def _sum_bucket(state: _Summing, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
    gradients = bucket.buffer()
    if state.local_squares is not None:
        state.local_squares.append(torch.linalg.vector_norm(gradients, dtype=torch.float64).square())
    if state.sent_in is None:
        sent, receive = gradients, _received
    else:
        sent, receive = gradients.to(state.sent_in), lambda done: gradients.copy_(done.value()[0])
    future: torch.futures.Future[torch.Tensor] = dist.all_reduce(sent, async_op=True).get_future().then(receive)
    return future


def _received(done: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
    return done.value()[0]
