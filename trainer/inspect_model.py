"""`python -m megabatch.trainer.inspect_model job.yaml`: what can only be known with torch, as one line of JSON.

The launcher runs this in a process of its own before a launch: parameters, memory, and the mistakes that would
otherwise end the job minutes later on every rank (an unknown model, an image that does not fit, a class too many).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from megabatch.configs.engines import Fsdp
from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.optimizers import LibraryOptimizer
from megabatch.configs.targets import ClassTarget
from megabatch.data.arrangement import Arrangement, arrange
from megabatch.data.errors import DataError, OwnPartError
from megabatch.data.requests import evaluation_requests
from megabatch.data.steps import steps_of
from megabatch.trainer.abilities import problems_here
from megabatch.trainer.build import build_loss, implementation
from megabatch.trainer.distillation.teachers import load_teachers
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.loaders import split_loader
from megabatch.trainer.network import build_network, unreplaced_activations
from megabatch.trainer.norms.modes import smallest_group
from megabatch.trainer.optim.groups import describe_parameters, freeze, parameter_groups
from megabatch.trainer.optim.library import check_library_optimizer
from megabatch.trainer.optim.state import optimizer_tensors
from megabatch.trainer.pretrained.read import weights_to_begin_with
from megabatch.trainer.pruning.inspect import masks_line
from megabatch.trainer.pruning.plan import plan_of
from megabatch.trainer.trackers.own import problems_of_own

_SAMPLES_TRIED = 8


def main(arguments: Sequence[str]) -> int:
    """Print the findings; problems are part of them, so the exit code is 0 either way."""
    job = read_job(Path(arguments[0]))
    sys.path.insert(0, job.working_folder)
    torch.set_num_threads(job.cluster.threads_per_process)
    try:
        found = inspect(job)
    except (TrainingError, DataError, OwnPartError) as error:
        found = {"problems": [str(error)]}
    print(json.dumps(found))
    return 0


def inspect(job: Job) -> dict[str, Any]:
    """Return parameters, bytes and problems of the job's model on the job's data."""
    arrangement = arrange(job)
    built = build_network(job.recipe, arrangement.num_outputs, weights_to_begin_with(job), plan_of(job))
    network, teachers = built.network, load_teachers(job, arrangement.num_outputs)
    freeze(network, job.recipe.optimizer)
    pruned = masks_line(network, job.recipe, arrangement)
    if isinstance(job.recipe.optimizer, LibraryOptimizer):
        check_library_optimizer(job.recipe.optimizer)
    if isinstance(job.recipe.engine, Fsdp):
        from megabatch.trainer.engines.fsdp import modules_to_wrap

        modules_to_wrap(network, job.recipe.engine)
    problems = [
        *problems_here(job.recipe, job.cluster),
        *problems_of_own(job.recipe.tracking.own),
        *_images_do_not_fit(job, arrangement),
        *_network_does_not_run(job, arrangement, network),
    ]
    groups = parameter_groups(network, job.recipe.optimizer)
    description = describe_parameters(network, groups)  # an optimizer rewrites the groups it is given
    weights = _bytes(network.state_dict().values())
    optimizer_bytes = _optimizer_bytes(job, network, groups)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return {
        "problems": problems,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "trainable_parameters": sum(parameter.numel() for parameter in trained),
        "groups": description,
        "pretrained": built.began.to_json() if built.began is not None else None,
        "pruning_plan": built.plan.to_json() if built.plan is not None else None,
        "changes": [
            *built.changes,
            *pruned,
            *unreplaced_activations(network, job.recipe),
            *(teacher.line() for teacher in teachers),
        ],
        "weight_bytes": weights,
        "gradient_bytes": _bytes(trained),
        "teacher_bytes": sum(_bytes(teacher.network.state_dict().values()) for teacher in teachers),
        "optimizer_bytes": optimizer_bytes,
        "device_bytes": _device_bytes(job),
        "checkpoint_bytes": weights + optimizer_bytes,
        "activation_bytes": None if problems else _activation_bytes(job, network),
    }


def _device_bytes(job: Job) -> int | None:
    """Return the memory of this machine's GPU, if the job wants one and there is one."""
    if job.cluster.device == "cpu" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory


