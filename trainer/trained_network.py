"""The network of a rank: built as the recipe says, with its first weights, where and as it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from megabatch.configs.job import Job
from megabatch.configs.precision import Fp8
from megabatch.configs.pruning import Channels
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import Arrangement
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.fp8 import convert_to_fp8
from megabatch.trainer.network import build_network
from megabatch.trainer.optim.groups import freeze
from megabatch.trainer.precision import PrecisionPolicy
from megabatch.trainer.pretrained.read import weights_to_begin_with
from megabatch.trainer.process import write_json
from megabatch.trainer.pruning.plan import plan_of
from megabatch.trainer.world import World


def trained_network(
    job: Job, world: World, run_dir: RunDir, arrangement: Arrangement, precision: PrecisionPolicy
) -> tuple[torch.nn.Module, Sequence[str]]:
    """Return the network where and as it is trained, and in words what was changed in it."""
    recipe = job.recipe
    plan = plan_of(job, run_dir)
    if plan is None and isinstance(recipe.pruning, Channels):
        raise TrainingError(
            "pruning: channels: nothing says yet which ones go. `megabatch launch` and `megabatch prune` decide it "
            "before they start a run; tune and ablate do not"
        )
    built = build_network(recipe, arrangement.num_outputs, weights_to_begin_with(job, run_dir), plan)
    if built.began is not None and world.is_main:
        write_json(run_dir.pretrained, built.began.to_json())
    network = built.network.to(world.device, precision.parameter_dtype)
    if recipe.model.channels_last:
        network = network.to(memory_format=torch.channels_last)
    freeze(network, recipe.optimizer)
    if isinstance(recipe.precision, Fp8):
        convert_to_fp8(network, arrangement.num_classes)
    return network, built.changes
