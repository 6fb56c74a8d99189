"""What LARS and LAMB share: which of two implementations of their rule a parameter gets. Owns no update rule.

`plain` is the rule in torch's multi-tensor operations: a few launches for all parameters on a GPU, and nothing is read
back to the host. On the CPU it would be called for one parameter after the other, so that temporaries stay in cache.
`fused` is for the CPU only: torch's own fused kernels do most of the rule in one pass over memory. They are private to
torch and know float32 and float64 only; without them, and for every other kind of number, `plain` does the work.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, NamedTuple, overload

import torch
from torch import Tensor
from typing_extensions import override

from megabatch.trainer.optim.groups import Group
from megabatch.trainer.optim.trust_ratio import norms
from megabatch.trainer.sharding import is_sharded, local, norms_over_ranks

Ratios = Sequence[float] | Tensor
Norms = Callable[[Sequence[Tensor]], Tensor]


class Member(NamedTuple):
    """A parameter, its gradient, and its state in the order of `state_keys`; all of one layout where it is fused."""

    parameter: Tensor
    gradient: Tensor
    state: tuple[Tensor, ...]


class LayerwiseOptimizer(torch.optim.Optimizer):
    """An optimizer whose learning rate is multiplied by a trust ratio per parameter, in groups with `adapt: True`.

    `keep_trust_ratios` makes every step remember its ratios, for `trust_ratios`.
    """

    state_keys: ClassVar[tuple[str, ...]]
    keep_trust_ratios = False
    _scratch: Tensor | None = None
    _kept: tuple[tuple[Group, list[Tensor], Ratios], ...] = ()

    @abstractmethod
    def plain(self, group: Group, members: list[Member], lengths: Norms = norms) -> Ratios:
        """Update the parameters in place and return their trust ratios; gradients must stay as they are.

        `lengths` returns norms: of parameters cut among the ranks `members` has this rank's parts.
        """

    @abstractmethod
    def fused(self, group: Group, members: list[Member]) -> Ratios:
        """Do what `plain` does, for dense tensors on the CPU."""

    @abstractmethod
    def can_fuse(self, group: Group, parameter: Tensor) -> bool:
        """Return whether `fused` is right for a parameter on the CPU."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._kept = ()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def trust_ratios(self) -> dict[str, float]:
        """Return the trust ratios of the last step by parameter name; waits for the device."""
        found: dict[str, float] = {}
        for group, parameters, ratios in self._kept:
            names = dict(zip(map(id, group["params"]), group["param_names"], strict=True))
            values = ratios.tolist() if isinstance(ratios, Tensor) else ratios
            found |= {names[id(parameter)]: value for parameter, value in zip(parameters, values, strict=True)}
        return found

    def _step_group(self, group: Group) -> None:
        fusable: list[Member] = []
        on_cpu: list[Member] = []
        on_device: list[Member] = []
        cut: list[Member] = []
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self._state(parameter)
            if is_sharded(parameter):
                cut.append(Member(parameter, local(parameter.grad), tuple(local(value) for value in state)))
            elif parameter.device.type != "cpu":
                on_device.append(Member(parameter, parameter.grad, state))
            elif self.can_fuse(group, parameter) and _same_layout(parameter, state):
                fusable.append(Member(parameter, _laid_out_as(parameter, parameter.grad), state))
            else:
                on_cpu.append(Member(parameter, parameter.grad, state))
        if fusable:
            self._keep(group, fusable, self.fused(group, fusable))
        for member in on_cpu:
            self._keep(group, [member], self.plain(group, [member]))
        if on_device:
            self._keep(group, on_device, self.plain(group, on_device))
        if cut:
            parts = [member._replace(parameter=local(member.parameter)) for member in cut]
            self._keep(group, cut, self.plain(group, parts, norms_over_ranks))

    def _state(self, parameter: Tensor) -> tuple[Tensor, ...]:
        state = self.state[parameter]
        if not state:
            self.start(state, parameter)
        return tuple(state[key] for key in self.state_keys)

    @abstractmethod
    def start(self, state: dict[str, Tensor], parameter: Tensor) -> None:
        """Fill the state of a parameter before its first step."""

    def _keep(self, group: Group, members: list[Member], ratios: Ratios) -> None:
        if self.keep_trust_ratios and group["adapt"]:
            self._kept += ((group, [member.parameter for member in members], ratios),)

    def scratch_like(self, parameter: Tensor, group: Group) -> Tensor:
        """Return memory in the size and layout of a parameter of the group, the same memory again and again.

        Fresh memory would cost as much as a pass over it: the system hands it out page by page.
        """
        if self._scratch is None or self._scratch.numel() < parameter.numel() or self._scratch.dtype != parameter.dtype:
            most = max(member.numel() for member in group["params"])
            self._scratch = torch.empty(most, dtype=parameter.dtype)
        return self._scratch.as_strided(parameter.size(), parameter.stride())


def keep_trust_ratios(optimizer: torch.optim.Optimizer) -> None:
    """Make an optimizer remember its trust ratios from now on, step by step."""
    assert isinstance(optimizer, LayerwiseOptimizer), "launcher/refusals/ refuses others"
    optimizer.keep_trust_ratios = True


def trust_ratios(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the trust ratios of the last step by parameter name."""
    assert isinstance(optimizer, LayerwiseOptimizer), "launcher/refusals/ refuses others"
    return optimizer.trust_ratios()


def _same_layout(parameter: Tensor, others: Iterable[Tensor]) -> bool:
    """Return whether equal places in memory are equal elements. Also false for a parameter with gaps in its memory.

    Its state has none: torch.zeros_like keeps strides only of what is dense.
    """
    strides = parameter.stride()
    return all(other.stride() == strides for other in others if other.ndim)


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient in the parameter's layout: torch's fused kernels pair elements by address, unchecked.

    autograd makes gradients like that; one that somebody else put there may be otherwise.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
