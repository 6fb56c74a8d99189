"""After a stage: the accuracy on the test data of every stage so far, before and after, and what mattered to it.

Accuracies are among all classes known by then, not only among those of the stage that a sample is of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import Arrangement, arrange
from megabatch.data.hashing import key, permutation
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import evaluation_requests
from megabatch.trainer import checkpoint
from megabatch.trainer.agreed import agreed
from megabatch.trainer.build import Parts
from megabatch.trainer.continual.ewc import ANCHOR, FISHER, Tensors, grown, read_fisher
from megabatch.trainer.continual.fisher import Ranks, diagonal_fisher
from megabatch.trainer.loaders import split_loader
from megabatch.trainer.network import build_network
from megabatch.trainer.pretrained.read import weights_to_begin_with

_CHOICE = 71  # what a key is for: the samples of which the Fisher information is the mean


def measure(parts: Parts, fisher_samples: int | None) -> dict[str, Any]:
    """Return the accuracy on each stage's test data, and that on the newest stage's before its training.

    `before` has it for the network as it came from the stage before, with new outputs, and `random` for one that was
    never trained. With `fisher_samples` RUN_DIR/ewc.safetensors is written too.
    """
    job, arrangement = parts.job, arrange(parts.job)
    data = job.recipe.data
    split = data.test_split or data.validation_split
    assert split is not None, "the recipe must have a split to measure on"
    ids = arrangement.sample_ids_by_source(split)
    if parts.step_parts.average is not None:
        parts.step_parts.average.forget()
    folder = agreed(parts, checkpoint.chosen(parts.run_dir, "best") if parts.world.is_main else None)
    assert folder is not None
    best = checkpoint.load_network(folder, like=dict(parts.step_parts.engine.network.state_dict()))
    result = {
        "split": split,
        "samples": [len(of_stage) for of_stage in ids],
        "accuracy": [_accuracy(parts, split, best, of_stage) for of_stage in ids],
        "before": _accuracy(parts, split, _at_first(job, arrangement, trained=True), ids[-1]),
        "random": _accuracy(parts, split, _at_first(job, arrangement, trained=False), ids[-1]),
        "checkpoint": folder.name,
    }
    if fisher_samples is not None:
        fisher, anchor = _fisher(parts, arrangement, checkpoint.load_network(folder), fisher_samples)
        if parts.world.is_main:
            _write(fisher, anchor, parts.run_dir)
    return result


def _accuracy(parts: Parts, split: str, network: Tensors, ids: NDArray[np.int64]) -> float:
    parts.step_parts.engine.load_network(network)
    return parts.evaluate_split(split, ids).value("top1")


def _at_first(job: Job, arrangement: Arrangement, trained: bool) -> Tensors:
    """Return the network as the stage began with it, or as its seed alone makes it."""
    weights = weights_to_begin_with(job) if trained else None
    return dict(build_network(job.recipe, arrangement.num_outputs, weights).network.state_dict())


def _fisher(parts: Parts, arrangement: Arrangement, best: Tensors, samples: int) -> tuple[Tensors, Tensors]:
    """Return the Fisher information of this stage and all before, and the weights now, by the names of parameters.

    Every rank has the network whole, with any engine.
    """
    job, work = parts.job, parts.step_parts
    network = build_network(job.recipe, arrangement.num_outputs).network
    network.load_state_dict(best)
    network.to(parts.world.device, work.precision.parameter_dtype)
    reader = arrangement.reader(job.recipe.data.train_split)
    transforms = job.recipe.data.evaluation_transforms

    def load(ids: Sequence[int]) -> Iterator[MicroBatch]:
        loader = split_loader(job, arrangement, reader, transforms, job.cluster.loader_threads)
        chosen = np.array(ids, dtype=np.int64)
        return loader.load(evaluation_requests(len(chosen), 1, rank=0, num_ranks=1, chosen=chosen))

    new = arrangement.sample_ids_by_source(job.recipe.data.train_split)[-1]
    chosen = np.sort(new[permutation(key(job.recipe.seed, _CHOICE), len(new))[:samples]])
    ranks = Ranks(parts.world.rank, parts.world.num_ranks, work.engine.sum_over_ranks)
    found = diagonal_fisher(network, chosen.tolist(), load, work.normalize, job.recipe.seed, ranks)
    fisher = _with_earlier(job, {name: tensor.cpu().float() for name, tensor in found.items()})
    return fisher, {name: tensor for name, tensor in best.items() if name in fisher}


def _with_earlier(job: Job, fisher: Tensors) -> Tensors:
    """Return the sum with what mattered to the stages before."""
    settings, pretrained = job.recipe.regularization.ewc, job.recipe.model.pretrained
    if settings is None:
        return fisher
    outputs = pretrained.outputs if pretrained is not None else None
    assert outputs != "by_class", "the launcher writes the numbers into the job"
    earlier, _ = read_fisher(settings, Path(job.working_folder))
    return {
        name: tensor + grown(earlier[name], tensor.shape, outputs, name) if name in earlier else tensor
        for name, tensor in fisher.items()
    }


def _write(fisher: Tensors, anchor: Tensors, run_dir: RunDir) -> None:
    """Write the file, there whole or not at all."""
    named = {f"{prefix}{name}": t for prefix, ts in ((FISHER, fisher), (ANCHOR, anchor)) for name, t in ts.items()}
    hidden = run_dir.ewc.with_name(f".{run_dir.ewc.name}")
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, hidden)
    hidden.rename(run_dir.ewc)
