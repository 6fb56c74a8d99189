"""The arithmetic of a run, before anything runs: make_plan(recipe, cluster, dataset) -> Plan. Integers, no effects.

Reads as the sum on a napkin: M = ceil(G / m) micro-batches a step, shared out over W ranks; steps; learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.cluster import Cluster
from megabatch.configs.recipe import Recipe
from megabatch.configs.sampling import ClassBalanced, Weighted
from megabatch.data.dataset import Dataset
from megabatch.data.draws import Order, RepeatedOrder
from megabatch.data.order import EpochOrder, Layout, PickedOrder
from megabatch.data.rate import LearningRate, learning_rate_of
from megabatch.data.steps import Steps, StepSpan, steps_of


@dataclass(frozen=True)
class SplitPlan:
    """One split: what it is used for and how large it is."""

    use: str
    name: str
    samples: int
    shards: int


@dataclass(frozen=True)
class PhasePlan:
    """The part of a training with one global batch."""

    first_step: int
    steps: int
    first_epoch: float
    global_batch: int
    micro_batches_per_step: int
    peak_learning_rate: float


@dataclass(frozen=True)
class Plan:
    """Every number that recipe, cluster and data set lead to."""

    num_ranks: int
    global_batch: int
    micro_batch: int
    micro_batches_per_step: int
    last_micro_batch: int
    micro_batches_per_rank: tuple[int, int]
    last_batch: int
    epochs: int
    steps_per_epoch: int
    total_steps: int
    warmup_epochs: float
    warmup_steps: int
    samples_per_epoch: int
    samples_in_all: int
    samples_per_rank: tuple[int, int]
    shards_per_rank: tuple[int, int] | None  # None where any rank may read from any shard
    base_learning_rate: float
    base_batch: int
    scaling: str
    peak_learning_rate: float
    learning_rates: tuple[tuple[int, float], ...]
    num_classes: int
    splits: tuple[SplitPlan, ...]
    drawn: str
    phases: tuple[PhasePlan, ...]  # one for each global batch; () without a ramp


def make_plan(recipe: Recipe, cluster: Cluster, dataset: Dataset, order: Order) -> Plan:
    """Return the plan of a run that launcher/refusals/ has found nothing against.

    `dataset` has the splits as the recipe sees them, `order` is the order of training (data/arrangement.py).
    """
    batch = recipe.batch
    steps = steps_of(recipe, order.samples)
    rate = learning_rate_of(recipe, steps)
    per_step = steps.num_micro_batches
    num_ranks = cluster.num_ranks
    last = steps.at(steps.per_epoch - 1)
    return Plan(
        num_ranks=num_ranks,
        global_batch=batch.global_batch,
        micro_batch=batch.micro_batch,
        micro_batches_per_step=per_step,
        last_micro_batch=batch.global_batch - (per_step - 1) * batch.micro_batch,
        micro_batches_per_rank=(per_step // num_ranks, -(-per_step // num_ranks)),
        last_batch=last.samples,
        epochs=recipe.epochs,
        steps_per_epoch=steps.per_epoch,
        total_steps=steps.total,
        warmup_epochs=rate.warmup_epochs,
        warmup_steps=steps.step_at(round(rate.warmup_epochs * steps.samples_per_epoch)),
        samples_per_epoch=steps.samples_per_epoch,
        samples_in_all=steps.samples_seen(steps.total),
        samples_per_rank=_samples_per_rank(steps, num_ranks),
        shards_per_rank=_shards_per_rank(order, steps, num_ranks),
        base_learning_rate=recipe.optimizer.base_learning_rate,
        base_batch=recipe.optimizer.base_batch,
        scaling=recipe.optimizer.scaling,
        peak_learning_rate=rate.peak,
        learning_rates=tuple(rate_points(rate, steps)),
        num_classes=len(dataset.classes),
        splits=_splits(recipe, dataset),
        drawn=_drawn(recipe, order),
        phases=tuple(_phases(steps, rate)) if steps.ramp else (),
    )


def _phases(steps: Steps, rate: LearningRate) -> Iterator[PhasePlan]:
    ends = [*(phase.first_step for phase in steps.phases[1:]), steps.total]
    for phase, end in zip(steps.phases, ends, strict=True):
        first_epoch = steps.samples_seen(phase.first_step) / steps.samples_per_epoch
        micro_batches = -(-phase.global_batch // steps.micro_batch)
        peak, number = rate.peak_at(first_epoch), end - phase.first_step
        yield PhasePlan(phase.first_step, number, first_epoch, phase.global_batch, micro_batches, peak)


def rate_points(rate: LearningRate, steps: Steps, most: int = 240) -> Iterator[tuple[int, float]]:
    """Yield (step, learning rate) of at most `most` steps, evenly spread, with the first and the last."""
    for number in range(min(most, steps.total)):
        step = round(number * (steps.total - 1) / max(min(most, steps.total) - 1, 1))
        yield step, rate.at(steps.samples_seen(step) / steps.samples_per_epoch)


def _drawn(recipe: Recipe, order: Order) -> str:
    """Return in words how an epoch differs from every sample once; "" where it does not."""
    data = recipe.data
    if data.train_stream is not None:
        return "as the stream gives them: the order is approximate, and a resumed run goes on with other samples"
    words = []
    weights = [f"{source.weight:g}" for source in data.sources if source.weight is not None]
    if weights:
        words.append("sources in the proportions " + " : ".join(weights))
    if isinstance(data.sampling, ClassBalanced):
        words.append("every class equally often")
    if isinstance(data.sampling, Weighted):
        words.append(f"by the weights in {data.sampling.file}")
    if data.repeats > 1:
        words.append(f"each sample {data.repeats} times, side by side")
    return "; ".join([*words, f"{order.samples:,} draws an epoch"]) if words else ""


def _splits(recipe: Recipe, dataset: Dataset) -> tuple[SplitPlan, ...]:
    data = recipe.data
    uses = (("train", data.train_split), ("validation", data.validation_split), ("test", data.test_split))
    named = [(use, dataset.split(name)) for use, name in uses if name is not None]
    return tuple(SplitPlan(use, split.name, split.samples, len(split.shards)) for use, split in named)


def _samples_per_rank(steps: Steps, num_ranks: int) -> tuple[int, int]:
    """Return the fewest and the most samples that a rank trains on in the first epoch: number q is of rank q mod W."""
    if any(phase.epoch == 0 for phase in steps.phases[1:]):
        sizes = np.concatenate([_sizes(steps.at(step)) for step in range(steps.per_epoch)])
    else:
        full, last = steps.at(0), steps.at(steps.per_epoch - 1)
        sizes = np.concatenate([np.tile(_sizes(full), steps.per_epoch - 1), _sizes(last)])
    counts = np.bincount(np.arange(len(sizes)) % num_ranks, weights=sizes, minlength=num_ranks).astype(np.int64)
    assert counts.sum() == steps.samples_per_epoch
    return int(counts.min()), int(counts.max())


def _sizes(span: StepSpan) -> NDArray[np.int64]:
    """Return the samples of each micro-batch of a step."""
    starts = np.arange(span.num_micro_batches, dtype=np.int64) * span.micro_batch
    return np.minimum(span.samples - starts, span.micro_batch)


def _shards_per_rank(order: Order, steps: Steps, num_ranks: int) -> tuple[int, int] | None:
    """Return the fewest and the most shards that a rank reads from in an epoch, with the first global batch."""
    steps = replace(steps, ramp=())
    layout = _first_layout(order)
    if layout is None:
        return None
    times = order.samples // layout.samples
    first_epoch = EpochOrder(layout, epoch=0)
    per_stream = [first_epoch.shards_of_stream(stream) for stream in range(layout.streams)]
    blocks = replace(layout, block_samples=layout.block_samples * times)  # a block of draws, copies counted
    counts = set()
    for rank in range(min(num_ranks, _period(blocks, steps))):
        streams = _streams_of_rank(blocks, steps, rank, num_ranks)
        counts.add(len(set().union(*(per_stream[stream] for stream in streams))))
    return min(counts), max(counts)


def _first_layout(order: Order) -> Layout | None:
    """Return the layout of the first epoch; a mixture of sources has none."""
    if isinstance(order, RepeatedOrder):
        return _first_layout(order.order)
    if isinstance(order, PickedOrder):
        return order.epoch_layout(0)
    return order if isinstance(order, Layout) else None


def _period(layout: Layout, steps: Steps) -> int:
    """Return after how many micro-batches the streams they read from come round again."""
    round_of_streams = layout.streams * layout.block_samples
    if steps.global_batch % steps.micro_batch == 0:
        return round_of_streams // math.gcd(round_of_streams, steps.micro_batch)
    return steps.num_micro_batches * (round_of_streams // math.gcd(round_of_streams, steps.global_batch))


def _streams_of_rank(layout: Layout, steps: Steps, rank: int, num_ranks: int) -> set[int]:
    """Return the streams that micro-batches rank, rank + num_ranks, ... of the epoch read from."""
    streams: set[int] = set()
    micro_batches = steps.per_epoch * steps.num_micro_batches
    for number in range(rank, micro_batches, num_ranks)[: _period(layout, steps)]:
        step, of_step = divmod(number, steps.num_micro_batches)
        span = steps.at(step)
        start = span.start + of_step * steps.micro_batch
        first, end = (
            start // layout.block_samples,
            -(-min(start + steps.micro_batch, span.stop) // layout.block_samples),
        )
        streams |= {block % layout.streams for block in range(first, min(end, first + layout.streams))}
        if len(streams) == layout.streams:
            break
    return streams
