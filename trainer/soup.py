"""Model soups (Wortsman et al. 2022): one network whose weights are the mean of those of several runs.

`uniform` averages all of them. `greedy` (their algorithm 1) takes the runs from the best to the worst on the
validation split and keeps each one whose addition makes the soup no worse there. Running statistics of batch norm
fit none of the averaged networks, so they are computed anew from training samples, or averaged if that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from megabatch.configs.run_dir import RunDir
from megabatch.configs.targets import higher_is_better
from megabatch.trainer import checkpoint
from megabatch.trainer.build import Parts
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.finished_run import write_finished
from megabatch.trainer.norms.precise import recompute_statistics, tracked_batch_norms
from megabatch.trainer.sharding import Tensors, whole

_SAMPLES = 16_384  # for batch-norm statistics: their error is far below that of one micro-batch


def cook(parts: Parts, runs: list[str], which: str, greedy: bool, batch_norm: str) -> dict[str, Any]:
    """Average checkpoints of the runs, evaluate, and save the soup as a checkpoint of the run folder.

    `batch_norm` is "recompute" or "average". Raises TrainingError where networks do not fit together.
    """
    folders = [checkpoint.chosen(RunDir(Path(run)), which) for run in runs]
    weights = [checkpoint.load_network(folder) for folder in folders]
    _require_alike(weights, runs)
    split = parts.job.recipe.data.validation_split
    single = [_validation(parts, tensors) for tensors in weights] if split else []
    result: EvaluationResult | None
    if greedy:
        chosen, mixed, result = _greedy(parts, weights, single, batch_norm)
    else:
        chosen = list(range(len(runs)))
        mixed = _prepared(parts, weights, batch_norm)
        result = _validation(parts, mixed) if split else None
    found: dict[str, Any] = {
        "runs": runs,
        "checkpoints": [folder.name for folder in folders],
        "chosen": chosen,
        "batch_norm": batch_norm if has_batch_norm(parts.step_parts.engine.network) else "none",
        "single_validation": [one.to_json() for one in single],
        "validation": result.to_json() if result else None,
        **_test(parts, weights, single, mixed),
    }
    told = {"soup": [found["runs"][number] for number in found["chosen"]]}
    write_finished(parts, parts.job, mixed, result, found["test"], told)
    return found


def mean_of(tensors: Sequence[Tensors]) -> Tensors:
    """Return the mean of each tensor over the networks, added up in float64; of counters the largest.

    >>> mean_of([{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}])
    {'w': tensor([2., 4.])}
    """
    mixed = {}
    for name, first in tensors[0].items():
        stacked = torch.stack([one[name] for one in tensors])
        mixed[name] = stacked.double().mean(dim=0).to(first.dtype) if first.is_floating_point() else stacked.amax(dim=0)
    return mixed


def greedy_choice(values: Sequence[float], value_of: Callable[[list[int]], float], higher: bool) -> list[int]:
    """Return which networks the greedy soup has; `values` are those of each alone, `value_of` that of a mixture.

    >>> greedy_choice([0.7, 0.9, 0.8], lambda chosen: 0.85 if 0 in chosen else 0.92, higher=True)
    [1, 2]
    """
    ranking = sorted(range(len(values)), key=lambda number: values[number], reverse=higher)
    chosen, best = ranking[:1], values[ranking[0]]
    for number in ranking[1:]:
        value = value_of([*chosen, number])
        if value >= best if higher else value <= best:
            chosen, best = [*chosen, number], value
    return chosen


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether the network keeps running statistics."""
    return bool(tracked_batch_norms(network))


def _greedy(
    parts: Parts, weights: list[Tensors], single: list[EvaluationResult], batch_norm: str
) -> tuple[list[int], Tensors, EvaluationResult]:
    metric = parts.job.recipe.metric
    values = [result.value(metric) for result in single]

    def value_of(numbers: list[int]) -> float:
        return _validation(parts, _prepared(parts, [weights[n] for n in numbers], batch_norm)).value(metric)

    chosen = greedy_choice(values, value_of, higher=higher_is_better(metric))
    if len(chosen) == 1:
        return chosen, weights[chosen[0]], single[chosen[0]]
    mixed = _prepared(parts, [weights[number] for number in chosen], batch_norm)
    return chosen, mixed, _validation(parts, mixed)


def _prepared(parts: Parts, weights: Sequence[Tensors], batch_norm: str) -> Tensors:
    """Return the mean of the networks, with statistics of batch norm that fit it."""
    engine = parts.step_parts.engine
    engine.load_network(mean_of(weights))
    if batch_norm == "recompute" and has_batch_norm(engine.network):
        with engine.forward_only():
            recompute_statistics(parts, _SAMPLES)
    return {name: tensor.detach().cpu().clone() for name, tensor in whole(engine.network_tensors()).items()}


def _validation(parts: Parts, tensors: Tensors) -> EvaluationResult:
    split = parts.job.recipe.data.validation_split
    assert split is not None, "the launcher asks for a validation split"
    return _evaluated(parts, tensors, split)


def _evaluated(parts: Parts, tensors: Tensors, split: str) -> EvaluationResult:
    parts.step_parts.engine.load_network(tensors)
    return parts.evaluate_split(split)


def _test(
    parts: Parts, weights: list[Tensors], single: list[EvaluationResult], mixed: Tensors
) -> dict[str, dict[str, Any] | None]:
    """Evaluate the soup on the test split, and beside it the run that is best on the validation split."""
    split = parts.job.recipe.data.test_split
    if split is None:
        return {"test": None, "best_single_test": None}
    best = None
    if single:
        metric = parts.job.recipe.metric
        values = [result.value(metric) for result in single]
        number = values.index(max(values) if higher_is_better(metric) else min(values))
        best = {"run": number, **_evaluated(parts, weights[number], split).to_json()}
    return {"test": _evaluated(parts, mixed, split).to_json(), "best_single_test": best}


def _require_alike(weights: list[Tensors], runs: list[str]) -> None:
    """Raise TrainingError unless all networks have the same tensors."""
    first = {name: tuple(tensor.shape) for name, tensor in weights[0].items()}
    for run, tensors in zip(runs[1:], weights[1:], strict=True):
        other = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        different = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if different:
            name = different[0]
            raise TrainingError(
                f"{run} has another network than {runs[0]}: {name} is {other.get(name, 'missing')} there and "
                f"{first.get(name, 'missing')} here. A soup needs runs of one model with the same options"
            )
