"""torch FSDP2 (`fully_shard`): every rank keeps a part of each parameter, its gradient and its optimizer state.

A group of parameters is put together just before it is needed and taken apart again afterwards, in every forward and
backward pass; so all ranks must make the same number of passes, and one without a micro-batch makes an empty one.
Gradients are summed, not averaged. Buffers stay whole on every rank: batch_norm.py keeps them equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from typing_extensions import override

from megabatch.configs.engines import Fsdp
from megabatch.configs.model import Compile
from megabatch.trainer.engines.base import EngineBase, Tensors, without_a_trace
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.groups import NORMALIZATIONS
from megabatch.trainer.sharding import cut_like
from megabatch.trainer.world import World

_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, None: None}


class FsdpEngine(EngineBase):
    """The engine `fsdp`. To the rest of the program the parameters are as if they were whole: DTensors."""

    same_number_of_passes = True

    def __init__(
        self,
        network: nn.Module,
        settings: Fsdp,
        world: World,
        example_NCHW: torch.Tensor,
        compile_settings: Compile | None = None,
        measure_noise: bool = False,
    ):
        assert compile_settings is None, "launcher/refusals/ refuses it"
        assert not measure_noise, "launcher/refusals/ refuses it"
        self.network = network
        self.num_ranks = world.num_ranks
        self._settings = settings
        self._groups = _shard(network, settings, world)
        self._try(example_NCHW)

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits_NK."""
        logits_NK: torch.Tensor = self.network(images_NCHW)
        return logits_NK

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro-batch."""
        if not self._settings.reduce_every_micro_batch:
            for group in self._groups:
                group.set_requires_gradient_sync(last, recurse=False)
        return nullcontext()

    @override
    @contextmanager
    def forward_only(self) -> Iterator[None]:
        """Take the parameters apart afterwards: without a backward pass the outermost ones would stay as they are."""
        try:
            yield
        finally:
            for group in self._groups:
                group.reshard()

    @override
    def load_network(self, tensors: Tensors) -> None:
        """Load tensors in one piece, or cut like the network's own."""
        own = self.network.state_dict()
        cut = {name: cut_like(own[name], tensor) if name in own else tensor for name, tensor in tensors.items()}
        self.network.load_state_dict(cut)

    def _try(self, example_NCHW: torch.Tensor) -> None:
        """Make one pass, to find what does not fit before the first step."""
        try:
            with without_a_trace(self.network):
                self(example_NCHW).sum().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "DTensor" not in str(error):
                raise
            raise TrainingError(
                "a module of the network uses the parameters of another one directly, so they are not put together "
                f"before ({str(error).splitlines()[0]}). Name the modules whose forward is called, in engine.wrap"
            ) from error


def _shard(network: nn.Module, settings: Fsdp, world: World) -> list[FSDPModule]:
    """Cut the parameters of the network, in groups; return the modules that own a group."""
    mesh = init_device_mesh(world.device.type, (world.num_ranks,))
    policy = MixedPrecisionPolicy(
        param_dtype=_DTYPES[settings.parameter_dtype], reduce_dtype=_DTYPES[settings.reduce_dtype]
    )
    exact = MixedPrecisionPolicy(reduce_dtype=policy.reduce_dtype)
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": settings.reshard_after_forward}
    for module in modules_to_wrap(network, settings):
        if policy.param_dtype is not None:
            for norm in module.modules():
                if isinstance(norm, NORMALIZATIONS) and not isinstance(norm, FSDPModule):
                    fully_shard(norm, mp_policy=exact, **options)
        fully_shard(module, mp_policy=policy, **options)
    groups: list[FSDPModule] = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for group in groups:
        group.set_gradient_divide_factor(1.0)
        group.set_force_sum_reduction_for_comms(True)
    return groups


def modules_to_wrap(network: nn.Module, settings: Fsdp) -> list[nn.Module]:
    """Return the modules that get a group of parameters of their own, inner ones first; the last is the network.

    Those that `settings.wrap` names, or else every module that has `min_parameters` beside those of groups inside it.
    """
    if not settings.wrap:
        found: list[nn.Module] = []
        _collect_large(network, settings.min_parameters, found)
        return [*(module for module in found if module is not network), network]
    names = [name for name, _ in network.named_modules() if name]
    for pattern in settings.wrap:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TrainingError(
                f"engine.wrap: {pattern!r} fits no module. Modules are called {', '.join(names[:8])}, ..."
            )
    chosen = [
        module
        for name, module in network.named_modules()
        if name and any(fnmatchcase(name, pattern) for pattern in settings.wrap)
    ]
    uncalled = [type(module).__name__ for module in chosen if isinstance(module, _NEVER_CALLED)]
    if uncalled:
        raise TrainingError(f"engine.wrap names a {uncalled[0]}, which is never called: name the modules inside it")
    return [*reversed(chosen), network]


def _collect_large(module: nn.Module, least: int, found: list[nn.Module]) -> int:
    """Collect modules with at least `least` parameters; return how many are not in any collected one."""
    left = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    left += sum(_collect_large(child, least, found) for child in module.children())
    if left < least or isinstance(module, _NEVER_CALLED):
        return left
    found.append(module)
    return 0
