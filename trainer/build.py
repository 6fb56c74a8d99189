"""The only place where the names in a job become objects: data, network, engine, optimizer, trackers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megabatch.configs.base import Choice
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.data.augment.chain import chain
from megabatch.data.dataset import Dataset
from megabatch.data.loader import Loader, MicroBatch
from megabatch.data.order import Layout
from megabatch.data.read import SplitReader
from megabatch.data.requests import evaluation_requests, training_requests
from megabatch.data.sources.open import open_dataset
from megabatch.data.steps import Steps
from megabatch.trainer.batch_norm import StepBatchNorm
from megabatch.trainer.engines.ddp import DdpEngine
from megabatch.trainer.evaluate import EvaluationResult, evaluate
from megabatch.trainer.losses import cross_entropy
from megabatch.trainer.models.load import initialize
from megabatch.trainer.optim.groups import describe_groups, parameter_groups
from megabatch.trainer.precision import precision_policy
from megabatch.trainer.preprocess import Normalize
from megabatch.trainer.sample_log import SampleLog
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepParts
from megabatch.trainer.trackers.base import Tracker, Trackers
from megabatch.trainer.trackers.jsonl import JsonlTracker
from megabatch.trainer.world import World


@dataclass
class Parts:
    """A training, put together."""

    job: Job
    world: World
    run_dir: RunDir
    steps: Steps
    state: TrainState
    step_parts: StepParts
    trackers: Trackers
    micro_batches_from: Callable[[int], Iterator[MicroBatch]]
    evaluate_split: Callable[[str], EvaluationResult]
    sample_log: SampleLog | None

    def close(self) -> None:
        """Write what is still pending and close the logs."""
        self.trackers.close()
        if self.sample_log is not None:
            self.sample_log.close()

    def learning_rate(self) -> float:
        """Return the learning rate of the next step: a function of the samples seen so far."""
        recipe = self.job.recipe
        epochs_seen = self.state.samples_seen / self.steps.samples_per_epoch
        peak = recipe.optimizer.peak_learning_rate(recipe.batch.global_batch)
        return peak * recipe.schedule.factor(epochs_seen, recipe.epochs)


def build(job: Job, world: World, run_dir: RunDir, stop_requested: Callable[[], bool]) -> Parts:
    """Make every part of a training. Raises DataError or TrainingError for what cannot be made."""
    recipe = job.recipe
    _set_determinism(recipe.deterministic)
    dataset = open_dataset(job.recipe.data.path, Path(job.working_folder), job.cluster.cache, progress=_ignore)
    precision = precision_policy(recipe.precision, world.device)
    network = initialize(recipe.model, len(dataset.classes), recipe.seed).to(world.device, precision.parameter_dtype)
    size = recipe.data.image_size
    example_NCHW = torch.zeros(2, 3, size, size, device=world.device, dtype=precision.parameter_dtype)
    engine = DdpEngine(network, recipe.engine, world, example_NCHW)
    groups = parameter_groups(network, recipe.optimizer)
    description = "\n".join(describe_groups(groups))  # an optimizer rewrites the groups it is given
    peak = recipe.optimizer.peak_learning_rate(recipe.batch.global_batch)
    normalize = Normalize(recipe.data.mean, recipe.data.std, world.device, precision.parameter_dtype)
    samples = SampleLog(run_dir.sample_log(world.rank)) if recipe.tracking.sample_log else None
    step_parts = StepParts(
        job=job,
        device=world.device,
        engine=engine,
        optimizer=implementation(recipe.optimizer)(groups, recipe.optimizer, peak),
        precision=precision,
        normalize=normalize,
        loss=cross_entropy(recipe.regularization.label_smoothing),
        batch_norm=StepBatchNorm(network),
        stop_requested=stop_requested,
        on_micro_batch=samples.write if samples else _ignore,
    )
    steps = _steps(job, dataset)
    parts = Parts(
        job=job,
        world=world,
        run_dir=run_dir,
        steps=steps,
        state=TrainState(),
        step_parts=step_parts,
        trackers=_trackers(job, world, run_dir, steps),
        micro_batches_from=_training_data(job, world, dataset, steps),
        evaluate_split=_evaluation(job, world, dataset, step_parts),
        sample_log=samples,
    )
    parts.trackers.message(description)
    return parts


def implementation(choice: Choice) -> Any:  # Any: a function whose arguments belong to the kind of choice
    """Return the function that a choice's dotted path names."""
    module, _, name = choice.implementation.partition(":")
    return getattr(importlib.import_module(module), name)


def _steps(job: Job, dataset: Dataset) -> Steps:
    recipe = job.recipe
    samples = dataset.split(recipe.data.train_split).samples
    batch = recipe.batch
    return Steps(samples, recipe.epochs, batch.global_batch, batch.micro_batch, batch.last_batch)


def _training_data(job: Job, world: World, dataset: Dataset, steps: Steps) -> Callable[[int], Iterator[MicroBatch]]:
    data = job.recipe.data
    split = dataset.split(data.train_split)
    shuffle = data.shuffle
    layout = Layout(
        tuple(shard.samples for shard in split.shards), job.recipe.seed,
        shuffle.streams, shuffle.window_shards, shuffle.block_samples,
    )  # fmt: skip
    loader = _loader(job, dataset, data.train_split, training=True)

    def from_step(step: int) -> Iterator[MicroBatch]:
        return loader.load(training_requests(steps, layout, world.rank, world.num_ranks, step))

    return from_step


def _evaluation(job: Job, world: World, dataset: Dataset, parts: StepParts) -> Callable[[str], EvaluationResult]:
    micro_batch = job.recipe.evaluation.micro_batch

    def evaluate_split(split: str) -> EvaluationResult:
        loader = _loader(job, dataset, split, training=False)
        requests = evaluation_requests(dataset.split(split).samples, micro_batch, world.rank, world.num_ranks)
        return evaluate(split, loader.load(requests), parts.engine, parts.precision, parts.normalize)

    return evaluate_split


def _loader(job: Job, dataset: Dataset, split: str, training: bool) -> Loader:
    data = job.recipe.data
    transforms = data.train_transforms if training else data.evaluation_transforms
    return Loader(
        reader=SplitReader(dataset.folder, dataset.split(split)),
        transform=chain(transforms, data.image_size),
        image_size=data.image_size,
        num_classes=len(dataset.classes),
        max_image_pixels=data.max_image_pixels,
        seed=job.recipe.seed,
        threads=job.cluster.loader_threads,
    )


def _trackers(job: Job, world: World, run_dir: RunDir, steps: Steps) -> Trackers:
    if not world.is_main:
        return Trackers(())
    from megabatch.trainer.trackers.terminal import TerminalTracker

    tracking = job.recipe.tracking
    terminal = TerminalTracker(steps, tracking.print_every_seconds, job.recipe.data.validation_split)
    members: list[Tracker] = [JsonlTracker(run_dir.metrics), terminal]
    if tracking.wandb is not None:
        from megabatch.trainer.trackers.wandb_tracker import WandbTracker

        members.append(WandbTracker(tracking.wandb, job, run_dir, terminal.message))
    return Trackers(tuple(members))


def _set_determinism(deterministic: bool) -> None:
    """Exact resume needs kernels that add in the same order every time; on the CPU they all do."""
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic


def _ignore(*told: object) -> None:
    """Keep no sample log; say nothing of shards that a rank has to index."""
