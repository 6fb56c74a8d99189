"""What of a pruning of weights can be told, and be wrong, before any rank starts."""

from __future__ import annotations

import copy

from torch import nn

from megabatch.configs.pruning import Magnitude, OneShot, masked
from megabatch.configs.recipe import Recipe
from megabatch.data.arrangement import Arrangement
from megabatch.data.steps import steps_of
from megabatch.trainer.pruning.layers import pruned_weights
from megabatch.trainer.pruning.sparse import WeightMasks, require_some_left


def masks_line(network: nn.Module, recipe: Recipe, arrangement: Arrangement) -> list[str]:
    """Return in words what is pruned before the first step. Raises TrainingError for what cannot be pruned so."""
    pruning = masked(recipe.pruning)
    if pruning is None:
        return []
    steps = steps_of(recipe, arrangement.order().samples)
    masks = WeightMasks(copy.deepcopy(network), pruning, steps)
    if isinstance(pruning, Magnitude) and isinstance(pruning.schedule, OneShot):
        require_some_left(pruned_weights(network, pruning.keep), pruning)
    return [masks.describe()]
