"""The arithmetic of a run, before anything runs: make_plan(recipe, cluster, dataset) -> Plan. Integers, no effects.

Reads as the sum on a napkin: M = ceil(G / m) micro-batches a step, shared out over W ranks; steps; learning rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabatch.configs.cluster import Cluster
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.data.order import EpochOrder, Layout
from megabatch.data.steps import Steps, StepSpan


@dataclass(frozen=True)
class SplitPlan:
    """One split: what it is used for and how large it is."""

    use: str
    name: str
    samples: int
    shards: int


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
    warmup_steps: int
    samples_per_epoch: int
    samples_in_all: int
    samples_per_rank: tuple[int, int]
    shards_per_rank: tuple[int, int]
    base_learning_rate: float
    base_batch: int
    scaling: str
    peak_learning_rate: float
    num_classes: int
    splits: tuple[SplitPlan, ...]


def make_plan(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Plan:
    """Return the plan of a run that launcher/refusals.py has found nothing against."""
    train = dataset.split(recipe.data.train_split)
    batch = recipe.batch
    steps = Steps(train.samples, recipe.epochs, batch.global_batch, batch.micro_batch, batch.last_batch)
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
        warmup_steps=steps.step_at(round(recipe.schedule.warmup_epochs * steps.samples_per_epoch)),
        samples_per_epoch=steps.samples_per_epoch,
        samples_in_all=steps.samples_seen(steps.total),
        samples_per_rank=_samples_per_rank(steps, num_ranks),
        shards_per_rank=_shards_per_rank(recipe, dataset, num_ranks),
        base_learning_rate=recipe.optimizer.base_learning_rate,
        base_batch=recipe.optimizer.base_batch,
        scaling=recipe.optimizer.scaling,
        peak_learning_rate=recipe.optimizer.peak_learning_rate(batch.global_batch),
        num_classes=len(dataset.classes),
        splits=_splits(recipe, dataset),
    )


def _splits(recipe: Recipe, dataset: Dataset) -> tuple[SplitPlan, ...]:
    data = recipe.data
    uses = (("train", data.train_split), ("validation", data.validation_split), ("test", data.test_split))
    named = [(use, dataset.split(name)) for use, name in uses if name is not None]
    return tuple(SplitPlan(use, split.name, split.samples, len(split.shards)) for use, split in named)


def _samples_per_rank(steps: Steps, num_ranks: int) -> tuple[int, int]:
    """Return the fewest and the most samples that a rank trains on in an epoch: micro-batch q goes to rank q mod W."""
    full, last = steps.at(0), steps.at(steps.per_epoch - 1)
    sizes = np.concatenate([np.tile(_sizes(full), steps.per_epoch - 1), _sizes(last)])
    counts = np.bincount(np.arange(len(sizes)) % num_ranks, weights=sizes, minlength=num_ranks).astype(np.int64)
    assert counts.sum() == steps.samples_per_epoch
    return int(counts.min()), int(counts.max())


def _sizes(span: StepSpan) -> NDArray[np.int64]:
    """Return the samples of each micro-batch of a step."""
    starts = np.arange(span.num_micro_batches, dtype=np.int64) * span.micro_batch
    return np.minimum(span.samples - starts, span.micro_batch)


def _shards_per_rank(recipe: Recipe, dataset: Dataset, num_ranks: int) -> tuple[int, int]:
    """Return the fewest and the most shards that a rank reads from in the first epoch."""
    shuffle, batch = recipe.data.shuffle, recipe.batch
    shard_samples = tuple(shard.samples for shard in dataset.split(recipe.data.train_split).shards)
    layout = Layout(shard_samples, recipe.seed, shuffle.streams, shuffle.window_shards, shuffle.block_samples)
    order = EpochOrder(layout, epoch=0)
    per_stream = [order.shards_of_stream(stream) for stream in range(layout.streams)]
    steps = Steps(layout.samples, 1, batch.global_batch, batch.micro_batch, batch.last_batch)
    counts = set()
    for rank in range(min(num_ranks, _period(layout, steps))):
        streams = _streams_of_rank(layout, steps, rank, num_ranks)
        counts.add(len(set().union(*(per_stream[stream] for stream in streams))))
    return min(counts), max(counts)


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
