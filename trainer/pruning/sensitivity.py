"""How much of one layer alone can go before the network predicts worse: what to keep, and how far to go.

Each layer (with channels: each group of layers that lose them together) is pruned by itself, by several shares, and
the validation split is evaluated without any training (Li et al. 2017, section 3.2; Han et al. 2015, section 4.1).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from megabatch.configs.pruning import Channels, NOfM
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.build import Parts
from megabatch.trainer.pruning.channels import plans_of_layers
from megabatch.trainer.pruning.layers import pruned_weights
from megabatch.trainer.pruning.masks import Tensors, magnitude_masks, n_of_m_mask
from megabatch.trainer.pruning.plan import silenced


class _Trial(NamedTuple):
    layer: str
    share: float
    tensors: Tensors


def scan(parts: Parts, run: str, which: str, name: str, shares: list[float], keep: list[str]) -> dict[str, Any]:
    """Evaluate each layer with these shares of it gone; `name` is that of a pruning.

    Returns the metric, its value for the whole network, and one value by layer and share.
    """
    split = parts.job.recipe.data.validation_split
    assert split is not None, "the launcher asks for a validation split"
    engine, metric = parts.step_parts.engine, parts.job.recipe.metric
    whole = checkpoint.load_network(checkpoint.chosen(RunDir(Path(run)), which))
    engine.load_network(whole)
    found: dict[str, list[float]] = {}
    values = {"base": parts.evaluate_split(split).value(metric)}
    trials = _trials(engine.network, whole, name, shares, keep, parts.job.recipe.data.image_size)
    for trial in trials:
        engine.load_network(trial.tensors)
        found.setdefault(trial.layer, []).append(parts.evaluate_split(split).value(metric))
    return {"metric": metric, **values, "shares": shares, "layers": found}


def _trials(
    network: nn.Module, whole: Tensors, name: str, shares: Sequence[float], keep: Sequence[str], image_size: int
) -> Iterator[_Trial]:
    """Yield the tensors of a network in which one layer is pruned, in the order of layers and shares."""
    if name == "channels":
        settings = Channels(multiple_of=1, keep=tuple(keep))
        plans = plans_of_layers(copy.deepcopy(network).cpu().float(), settings, image_size, shares)
        for layer, of_layer in plans.items():
            for share, plan in zip(shares, of_layer, strict=True):
                yield _Trial(layer, share, silenced(whole, plan))
        return
    for weight_name in pruned_weights(network, keep):
        weight, layer = whole[weight_name], weight_name.removesuffix(".weight")
        for share in shares:
            if name == "n_of_m":
                settings_n_of_m = NOfM()
                if weight.shape[1] % settings_n_of_m.m:
                    continue
                mask = n_of_m_mask(weight, settings_n_of_m.n, settings_n_of_m.m)
            else:
                mask = magnitude_masks({layer: weight}, share, "layer")[layer]
            yield _Trial(layer, share, {**whole, weight_name: weight * mask})
