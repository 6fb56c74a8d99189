"""DeepSpeed: the state of the optimizer, the gradients and the weights shared out among the ranks (ZeRO).

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models". DeepSpeed runs the
backward pass, the sum over the ranks and the update; the gradient is finished by the step in between, on the flat
shards that the ranks then hold (zero.py). Three of its habits are turned off: it counts micro-batches itself (the
boundary is set by hand), it divides by the number of micro-batches and of ranks (undone here), and it compiles a C++
extension at its first start on a CPU, for a kind of inference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from megabatch.configs.deepspeed_json import deepspeed_json
from megabatch.configs.engines import DeepSpeed
from megabatch.configs.model import Compile
from megabatch.configs.recipe import Recipe
from megabatch.trainer.engines.base import EngineBase, Tensors, without_a_trace
from megabatch.trainer.engines.zero import Shards, shards_of
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.state import load_optimizer, optimizer_numbers, optimizer_tensors
from megabatch.trainer.precision import PrecisionPolicy
from megabatch.trainer.world import World

_NOTHING = nullcontext()


class DeepSpeedEngine(EngineBase):
    """The engine `deepspeed`. Until `prepare`, which DeepSpeed needs the optimizer for, the network is as it was."""

    def __init__(
        self,
        network: nn.Module,
        settings: DeepSpeed,
        world: World,
        example_NCHW: torch.Tensor,
        compile_settings: Compile | None = None,
        measure_noise: bool = False,
    ):
        assert compile_settings is None, "the plan refuses it"
        assert not measure_noise, "the plan refuses it"
        self.network = network
        self.num_ranks = world.num_ranks
        self.sharded = settings.stage > 0
        self.same_number_of_passes = settings.stage >= 2
        self._stage = settings.stage
        self._world = world
        self._last = True
        self._engine: Any = None  # Any: deepspeed has no types
        self._shards: Shards | None = None
        _require_all_used(network, example_NCHW)

    @override
    def prepare(self, optimizer: torch.optim.Optimizer, recipe: Recipe, precision: PrecisionPolicy) -> None:
        """Hand network and optimizer to DeepSpeed. From stage 1 on the optimizer's parameters are flat shards then."""
        import deepspeed

        names = {parameter: name for name, parameter in self.network.named_parameters()}
        module = self.network if precision.autocast_dtype is None else _InAutocast(self.network, precision)
        _use_device(self._world)
        try:
            self._engine, *_ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=deepspeed_json(recipe), dist_init_required=False
            )
        except (AssertionError, ValueError) as error:  # what it has against its settings
            assert isinstance(recipe.engine, DeepSpeed)
            raise TrainingError(f"DeepSpeed does not take {recipe.engine.shown_config} or engine: {error}") from error
        if self.sharded:
            self._shards = shards_of(self._engine.optimizer, optimizer, names, self._stage)

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits_NK."""
        logits_NK: torch.Tensor = self._engine(images_NCHW)
        return logits_NK

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro-batch."""
        self._last = last
        self._engine.set_gradient_accumulation_boundary(last)
        return _NOTHING

    @override
    def backward(self, precision: PrecisionPolicy, losses_N: torch.Tensor, factors_N: torch.Tensor) -> None:
        """Add the gradient of a micro-batch, times the ranks, as DeepSpeed takes their mean."""
        if self._shards is not None:
            self._shards.lend_buffers()
        loss = losses_N.dot(factors_N) * self.num_ranks
        self._engine.backward(loss if precision.scaler is None else precision.scaler.scale(loss), scale_wrt_gas=False)
        if self._last and self._shards is not None:
            self._shards.show_gradients()

    @override
    def held(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Parameter, ...]:
        """Return the shards with these parameters in them; without sharding the parameters themselves."""
        return tuple(parameters) if self._shards is None else self._shards.of(parameters)

    @override
    def step(self, precision: PrecisionPolicy, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer step on its shards, and every rank get the weights."""
        if precision.scaler is not None:
            precision.step(optimizer)
            return
        self._engine.step()
        if not self._engine.was_step_applied():
            raise TrainingError(
                "DeepSpeed left out a step, because the gradient is not finite though the loss is. The learning rate "
                "may be too high; stability.on_bad_step=pass_over goes on without such steps"
            )

    @override
    def pass_over(self) -> None:
        """Forget the gradient of the step."""
        if self._shards is not None:
            self._shards.forget_gradients()

    @override
    @contextmanager
    def forward_only(self) -> Iterator[None]:
        """Let every rank have all weights, and use the network without the others."""
        if self._stage < 3:
            yield
            return
        from deepspeed import zero

        with zero.GatheredParameters(list(self.network.parameters())), _without_deepspeed_hooks(self.network):
            yield

    @override
    def network_tensors(self) -> Tensors:
        """Return the network's state by name, whole; all ranks together."""
        if self._stage < 3:
            return dict(self.network.state_dict())
        with self._all_weights():
            return {name: tensor.to("cpu", copy=True) for name, tensor in self.network.state_dict().items()}

    @override
    def load_network(self, tensors: Tensors) -> None:
        """Put back what `network_tensors` gave; all ranks together."""
        with self._all_weights():
            self.network.load_state_dict(tensors)
        if self._shards is not None:
            self._shards.take_weights()

    @override
    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
        """Return the optimizer's tensors and numbers by parameter name, whole on rank 0; all ranks together."""
        if self._shards is None:
            return optimizer_tensors(optimizer), optimizer_numbers(optimizer)
        return self._shards.state()

    @override
    def load_optimizer(self, optimizer: torch.optim.Optimizer, tensors: Tensors, numbers: dict[str, Any]) -> None:
        """Put back what `optimizer_state` gave."""
        if self._shards is None:
            load_optimizer(optimizer, tensors, numbers)
        else:
            self._shards.load_state(tensors, numbers)

    def _all_weights(self) -> AbstractContextManager[Any]:
        """Return the context in which the weights are whole; those of rank 0 are shared out again at its end."""
        if self._stage < 3:
            return _NOTHING
        from deepspeed import zero

        whole: AbstractContextManager[Any] = zero.GatheredParameters(list(self.network.parameters()), modifier_rank=0)
        return whole


class _InAutocast(nn.Module):
    """The network as DeepSpeed is given it: DeepSpeed switches off an autocast that is around it."""

    def __init__(self, network: nn.Module, precision: PrecisionPolicy):
        super().__init__()
        self.network = network
        self._precision = precision

    @override
    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        with self._precision.autocast():
            logits_NK: torch.Tensor = self.network(images_NCHW)
        return logits_NK


def _is_of_deepspeed(hook: object) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith("deepspeed.")


@contextmanager
def _without_deepspeed_hooks(network: nn.Module) -> Iterator[None]:
    """Take off the hooks that fetch the weights of a module from the other ranks, which may not be there."""
    kept = []
    for module in network.modules():
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = getattr(module, name)
            kept.append((module, name, hooks))
            others = {key: hook for key, hook in hooks.items() if not _is_of_deepspeed(hook)}
            setattr(module, name, OrderedDict(others))
    try:
        yield
    finally:
        for module, name, hooks in kept:
            setattr(module, name, hooks)


def _use_device(world: World) -> None:
    """Tell DeepSpeed which device to use; on its own it takes any GPU that it sees, and asks the environment."""
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator, set_accelerator

    if world.device.type == "cpu":
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

        if get_accelerator().device_name() != "cpu":
            set_accelerator(CPU_Accelerator())
        # None of its extensions: it would compile one for tensor-parallel inference, which takes minutes.
        deepspeed.ops.__compatible_ops__ = {}


def _require_all_used(network: nn.Module, example_NCHW: torch.Tensor) -> None:
    """Raise TrainingError if the output does not depend on some parameter: DeepSpeed would decay it all the same."""
    with without_a_trace(network):
        network(example_NCHW).sum().backward()
        unused = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise TrainingError(
            f"some parameters of the model take no part in its output, so their gradients never come: "
            f"{', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''}. Freeze them (requires_grad=False), or set "
            "engine={name: ddp, find_unused_parameters: true}"
        )
