"""`python -m megabatch.trainer.quantization RUN_DIR NAME ...`: writes a quantized ONNX file and measures it.

The launcher runs this in a process of its own. It prints one line of JSON; the file gets its name when it is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import Arrangement, arrange
from megabatch.data.errors import DataError
from megabatch.trainer import checkpoint
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.export import onnx_file
from megabatch.trainer.export.card import Card, card_of
from megabatch.trainer.export.files import default_target, hidden_beside, require_new
from megabatch.trainer.export.network import plain_network_of, trained_network_of
from megabatch.trainer.outputs import read_outputs
from megabatch.trainer.pruning.layers import kept_layers
from megabatch.trainer.pruning.plan import plan_of
from megabatch.trainer.quantization import measure, onnx_graphs
from megabatch.trainer.sizes import BATCHES

_COMPARED = 1024  # samples on which predictions are compared one by one


def main() -> int:
    """Print what was written and measured, or why nothing was; the exit code is 0 either way."""
    parser = argparse.ArgumentParser(prog="python -m megabatch.trainer.quantization", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("name", choices=["static", "dynamic", "weights-int8", "weights-int4", "trained"])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--calibration", choices=["minmax", "entropy", "percentile"], default="minmax")
    parser.add_argument("--keep", action="append", default=[])
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--weights", choices=["averaged", "raw"], default="averaged")
    parser.add_argument("--output", type=Path)
    logging.disable(logging.WARNING)  # onnxruntime tells what it would do better
    warnings.simplefilter("ignore")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = quantize(parser.parse_args())
    except (ConfigError, DataError) as error:
        found = {"error": str(error), "code": 2}
    except (TrainingError, OSError) as error:
        found = {"error": str(error), "code": 1}
    print(json.dumps(found))
    return 0


def quantize(asked: argparse.Namespace) -> dict[str, Any]:
    """Write the file and return what was measured. Raises ConfigError, DataError, TrainingError or OSError."""
    run_dir = RunDir(asked.run_dir)
    job = read_job(run_dir.job)
    sys.path.insert(0, job.working_folder)
    torch.set_num_threads(job.cluster.threads_per_process)
    arrangement, splits = _data(job, asked.name)
    folder = checkpoint.chosen(run_dir, asked.checkpoint)
    averaged = asked.weights == "averaged" and checkpoint.read_state(folder)["training"]["average_updates"] > 0
    kind: Literal["averaged", "raw"] = "averaged" if averaged else "raw"
    card = card_of(job, read_outputs(run_dir, job), folder.name, kind, plan_of(job, run_dir))
    target = asked.output or default_target(run_dir, card, f"-{asked.name}", onnx_file.SUFFIX)
    require_new(target, onnx_file.SUFFIX)
    tensors = checkpoint.load_network(folder, averaged)
    plain = plain_network_of(card, tensors)
    kept = _kept(plain, asked.keep)
    with hidden_beside(target) as hidden, hidden_beside(target.with_stem(f"{target.stem}-fp32")) as whole:
        onnx_file.write(plain, card, whole)
        reference = trained_network_of(card, tensors) if asked.name == "trained" else None
        model = _model(asked, job, arrangement, plain if reference is None else reference, card, kept)
        hidden.write_bytes(model.SerializeToString())
        found = _measured(job, arrangement, splits, whole, hidden, reference)
        hidden.rename(target)
    return {
        "name": asked.name,
        "output": str(target),
        "checkpoint": folder.name,
        "weights": kind,
        "calibration": {"samples": asked.samples, "method": asked.calibration} if asked.name == "static" else None,
        "kept": sorted(kept),
        "metric": job.recipe.metric,
        **found,
    }


def _kept(network: nn.Module, keep: list[str]) -> set[str]:
    try:
        return kept_layers(network, keep, "--keep")
    except TrainingError as error:  # it was written on the command line
        raise ConfigError([Problem("", str(error))]) from None


def _data(job: Job, name: str) -> tuple[Arrangement, list[str]]:
    """Return the data, and the splits to evaluate on. Raises DataError for what is missing."""
    arrangement, data = arrange(job), job.recipe.data
    if name == "static" and data.train_split not in arrangement.parts:
        raise DataError(
            f"the training samples are a stream ({data.train_split}), and calibration needs samples that can be read "
            "by themselves: --name dynamic, weights-int8, or train with quantization: int8"
        )
    splits = [name for name in (data.validation_split, data.test_split) if name is not None]
    if not splits:
        raise DataError(
            "the recipe has neither data.validation_split nor data.test_split, so nobody could tell what quantization "
            "costs: launch with one of them"
        )
    return arrangement, splits


def _model(
    asked: argparse.Namespace, job: Job, arrangement: Arrangement, network: nn.Module, card: Card, kept: set[str]
) -> Any:  # Any: an onnx.ModelProto
    if asked.name == "trained":
        return onnx_graphs.trained(network, card)
    if asked.name == "dynamic":
        return onnx_graphs.dynamic(network, card, kept)
    if asked.name == "static":
        order = arrangement.order()
        drawn = order.draws(0, 0, min(asked.samples, order.samples)).sample_ids
        batches = measure.batches_of(job, arrangement, job.recipe.data.train_split, drawn)
        return onnx_graphs.static(
            network, card, kept, onnx_graphs.images_of([images for images, _ in batches]), asked.calibration
        )
    return onnx_graphs.weights_only(network, card, kept, 8 if asked.name == "weights-int8" else 4)


def _measured(
    job: Job, arrangement: Arrangement, splits: list[str], whole: Path, small: Path, reference: nn.Module | None
) -> dict[str, Any]:
    """Return sizes, times and metrics of both files, and how far the small one is from what it is to compute."""
    files, threads = {"fp32": whole, "quantized": small}, job.cluster.threads_per_process
    found: dict[str, dict[str, Any]] = {name: {"bytes": file.stat().st_size} for name, file in files.items()}
    predictors = {name: onnx_file.predictor(measure.session_of(file, threads)) for name, file in files.items()}
    for split in splits:
        for name, values in measure.metrics_in_turn(job, arrangement, split, predictors).items():
            found[name][split] = values
    for batch in BATCHES:
        times = measure.milliseconds_in_turn(list(files.values()), job.recipe.data.image_size, batch)
        for values, milliseconds in zip(found.values(), times, strict=True):
            values[f"milliseconds_{batch}"] = milliseconds
    literal = reference or onnx_file.predictor(measure.session_of(small, threads, literally=True))
    compared = {"reference": literal, "fp32": predictors["fp32"]}
    return {
        **found,
        "splits": splits,
        "reference": "the network as it was trained, in torch" if reference else "the same file, not optimized",
        "agreement": {
            name: measure.agreement(job, arrangement, splits[0], _COMPARED, predictors["quantized"], other)
            for name, other in compared.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
