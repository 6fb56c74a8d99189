"""Two ONNX files side by side in one process: accuracy on whole splits, sizes, times, and what they predict.

Shapes: N samples of a micro-batch, K outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from megabatch.configs.job import Job
from megabatch.configs.normalization import Auto
from megabatch.data.arrangement import Arrangement
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import evaluation_requests
from megabatch.trainer.build import implementation
from megabatch.trainer.export.formats import Predict
from megabatch.trainer.export.onnx_file import predictor
from megabatch.trainer.loaders import split_loader
from megabatch.trainer.metrics import gathered
from megabatch.trainer.sizes import seconds_in_turn

_CHUNK = 100  # samples at a time, where a split is evaluated or calibrated with


def session_of(file: Path, threads: int, literally: bool = False) -> onnxruntime.InferenceSession:
    """Return what computes a file on the CPU; `literally`: one operator after the other, none of them fused."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    if literally:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def batches_of(
    job: Job, arrangement: Arrangement, split: str, chosen: Any
) -> Iterator[tuple[torch.Tensor, MicroBatch]]:
    """Yield images_NCHW as the network wants them, loaded as in evaluation; chosen: sample ids, shape (samples,)."""
    scaling = job.recipe.data.normalize
    assert not isinstance(scaling, Auto), "the launcher writes the numbers into the job"
    normalize = implementation(scaling)(scaling, torch.device("cpu"), torch.float32)
    transforms, threads = job.recipe.data.evaluation_transforms, job.cluster.loader_threads
    loader = split_loader(job, arrangement, arrangement.reader(split), transforms, threads)
    with closing(loader.load(evaluation_requests(len(chosen), _CHUNK, 0, 1, chosen))) as micro_batches:
        for micro_batch in micro_batches:
            yield normalize(micro_batch.images_NHWC).contiguous(), micro_batch


@torch.no_grad()
def metrics_in_turn(
    job: Job, arrangement: Arrangement, split: str, predictors: Mapping[str, Predict]
) -> dict[str, dict[str, float]]:
    """Return the metrics of each predictor on every sample of a split; each batch goes to one after the other."""
    chosen = arrangement.sample_ids(split)
    kept = {
        name: gathered(job.recipe.data.target, len(chosen), arrangement.num_outputs, torch.device("cpu"))
        for name in predictors
    }
    for images_NCHW, micro_batch in batches_of(job, arrangement, split, chosen):
        weights_N = micro_batch.weights_N.double()
        for name, predict in predictors.items():
            first = micro_batch.request.number * _CHUNK
            kept[name].add(first, predict(images_NCHW), micro_batch.labels_N, weights_N)
    return {name: one.metrics() for name, one in kept.items()}


@torch.no_grad()
def agreement(
    job: Job, arrangement: Arrangement, split: str, samples: int, predict: Predict, reference: Predict
) -> dict[str, Any]:
    """Return how far two predictors are apart on the first samples of a split.

    `same` is the share of samples with the same highest output, `difference` the largest between any two outputs,
    `mean_difference` their mean and `largest` the largest output.
    """
    chosen = arrangement.sample_ids(split)[:samples]
    pairs = [(predict(images), reference(images)) for images, _ in batches_of(job, arrangement, split, chosen)]
    own_NK, other_NK = (torch.cat(outputs) for outputs in zip(*pairs, strict=True))
    apart_NK = (own_NK - other_NK).abs()
    return {
        "split": split,
        "samples": len(chosen),
        "same": (own_NK.argmax(dim=1) == other_NK.argmax(dim=1)).double().mean().item(),
        "difference": apart_NK.max().item(),
        "mean_difference": apart_NK.mean().item(),
        "largest": other_NK.abs().max().item(),
    }


def milliseconds_in_turn(files: Sequence[Path], image_size: int, batch: int) -> list[float]:
    """Return the median time of a pass of each file, with one thread; the files take turns."""
    images_NCHW = torch.randn(batch, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    sessions = [predictor(session_of(file, threads=1)) for file in files]
    return [1000 * seconds for seconds in seconds_in_turn(sessions, images_NCHW)]
