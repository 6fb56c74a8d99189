"""The engine `accelerate`: the network is prepared by Hugging Face accelerate, everything else stays with this program.

What accelerate would do beside that is kept from it, because it would train something else (seen with 1.15.0): its
prepared scheduler steps once for every process, its backward divides by a constant number of micro-batches even where a
step has fewer, and on a machine without a GPU it starts no group of ranks unless it is told `cpu=True`, so that each
rank trains alone. What its environment variables ask for is compared with the recipe before (configs/accelerate.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from megabatch.configs.engines import DdpOptions
from megabatch.trainer.engines.ddp import LEAVE_BUFFERS, DdpEngine
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.world import World


class AccelerateEngine(DdpEngine):
    """DistributedDataParallel made by accelerate; gradients are summed, and buckets settled, as in the engine `ddp`."""

    @override
    @staticmethod
    def share(network: nn.Module, settings: DdpOptions, world: World) -> DistributedDataParallel:
        accelerator = _accelerator(settings, world)
        if accelerator.num_processes != world.num_ranks:
            raise TrainingError(
                f"accelerate sees {accelerator.num_processes} processes, and {world.num_ranks} ranks train: each would "
                "train alone. Start them with torchrun, or with accelerate launch --multi_gpu"
            )
        prepared = accelerator.prepare_model(network, device_placement=False)
        if type(prepared) is not DistributedDataParallel:
            raise TrainingError(
                f"accelerate made a {type(prepared).__name__} of the network, not a DistributedDataParallel: "
                "a plugin of its own is active. Instead: engine=ddp"
            )
        for name, value in LEAVE_BUFFERS.items():  # accelerate 1.15 knows only the name that torch 2.15 warns of
            setattr(prepared, name, value)
        return prepared


def _accelerator(settings: DdpOptions, world: World) -> Any:  # Any: accelerate.Accelerator, imported where it is used
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.utils import GradientAccumulationPlugin
    except ImportError as error:
        raise TrainingError(
            f"engine: accelerate needs the package accelerate, which {world.host} does not have ({error}). "
            "Instead: pip install accelerate, or engine=ddp"
        ) from error
    threads = torch.get_num_threads()
    try:
        accelerator = Accelerator(
            cpu=world.device.type == "cpu",
            mixed_precision="no",
            dynamo_backend="no",
            # Not gradient_accumulation_steps=1: that gives way to an environment variable.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    bucket_cap_mb=settings.bucket_megabytes,
                    find_unused_parameters=settings.find_unused_parameters,
                    static_graph=settings.static_graph,
                    gradient_as_bucket_view=True,
                )
            ],
        )
    except (ImportError, NotImplementedError, ValueError) as error:
        raise TrainingError(f"accelerate does not start on {world.host}: {error}. Instead: engine=ddp") from error
    torch.set_num_threads(threads)  # it sets them where OMP_NUM_THREADS is not
    return accelerator
