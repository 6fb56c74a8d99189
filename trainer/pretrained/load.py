"""Puts weights into a network, as far as they fit, and tells exactly what did and what did not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from megabatch.configs.errors import nearest
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.pretrained.match import Match, OtherShape, match
from megabatch.trainer.pretrained.read import Weights

_SHOWN = 6


@dataclass(frozen=True)
class Began:
    """What a training began with. `loaded` leads from names of the network to those of the source."""

    origin: str
    parameters: int
    parameters_loaded: int
    removed_prefix: str
    added_prefix: str
    loaded: dict[str, str]
    other_shape: tuple[OtherShape, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    grown: tuple[OtherShape, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values, shapes with their names."""
        return {
            **asdict(self),
            **{kind: [one._asdict() for one in getattr(self, kind)] for kind in ("other_shape", "grown")},
        }

    def lines(self) -> list[str]:
        """Return it in words, with the first few names of each kind."""
        here = len(self.loaded) + len(self.other_shape) + len(self.missing) + len(self.left_out) + len(self.grown)
        names = [f"prefix {self.removed_prefix} left out"] * bool(self.removed_prefix)
        names += [f"prefix {self.added_prefix} put before its names"] * bool(self.added_prefix)
        return [
            f"pretrained: {len(self.loaded):,} of {here:,} tensors, {self.parameters_loaded:,} of {self.parameters:,} "
            + f"parameters, from {', '.join([self.origin, *names])}",
            *_listed("grown, as the shape is another for more classes", (_both(one) for one in self.grown)),
            *_listed("left out, as leave_out says", self.left_out),
            *_listed("left out, as the shape is another", (_both(one) for one in self.other_shape)),
            *_listed("not there, so as they were", self.missing),
            *_listed("there, but not in this network", self.unused),
        ]


@torch.no_grad()
def load_weights(
    network: nn.Module,
    weights: Weights,
    key: str = "model.pretrained",
    leave_out: tuple[str, ...] = (),
    outputs: tuple[int, ...] | None = None,
) -> Began:
    """Copy every tensor that fits in name and shape, whatever its dtype. Raises TrainingError if no weight does.

    `outputs` says which output here each output of the source is: of tensors that differ in the number of rows alone,
    and have `len(outputs)` of them there, the rows go to those places. The other rows stay as they are.
    `leave_out` has patterns of names of the network; what they fit stays as it is, even if it would fit.
    A bias or a norm alone is no weight: another model with the same number of classes would have one that fits.
    """
    own = network.state_dict()
    found = match(_shapes(weights.tensors), _shapes(own))
    parameters = dict(network.named_parameters())
    left_out = _matching(leave_out, list(own), key)
    pairs = {name: its for name, its in found.pairs.items() if name not in left_out}
    fitting = [name for name in pairs if name in parameters]
    if not any(parameters[name].dim() > 1 for name in fitting):
        raise TrainingError(f"{key}: {_nothing_fits(weights, own, found)}")
    for name, its in pairs.items():
        own[name].copy_(weights.tensors[its])
    grown = tuple(one for one in found.other_shape if one.name not in left_out and _grows(one, outputs or ()))
    for one in grown:
        rows = torch.tensor(outputs, device=own[one.name].device)
        its = found.removed + one.name.removeprefix(found.added)
        own[one.name][rows] = weights.tensors[its].to(own[one.name])
    _require_head(grown, outputs, found, key)
    return Began(
        weights.origin,
        sum(parameter.numel() for parameter in parameters.values()),
        sum(parameters[name].numel() for name in fitting),
        found.removed,
        found.added,
        pairs,
        tuple(one for one in found.other_shape if one.name not in left_out and one not in grown),
        tuple(name for name in found.missing if name not in left_out),
        found.unused,
        left_out,
        grown,
    )


def _grows(one: OtherShape, outputs: tuple[int, ...]) -> bool:
    rows_there, rows_here = one.there[:1], one.here[:1]
    return one.there[1:] == one.here[1:] and rows_there == (len(outputs),) and max(outputs) < rows_here[0]


def _require_head(grown: tuple[OtherShape, ...], outputs: tuple[int, ...] | None, found: Match, key: str) -> None:
    """Raise TrainingError where a head should grow, and no weight differs as it would."""
    same = outputs is not None and outputs == tuple(range(len(outputs))) and not found.other_shape
    if outputs is None or same or any(len(one.here) > 1 for one in grown):
        return
    seen = ", ".join(_both(one) for one in found.other_shape[:_SHOWN]) or "every shape is the same"
    raise TrainingError(
        f"{key}.outputs: no weight has {len(outputs)} rows there and more here, as a head that grows has: {seen}. "
        "Leave outputs out, and the head begins as new"
    )


def _matching(patterns: tuple[str, ...], names: list[str], key: str) -> tuple[str, ...]:
    """Return the names that any of the patterns fits. Raises TrainingError for a pattern that fits none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TrainingError(f"{key}.leave_out: {pattern!r} fits nothing of the network. {nearest(pattern, names)}")
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _nothing_fits(weights: Weights, own: dict[str, torch.Tensor], found: Match) -> str:
    if found.other_shape:
        shown = ", ".join(_both(one) for one in found.other_shape[:_SHOWN])
        why = f"{len(found.other_shape)} names are the same, but not one weight has the same shape: {shown}"
    else:
        there, here = ([name for name in tensors if tensors[name].dim() > 1] for tensors in (weights.tensors, own))
        why = f"no weight has the same name. There: {_first(there)}. Here: {_first(here)}"
    return f"nothing of {weights.origin} fits this network: {why}. Is it of another model?"


def _both(one: OtherShape) -> str:
    return f"{one.name} {one.there} there, {one.here} here"


def _listed(what: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"  {what}: {_first(names, '; ' if 'shape' in what else ', ')}"] if names else []


def _first(names: Iterable[str], between: str = ", ") -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + more
