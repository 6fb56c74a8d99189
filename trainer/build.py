"""The only place where the names in a job become objects: data, network, engine, optimizer, trackers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megabatch.configs.base import Choice
from megabatch.configs.distillation import other_outputs
from megabatch.configs.job import Job
from megabatch.configs.normalization import Auto
from megabatch.configs.pruning import masked
from megabatch.configs.quantization import Binary
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import Arrangement, arrange, changes_of_data, shown_data
from megabatch.data.dataset import Dataset
from megabatch.data.errors import DataError
from megabatch.data.loader import MicroBatch
from megabatch.data.masked import masked_samples
from megabatch.data.rate import LearningRate, learning_rate_of
from megabatch.data.requests import Request, evaluation_requests
from megabatch.data.steps import Steps, steps_of
from megabatch.trainer.abilities import require_abilities
from megabatch.trainer.aside import Aside
from megabatch.trainer.averaging import WeightAverage
from megabatch.trainer.bad_steps import BadSteps, samples_finder
from megabatch.trainer.batch_augment.chain import chain as batch_chain
from megabatch.trainer.batch_norm import StepBatchNorm
from megabatch.trainer.continual.ewc import ElasticPenalty
from megabatch.trainer.distillation.distill import Distiller
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.evaluate import Evaluated, EvaluateSplit, EvaluationResult, TakeIn, evaluate
from megabatch.trainer.ledger import Ledger
from megabatch.trainer.line_file import LineFile
from megabatch.trainer.loaders import split_loader, training_data
from megabatch.trainer.losses import Loss, over
from megabatch.trainer.metrics import gathered
from megabatch.trainer.optim.groups import decayed_parameters, describe_parameters, parameter_groups
from megabatch.trainer.optim.thaw import thaw_of
from megabatch.trainer.outputs import record_outputs
from megabatch.trainer.precision import precision_policy
from megabatch.trainer.pruning.sparse import WeightMasks
from megabatch.trainer.quantization.layers import clip_weights
from megabatch.trainer.sample_log import SampleLog
from megabatch.trainer.saver import Saver
from megabatch.trainer.saving_ranks import saving_ranks
from megabatch.trainer.seeding import NetworkSeed
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepParts
from megabatch.trainer.trackers.base import Trackers
from megabatch.trainer.trackers.of_run import trackers_of
from megabatch.trainer.trained_network import trained_network
from megabatch.trainer.world import World

_SECONDS_FOR_THE_REST = 5.0


@dataclass
class Parts:
    """A training, put together."""

    job: Job
    world: World
    run_dir: RunDir
    steps: Steps
    state: TrainState
    rate: LearningRate
    step_parts: StepParts
    trackers: Trackers
    micro_batches_from: Callable[[int], Iterator[MicroBatch]]
    evaluate_split: EvaluateSplit
    sample_log: SampleLog | None
    bad_steps: BadSteps
    saver: Saver
    aside: Aside = field(default_factory=Aside)  # for what the training can do without

    def close(self) -> None:
        """Write what is still pending and close the logs."""
        self.saver.close()
        self.aside.wait(_SECONDS_FOR_THE_REST)
        self.trackers.close()
        if self.sample_log is not None:
            self.sample_log.close()

    def learning_rate(self) -> float:
        """Return the learning rate of the next step: a function of the samples seen, and of plateaus if asked for."""
        epochs_seen = self.state.samples_seen / self.steps.samples_per_epoch
        return self.rate.at(epochs_seen) * self.state.plateau.rate_factor


def build(job: Job, world: World, run_dir: RunDir, stop_requested: Callable[[], bool]) -> Parts:
    """Make every part of a training. Raises DataError or TrainingError for what cannot be made."""
    recipe = job.recipe
    _set_determinism(recipe.deterministic)
    arrangement = _unchanged_arrangement(job, run_dir)
    order = arrangement.order()
    steps = steps_of(recipe, order.samples)
    samples = SampleLog(run_dir.sample_log(world.rank)) if recipe.tracking.sample_log else None
    ledger = Ledger(run_dir.data_errors, recipe.data.on_error, world)
    step_parts, description = _step_parts(
        job, world, run_dir, arrangement, steps, ledger, stop_requested, samples.write if samples else _ignore
    )
    find = samples_finder(job, arrangement, order)
    trackers = trackers_of(job, world, run_dir, steps)
    saver = Saver(run_dir, recipe.checkpoint, saving_ranks(world, step_parts.engine.network), trackers)
    if recipe.checkpoint.every_minutes is not None:
        step_parts = replace(step_parts, save_due=saver.due)
    parts = Parts(
        job=job,
        world=world,
        run_dir=run_dir,
        steps=steps,
        state=TrainState(),
        rate=learning_rate_of(recipe, steps),
        step_parts=step_parts,
        trackers=trackers,
        micro_batches_from=training_data(job, world, arrangement, order, steps, step_parts.engine),
        evaluate_split=_evaluation(job, world, arrangement, step_parts),
        sample_log=samples,
        bad_steps=BadSteps(recipe.stability, steps, find, LineFile(run_dir.bad_steps), world, step_parts.engine),
        saver=saver,
    )
    if world.is_main:
        record_outputs(run_dir, arrangement)
    parts.trackers.message(description)
    _tell_of_data(parts, arrangement)
    return parts


def _unchanged_arrangement(job: Job, run_dir: RunDir) -> Arrangement:
    arrangement = arrange(job)
    if arrangement.fingerprint() != job.data_fingerprint:
        changed = changes_of_data(job, arrangement.contents())
        raise DataError(
            f"{shown_data(job)}: the data, or a file that chooses among them, changed since {run_dir.job} was written"
            f"{changed}: put it back, or launch again"
        )
    return arrangement


def _step_parts(
    job: Job,
    world: World,
    run_dir: RunDir,
    arrangement: Arrangement,
    steps: Steps,
    ledger: Ledger,
    stop_requested: Callable[[], bool],
    on_micro_batch: Callable[[Request], None],
) -> tuple[StepParts, str]:
    """Return what a step works with, and a description of the network and of its parameter groups."""
    recipe = job.recipe
    require_abilities(recipe, world.device)
    precision = precision_policy(recipe.precision, world.device)
    network, changes = trained_network(job, world, run_dir, arrangement, precision)
    size = recipe.data.image_size
    example_NCHW = torch.zeros(2, 3, size, size, device=world.device, dtype=precision.parameter_dtype)
    engine: Engine = implementation(recipe.engine)(
        network, recipe.engine, world, example_NCHW, recipe.model.compile, recipe.tracking.noise_scale
    )
    groups = parameter_groups(network, recipe.optimizer)
    pruning = masked(recipe.pruning)
    masks = WeightMasks(network, pruning, steps) if pruning is not None else None
    if masks is not None:
        changes = [*changes, masks.announce()]
    # Described before the optimizer is made, which rewrites the groups it is given.
    description = "\n".join([*changes, describe_parameters(network, groups)])
    peak = recipe.optimizer.peak_learning_rate(recipe.batch.global_batch)
    scaling, batch_transforms = recipe.data.normalize, recipe.data.batch_transforms
    assert not isinstance(scaling, Auto), "the launcher writes the numbers into the job"
    trained, decayed = [p for p in network.parameters() if p.requires_grad], decayed_parameters(network)
    optimizer = implementation(recipe.optimizer)(groups, recipe.optimizer, peak)
    engine.prepare(optimizer, recipe, precision)
    if isinstance(recipe.quantization, Binary) and recipe.quantization.clip_weights:
        optimizer.register_step_post_hook(lambda *_: clip_weights(network))
    parts = StepParts(
        job=job,
        device=world.device,
        seed_network=NetworkSeed(recipe.seed, world.device),
        engine=engine,
        parameters=engine.held(trained),
        decayed=engine.held(decayed),
        optimizer=optimizer,
        precision=precision,
        normalize=implementation(scaling)(scaling, world.device, precision.parameter_dtype),
        augment=batch_chain(batch_transforms, arrangement.num_classes) if batch_transforms else None,
        loss=_own_loss(recipe, arrangement),
        batch_norm=StepBatchNorm(network),
        ledger=ledger,
        stop_requested=stop_requested,
        average=WeightAverage(network, recipe.averaging, steps) if recipe.averaging is not None else None,
        on_micro_batch=on_micro_batch,
        masks=masks,
        distiller=Distiller(job, arrangement.num_outputs, precision) if recipe.distillation is not None else None,
        thaw=thaw_of(optimizer, steps),
        add_ewc=_ewc_of(job, network),
    )
    return parts, description


def _own_loss(recipe: Recipe, arrangement: Arrangement) -> Loss:
    loss = build_loss(recipe, arrangement.whole)
    kept = other_outputs(recipe.distillation, arrangement.num_outputs)
    return loss if kept is None else over(loss, kept, arrangement.num_outputs)


def _ewc_of(job: Job, network: torch.nn.Module) -> Callable[[], None] | None:
    settings, pretrained = job.recipe.regularization.ewc, job.recipe.model.pretrained
    if settings is None:
        return None
    outputs = pretrained.outputs if pretrained is not None else None
    assert outputs != "by_class", "the launcher writes the numbers into the job"
    return ElasticPenalty(network, settings, Path(job.working_folder), outputs).add_gradient


def _tell_of_data(parts: Parts, arrangement: Arrangement) -> None:
    """Say what of the data is left out, and where their order is not exact."""
    data = parts.job.recipe.data
    if data.mask is not None and parts.world.is_main:
        ledger = parts.step_parts.ledger
        ledger.add_masked(masked_samples(arrangement.datasets, Path(parts.job.working_folder) / data.mask))
        parts.trackers.message(f"left out by {data.mask}: {ledger.masked_summary() or 'nothing'}")
    if data.train_stream is not None:
        parts.trackers.message(
            f"training samples come from {len(arrangement.streams):,} streams: their order is approximate, and an "
            f"epoch is {data.train_stream.samples:,} of them, whichever they are"
        )


def implementation(choice: Choice) -> Any:  # Any: a function whose arguments belong to the kind of choice
    """Return the function that a choice's dotted path names."""
    module, _, name = choice.implementation.partition(":")
    return getattr(importlib.import_module(module), name)