def _images_do_not_fit(job: Job, arrangement: Arrangement) -> list[str]:
    """Load the first samples of every split through its transforms; where errors are skipped one good one will do."""
    data = job.recipe.data
    used = [(data.train_split, data.train_transforms)]
    used += [(s, data.evaluation_transforms) for s in (data.validation_split, data.test_split) if s is not None]
    problems = []
    for split, transforms in used:
        if split not in arrangement.parts:
            continue  # a stream: to look at it would run its command
        loader = split_loader(job, arrangement, arrangement.reader(split), transforms, threads=1)
        try:
            tried = arrangement.sample_ids(split)[:_SAMPLES_TRIED]
            first = next(
                loader.load(evaluation_requests(len(tried), _SAMPLES_TRIED, rank=0, num_ranks=1, chosen=tried))
            )
            if not first.weights_N.any():
                problems.append(first.skipped[0].message)
        except (DataError, OwnPartError) as error:
            problems.append(str(error))
    return problems


def _network_does_not_run(job: Job, arrangement: Arrangement, network: nn.Module) -> list[str]:
    """Pass the smallest micro-batch of the training through the network, as in training."""
    recipe, dataset = job.recipe, arrangement.whole
    size = recipe.data.image_size
    samples = dataset.split(recipe.data.train_split).samples * recipe.data.repeats
    steps = steps_of(recipe, samples)
    ends = {steps.step_at((epoch + 1) * steps.samples_per_epoch) - 1 for epoch in range(recipe.epochs)}
    tried = {phase.first_step for phase in steps.phases} | (ends if steps.ramp else {steps.per_epoch - 1})
    spans = [span for step in tried for span in steps.at(step).of_rank(0, 1)]
    smallest = min(smallest_group(recipe.model.batch_norm, span.samples) for span in spans)
    buffers = [buffer.clone() for buffer in network.buffers()]
    try:
        logits_NK = network.train()(torch.zeros(smallest, 3, size, size))
    except Exception as error:  # a network may do anything with images it was not made for
        return [
            f"model {recipe.model.name}: a micro-batch of {smallest} images of {size} x {size} does not pass: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}"
        ]
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(before)
    expected = (smallest, arrangement.num_outputs)
    if not isinstance(logits_NK, torch.Tensor) or tuple(logits_NK.shape) != expected:
        shape = tuple(logits_NK.shape) if isinstance(logits_NK, torch.Tensor) else type(logits_NK).__name__
        return [f"model {recipe.model.name}: the output is {shape}, not {expected} (images, outputs)"]
    try:
        has_class = isinstance(recipe.data.target, ClassTarget)
        targets = torch.zeros(smallest, dtype=torch.int64) if has_class else torch.zeros(expected)
        build_loss(recipe, dataset)(logits_NK, targets)
    except TrainingError as error:
        return [str(error)]
    except Exception as error:  # neither does a loss of the user's own have to fit
        return [f"loss {recipe.loss.name}: {(str(error).splitlines() or [type(error).__name__])[0]}"]
    return []


def _optimizer_bytes(job: Job, network: nn.Module, groups: list[dict[str, Any]]) -> int:
    """Take one step with zero gradients and a zero learning rate, and look at the state that appears."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer = implementation(job.recipe.optimizer)(groups, job.recipe.optimizer, 0.0)
    optimizer.step()
    return _bytes(optimizer_tensors(optimizer).values())


def _activation_bytes(job: Job, network: nn.Module) -> int | None:
    """Add up what autograd keeps of a forward pass of one micro-batch, on the meta device: no memory, no arithmetic."""
    kept: dict[int, int] = {}
    own = {id(parameter) for parameter in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in own:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    size = job.recipe.data.image_size
    try:
        on_meta = network.to("meta")
        own.update(id(parameter) for parameter in on_meta.parameters())
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = on_meta(torch.empty(job.recipe.batch.micro_batch, 3, size, size, device="meta"))
            del output
    except (RuntimeError, NotImplementedError):  # a network that looks at its values cannot run without them
        return None
    return sum(kept.values())


def _bytes(tensors: Any) -> int:  # Any: an iterable of tensors
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