def build_loss(recipe: Recipe, dataset: Dataset) -> Loss:
    """Return the loss of a recipe. Raises TrainingError for what cannot be made."""
    counts = dataset.split(recipe.data.train_split).label_counts
    class_counts = [counts.get(label, 0) for label in range(len(dataset.classes))]
    loss: Loss = implementation(recipe.loss)(recipe.loss, recipe.regularization.label_smoothing, class_counts)
    return loss


def _evaluation(job: Job, world: World, arrangement: Arrangement, parts: StepParts) -> EvaluateSplit:
    micro_batch, transforms = job.recipe.evaluation.micro_batch, job.recipe.data.evaluation_transforms

    def evaluate_split(
        split: str,
        chosen: NDArray[np.int64] | None = None,
        also: Callable[[Evaluated], TakeIn] | None = None,
    ) -> EvaluationResult:
        reader = arrangement.reader(split)
        loader = split_loader(job, arrangement, reader, transforms, job.cluster.loader_threads)
        chosen = arrangement.sample_ids(split) if chosen is None else chosen
        requests = evaluation_requests(
            len(chosen), micro_batch, world.rank, world.num_ranks, chosen, parts.engine.same_number_of_passes
        )
        with parts.engine.forward_only(), parts.average.in_network() if parts.average is not None else nullcontext():
            target, outputs = job.recipe.data.target, arrangement.num_outputs
            kept = gathered(target, len(chosen), outputs, world.device)
            what = Evaluated(split, chosen, reader, micro_batch, target, outputs, kept)
            with closing(loader.load(requests)) as micro_batches:
                return evaluate(
                    what, micro_batches, parts.engine, parts.precision, parts.normalize, parts.ledger,
                    parts.stop_requested, also(what) if also is not None else None,
                )  # fmt: skip

    return evaluate_split


def _set_determinism(deterministic: bool) -> None:
    """Exact resume needs kernels that add in the same order every time; on the CPU they all do."""
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic


def _ignore(*told: object) -> None:
    """Keep no sample log."""
