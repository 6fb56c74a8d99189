"""The arithmetic of a run: the shares add up, nothing is rounded, and the plan says what the ranks will do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.load import Loaded, load, shipped
from megabatch.data.arrangement import Arrangement
from megabatch.data.dataset import Dataset, Shard, Split
from megabatch.data.draws import RepeatedOrder
from megabatch.data.order import EpochOrder, Layout
from megabatch.data.parts import Part
from megabatch.data.requests import training_requests
from megabatch.data.steps import Steps
from megabatch.launcher.plan import Plan, make_plan
from megabatch.launcher.preflight import disk_space
from megabatch.launcher.refusals import TABLE, Refusal, refusals
from megabatch.launcher.refusals.engines import FSDP_OPTIMIZERS


def described(*samples: int, classes: int = 10, labels: dict[int, int] | None = None) -> Dataset:
    """A data set that exists only as its description."""
    shards = tuple(Shard(f"train-{n:06d}.tar", count, count * 2000, "0") for n, count in enumerate(samples))
    counts = labels if labels is not None else {0: sum(samples)}
    splits = [Split("train", shards, counts)]
    splits += [Split(name, (Shard(f"{name}-000000.tar", 50, 1, "0"),), {0: 50}) for name in ("validation", "test")]
    return Dataset(Path("data"), tuple(map(str, range(classes))), tuple(splits))


def planned(loaded: Loaded, dataset: Dataset) -> Plan:
    parts = {split.name: (Part(dataset, split),) for split in dataset.splits}
    order = Arrangement(loaded.recipe, Path(), (dataset,), parts).order()
    return make_plan(loaded.recipe, loaded.cluster, dataset, order)


def test_the_plan_is_the_sum_on_a_napkin() -> None:
    loaded = load("imagenet-resnet50", "one-node-8gpu", ["data.test_split=test"])
    plan = planned(loaded, described(*[1001] * 1280, classes=1000))
    assert (plan.num_ranks, plan.micro_batches_per_step, plan.micro_batches_per_rank) == (8, 32, (4, 4))
    assert (plan.steps_per_epoch, plan.last_batch, plan.total_steps) == (157, 1281280 - 156 * 8192, 157 * 42)
    assert plan.warmup_steps == 157 * 5
    assert plan.peak_learning_rate == 17
    assert sum(plan.samples_per_rank) / 2 == pytest.approx(1281280 / 8, rel=0.001)
    assert plan.shards_per_rank[1] <= 1280


@given(st.lists(st.integers(0, 300), min_size=1, max_size=8).filter(sum), st.integers(1, 200), st.integers(1, 50),
       st.integers(1, 9), st.sampled_from(["short", "drop"]))  # fmt: skip
def test_samples_per_rank_is_what_the_ranks_really_get(
    shards: list[int], global_batch: int, micro_batch: int, num_ranks: int, last_batch: str
) -> None:
    settings = [
        f"batch.global_batch={global_batch}",
        f"batch.micro_batch={micro_batch}",
        f"batch.last_batch={last_batch}",
    ]
    loaded = load("digits", "laptop", [*settings, f"cluster.processes_per_node={num_ranks}"])
    dataset = described(*shards)
    if refusals(loaded.recipe, loaded.cluster, dataset):
        return
    plan = planned(loaded, dataset)
    steps = Steps(sum(shards), 1, global_batch, micro_batch, last_batch)  # type: ignore[arg-type]
    spans = [
        [part for k in range(steps.per_epoch) for part in steps.at(k).of_rank(r, num_ranks)] for r in range(num_ranks)
    ]
    counts = [sum(part.samples for part in rank) for rank in spans]
    assert plan.samples_per_rank == (min(counts), max(counts))
    assert sum(counts) == plan.samples_per_epoch


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 6), st.integers(1, 8),
       st.integers(1, 9), st.integers(0, 11))  # fmt: skip
def test_shards_per_rank_is_what_the_ranks_really_touch(
    shards: list[int], micro_batch: int, num_ranks: int, streams: int, block: int, uneven: int
) -> None:
    global_batch = micro_batch * num_ranks + uneven
    settings = [f"batch={{global_batch: {global_batch}, micro_batch: {micro_batch}}}"]
    settings.append(f"data.shuffle={{streams: {streams}, window_shards: 1, block_samples: {block}}}")
    loaded = load("digits", "laptop", [*settings, f"cluster.processes_per_node={num_ranks}"])
    plan = planned(loaded, described(*shards))
    order = EpochOrder(Layout(tuple(shards), 0, streams, 1, block), epoch=0)
    owner = [number for number, count in enumerate(shards) for _ in range(count)]
    steps = Steps(sum(shards), 1, global_batch, micro_batch, "short")
    touched: list[set[int]] = [set() for _ in range(num_ranks)]
    for step in range(steps.per_epoch):
        for rank in range(num_ranks):
            for part in steps.at(step).of_rank(rank, num_ranks):
                touched[rank] |= {owner[int(i)] for i in order.samples(part.start, part.stop)}
    assert max(map(len, touched)) <= plan.shards_per_rank[1]  # a rank may stop short of a shard that its stream ends in


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4),
       st.integers(1, 6), st.integers(1, 5))  # fmt: skip
def test_shards_per_rank_counts_the_copies_of_repeated_samples(
    shards: list[int], micro_batch: int, num_ranks: int, streams: int, block: int, times: int
) -> None:
    settings = [f"batch={{global_batch: {micro_batch * num_ranks}, micro_batch: {micro_batch}}}"]
    settings.append(f"data.shuffle={{streams: {streams}, window_shards: 1, block_samples: {block}}}")
    loaded = load("digits", "laptop", [*settings, f"data.repeats={times}", f"cluster.processes_per_node={num_ranks}"])
    plan = planned(loaded, described(*shards))
    assert plan.samples_per_epoch == times * sum(shards)
    order = RepeatedOrder(Layout(tuple(shards), 0, streams, 1, block), times)
    owner = np.repeat(np.arange(len(shards)), shards)
    steps = Steps(order.samples, 1, micro_batch * num_ranks, micro_batch, "short")
    touched: list[set[int]] = [set() for _ in range(num_ranks)]
    for rank in range(num_ranks):
        for request in training_requests(steps, order, rank, num_ranks, 0):
            touched[rank] |= set(owner[request.sample_ids].tolist())
    assert plan.shards_per_rank is not None
    assert max(map(len, touched)) <= plan.shards_per_rank[1] <= len(shards)


def test_the_plan_says_how_an_epoch_differs_from_every_sample_once() -> None:
    def drawn(*overrides: str) -> str:
        return planned(load("digits", "laptop", overrides), described(600, 400)).drawn

    assert drawn() == ""
    assert drawn("data.repeats=3") == "each sample 3 times, side by side; 3,000 draws an epoch"


def test_a_plan_for_a_very_large_world_takes_a_moment() -> None:
    settings = [
        "batch={global_batch: 1048576, micro_batch: 64}",
        "cluster.processes_per_node=16384",
        "data.test_split=test",
    ]
    loaded = load("digits", "laptop", settings)
    plan = planned(loaded, described(*[10_000] * 20_000))
    assert plan.micro_batches_per_rank == (1, 1)
    assert plan.samples_per_rank[1] - plan.samples_per_rank[0] <= 64


PLAIN = ("regularization.label_smoothing=0", "evaluation.metric=null")
TWO_STAGES = "continual.stages=[{classes: ['0']}, {classes: ['1']}]"
ZERO_0, ZERO_1, ZERO_3 = (f"engine={{name: deepspeed, zero_stage: {stage}}}" for stage in (0, 1, 3))
SGD = "optimizer={name: sgd, base_learning_rate: 0.1}"

REFUSED: list[tuple[list[str], Dataset, str]] = [
        (["engine=fsdp", "stability.compare_replicas_every_steps=5"], described(1000),
         "stability.compare_replicas_every_steps=5 with parameters that engine=fsdp shares out: each part is on one "
         "rank only. Instead: stability.compare_replicas_every_steps=null, or engine=ddp"),
        (["data.validation_split=val"], described(100), "data.validation_split is 'val', but data has train, validation, "
         "test: there is nothing to read. Instead: name one of them, or write null for validation_split or test_split to "
         "do without"),
        ([], described(0), "data.train_split: the split 'train' of data has no samples: nothing can be trained or measured "
         "on it. Instead: import the data again, or look at it with `megabatch data info data`"),
        (["data.validation_split=train"], described(1000), "data.validation_split and data.train_split are both 'train': "
         "the accuracy would say nothing about new images. Instead: import with `--split train=0.9,validation=0.1`, or "
         "write null"),
        ([], described(1000, classes=10, labels={0: 999, 10: 1}), "split 'train' has labels 0 to 10, but there are 10 "
         "classes: the loss has no output for them. Instead: correct the labels, or list every class in classes.txt and "
         "run `megabatch data index data`"),
        (["batch.micro_batch=300"], described(1000), "batch.micro_batch=300 > batch.global_batch=256: a step is made of "
         "whole micro-batches. Instead: batch.micro_batch=256 or less"),
        (["cluster.processes_per_node=9"], described(1000), "9 ranks share 8 micro-batches a step (global batch 256 / "
         "micro-batch 32): the ranks left over would wait in every step. Instead: batch.micro_batch=28 or less, a larger "
         "batch.global_batch, or fewer ranks"),
        (["batch.global_batch=1", "batch.micro_batch=1"], described(1000), "2 ranks share 1 micro-batches a step (global "
         "batch 1 / micro-batch 1): the ranks left over would wait in every step. Instead: a global batch of at least 2, "
         "or at most 1 ranks"),
        (["batch.ramp=[{samples: 100000000, global_batch: 512}]"], described(1000), "batch.ramp starts after 100,000,000 "
         "samples, and the training ends after 30,000: each start has to come later than the one before, and before the "
         "end. Instead: starts of batch.ramp in rising order, at least one step apart, and before the last step"),
        (["batch.ramp=[{epoch: 5, global_batch: 512}, {samples: 100, global_batch: 1024}]"], described(1000), "batch.ramp "
         "starts after 5,000, 100 samples: each start has to come later than the one before, and before the end. "
         "Instead: starts of batch.ramp in rising order, at least one step apart, and before the last step"),
        (["batch.ramp=[{samples: 100, global_batch: 512}, {samples: 200, global_batch: 1024}]"], described(1000),
         "batch.ramp starts after 100, 200 samples, and two of them fall on one step: each start has to come later than "
         "the one before, and before the end. Instead: starts of batch.ramp in rising order, at least one step apart, "
         "and before the last step"),
        (["batch.ramp=[{epoch: 5, global_batch: 16}]", "cluster.processes_per_node=1"], described(1000),
         "batch.micro_batch=32 > batch.ramp: global_batch=16: a step is made of whole micro-batches. Instead: "
         "batch.micro_batch=16 or less"),
        (["batch.last_batch=drop"], described(200), "batch.last_batch=drop with 200 samples and batch.global_batch=256: no "
         "batch would be left to train on. Instead: batch.last_batch=short, or a smaller batch.global_batch"),
        (["data.repeats=257"], described(1000), "data.repeats=257 > batch.global_batch=256: copies side by side are there "
         "to meet in one batch. Instead: data.repeats=256 or less"),
        (["epochs=1"], described(1000), "schedule.warmup is 2 epochs, more than epochs=1: the learning rate would never reach "
         "its peak. Instead: schedule.warmup=1 or less"),
        (["schedule=plateau", "schedule.warmup=1", "data.validation_split=null"], described(1000), "schedule is plateau, and "
         "data.validation_split is null: both are decided by its metric. Instead: name a data.validation_split, or do "
         "without"),
        (["precision={name: fp32, tf32: true}"], described(1000), "precision.tf32=true with cluster.device=cpu: TF32 is a "
         "format of NVIDIA GPUs (from Ampere on). Instead: precision=fp32, or bf16 for speed"),
        (["tracking.noise_scale=true", "cluster.processes_per_node=1", "batch.micro_batch=256"], described(1000),
         "tracking.noise_scale with one rank and one micro-batch a step (batch.micro_batch=256): it is measured by comparing "
         "the gradient of few samples with that of the whole step. Instead: batch.micro_batch=128 or less, or more ranks"),
        (["optimizer={name: sgd, base_learning_rate: 0.1}", "tracking.trust_ratios_every_steps=10"], described(1000),
         "tracking.trust_ratios_every_steps is set, and optimizer is sgd: only LARS and LAMB, those of this program, have "
         "them. Instead: tracking.trust_ratios_every_steps=null, or optimizer lars or lamb"),
        (["stability.on_bad_step=roll_back", "data.train_stream={urls: 'a-{0..1}.tar', samples: 1000}"],
         described(500, 500), "stability.on_bad_step is roll_back, and data.train_stream is set: a stream cannot be read "
         "again from a step on, so the steps to leave out would have other samples. Instead: "
         "stability.on_bad_step=pass_over, or shards with an index (data.path)"),
        (["averaging={name: swa, start: 31}"], described(1000), "averaging.start is 31 epochs, more than epochs=30: there would "
         "be nothing to average. Instead: averaging.start=29 or less"),
        (["precision=fp8"], described(1000), "precision=fp8 with cluster.device=cpu: its products need an NVIDIA GPU of "
         "compute capability 8.9 or higher (L40S, H100). Instead: precision=bf16, or a cluster with such GPUs"),
        (["model.batch_norm={name: ghost, samples: 24}"], described(1000), "model.batch_norm.samples=24 does not divide "
         "batch.micro_batch=32: one group of every micro-batch would be smaller than the others. Instead: "
         "model.batch_norm.samples=16 or 32, or a micro-batch that is a multiple of 24"),
        (["model.batch_norm={name: ghost, samples: 64}"], described(1000), "model.batch_norm.samples=64 does not divide "
         "batch.micro_batch=32: one group of every micro-batch would be smaller than the others. Instead: "
         "model.batch_norm.samples=32, or a micro-batch that is a multiple of 64"),
        (["model.precise_statistics={samples: 1001}"], described(1000), "model.precise_statistics.samples=1,001, and an epoch "
         "draws 1,000: the same images would come again. Instead: model.precise_statistics.samples=1000 or less"),
        (["model.batch_norm=synchronized", "tracking.noise_scale=true"], described(1000), "tracking.noise_scale with "
         "model.batch_norm=synchronized on 2 ranks: it compares gradients of samples that know nothing of each other. "
         "Instead: tracking.noise_scale=false, or another model.batch_norm"),
        (["pruning=channels"], described(1000), "pruning.name=channels without model.pretrained: which channels matter, or "
         "are gone, is read from weights that were trained. Instead: model.pretrained=RUN_DIR, or pruning.name=magnitude"),
        (["distillation={teachers: [a], outputs: [3, 0], loss_over: other}"], described(1000), "distillation.loss_over=other, "
         "and there are training samples of 0: that loss has no output for a class that a teacher knows. Instead: "
         "distillation.loss_over=all"),
        ([ZERO_0, "regularization.ewc={source: a.safetensors, strength: 1}"], described(1000), "regularization.ewc and "
         "engine=deepspeed: it has summed and cut the gradients before the penalty could be added to them. Instead: "
         "engine=ddp or engine=fsdp"),
        ([TWO_STAGES, "continual.ewc.strength=1", "loss=focal"], described(1000), "continual.ewc and loss=focal: what "
         "matters to a network is measured by the probabilities that its softmax gives. Instead: loss=cross_entropy, or "
         "continual.ewc=null"),
        ([TWO_STAGES, "continual.lwf={}", "quantization=ternary"], described(1000), "continual.lwf and "
         "quantization=ternary: the stage before teaches, and a teacher computes in full precision. Instead: "
         "continual.lwf=null and continual.replay={samples: 2000}, or quantize after the last stage"),
        ([TWO_STAGES, "cluster.backend=slurm"], described(1000), "continual, and cluster laptop has backend slurm: a stage "
         "begins with the network that the stage before it ends with. Instead: backend: local or ssh. Within an "
         "allocation of Slurm, call `megabatch launch` in the batch script, with a cluster file whose backend is local "
         "(one node) or ssh (several)"),
        ([ZERO_0, "pruning={name: magnitude, sparsity: 0.5}"], described(1000), "pruning of weights with engine=deepspeed: it "
         "steps on flat copies of the weights of its own, and what is zero in the network would grow again from them. "
         "Instead: engine=ddp or engine=fsdp, or pruning.name=channels"),
        (["precision=fp8", "cluster.device=cuda", "pruning=n_of_m"], described(1000), "pruning.name=n_of_m with precision=fp8: "
         "the two were never run together. Instead: precision=bf16"),
        (["pruning={name: magnitude, sparsity: 0.5, schedule: {name: cubic, begin: 2, end: 31}}"], described(1000),
         "pruning.schedule from epoch 2 to 31, in a training of 30 epochs: the network would never get as sparse as the "
         "recipe says. Instead: pruning.schedule={name: cubic, begin: 0, end: 15}"),
        (["quantization=int8", "model.compile={backend: eager}"], described(1000), "quantization=int8 with model.compile: the two "
         "were never run together. Instead: precision=bf16, engine=ddp or fsdp, and model.compile=null"),
        ([ZERO_0, "quantization=ternary"], described(1000), "quantization=ternary with engine=deepspeed: the two "
         "were never run together. Instead: precision=bf16, engine=ddp or fsdp, and model.compile=null"),
        (["precision=fp8", "cluster.device=cuda", "quantization=int8"], described(1000), "quantization=int8 with precision=fp8: "
         "the two were never run together. Instead: precision=bf16, engine=ddp or fsdp, and model.compile=null"),
        (["pruning={name: magnitude, sparsity: 0.5}", "quantization={name: levels, count: 4}"], described(1000),
         "pruning.name=magnitude with quantization=levels: a removed weight would count again, with the size of all others. "
         "Instead: quantization=ternary, an odd number of levels, or pruning.name=channels"),
        (["cluster.nodes=2"], described(1000), "backend local with nodes=2: it starts processes on this machine only. "
         "Instead: cluster.nodes=1, or a cluster file with `backend: {name: slurm, ...}`, `{name: ssh, ...}` or `{name: torchrun, ...}`"),
        (["data.evaluation_transforms=[{name: resize, size: 7}]"], described(1000), "data.evaluation_transforms with "
         "data.image_size=8: the last resize leaves 7 pixels a side: every image of a batch has image_size x image_size "
         "pixels. Instead: {name: resize, size: 8} or larger, and center_crop after it"),
        (["data.train_stream={urls: one.tar, samples: 1000}"], described(1000), "data.train_stream.urls names 1 streams "
         "for 2 ranks: a stream is read from front to back by one rank, so the others would have nothing to read. "
         "Instead: at least 2 shards, or fewer ranks"),
        ([*PLAIN, "data.target={name: numbers, keys: [age]}"], described(1000), "loss is cross_entropy, and data.target is "
         "numbers: it compares the outputs with another kind of target. Instead: loss=mean_squared_error, "
         "mean_absolute_error or huber"),
        ([*PLAIN, "data.target={name: numbers, keys: [age]}", "loss=focal"], described(1000), "loss is focal, and "
         "data.target is numbers: it compares the outputs with another kind of target. Instead: loss=mean_squared_error, "
         "mean_absolute_error or huber"),
        ([*PLAIN, "data.target=labels"], described(1000), "loss is cross_entropy, and data.target is labels: it compares "
         "the outputs with another kind of target. Instead: loss=binary_cross_entropy or focal"),
        (["evaluation.metric=mae"], described(1000), "evaluation.metric is mae, and data.target is class: no evaluation "
         "would give it. Instead: evaluation.metric=top1, or null, which is the same"),
        (["data.target=labels", "loss=focal", "evaluation.metric=map", "regularization.label_smoothing=0.1"],
         described(1000), "regularization.label_smoothing is 0.1, and data.target is labels: it spreads the share of one "
         "class over all of them. Instead: regularization.label_smoothing=0"),
        ([*PLAIN, "data.target={name: numbers, member: txt, count: 1}", "loss=huber",
          "data.batch_transforms=[mixup, cutmix]"], described(1000), "data.batch_transforms has cutmix, and data.target is "
         "numbers: a number of an image does not go by the area that is left of it. Instead: mixup, which mixes the "
         "numbers as it does the images"),
        (["distillation.teachers=[a]", "loss=mean_squared_error"], described(1000), "distillation.temperature=4 with "
         "loss=mean_squared_error: there is no softmax or sigmoid to soften. Instead: distillation.temperature=1"),
        (["distillation={teachers: [a], share: 1}", "regularization.label_smoothing=0.1"], described(1000),
         "distillation.share=1 with regularization.label_smoothing=0.1: that loss has no part in the training. Instead: "
         "distillation.share below 1, or leave it out"),
        (["distillation={teachers: [a], share: 1}", "loss={name: cross_entropy, class_weights: balanced}",
          "regularization.label_smoothing=0"], described(1000),
         "distillation.share=1 with loss.class_weights: that loss has no part in the training. Instead: "
         "distillation.share below 1, or leave it out"),
        (["schedule={name: cosine_restarts, cycles: 4}"], described(1000), "schedule.cycles=4 in a training of 30 epochs: "
         "the checkpoint at the end of each is kept, and it is that of a whole epoch. Instead: epochs=32, or other cycles"),
        (["schedule={name: cosine_restarts, cycles: 10, warmup: 3}"], described(1000), "schedule.warmup is 3 epochs, and a "
         "cycle 3: the learning rate would not reach its peak before it begins anew. Instead: schedule.warmup below 3"),
        (["optimizer.groups=[{match: a, frozen_until: 9}, {match: b, frozen_until: 3}]", "epochs=9"], described(1000),
         "optimizer.groups: a has frozen_until=9, and epochs=9: they would never be trained. Instead: an earlier "
         "frozen_until, or frozen: true"),
        ([ZERO_0, "optimizer.groups=[{match: a, frozen_until: 3 steps}]"], described(1000), "optimizer.groups has "
         "frozen_until, and engine=deepspeed: it steps with all gradients that it has summed, so those of frozen ones "
         "cannot be held back. Instead: frozen: true, or engine=ddp"),
        (["engine=fsdp", "tracking.noise_scale=true"], described(1000), "tracking.noise_scale with engine=fsdp: it compares "
         "a rank's own gradient with that of all ranks, and with FSDP no rank has a whole one. Instead: "
         "tracking.noise_scale=false, or engine=ddp"),
        (["engine={name: fsdp, parameter_dtype: bf16}"], described(1000), "engine.parameter_dtype=bf16 with precision=fp32: "
         "the network would compute in bf16 and not in what the recipe says. Instead: precision=bf16, or "
         "engine.parameter_dtype=null"),
        (["engine=fsdp", "precision=fp8", "cluster.device=cuda"], described(1000), "precision=fp8 with engine=fsdp: the two "
         "were never run together. Instead: precision=bf16, or engine=ddp"),
        (["engine=fsdp", "model.compile={}"], described(1000), "model.compile with engine=fsdp: the two were never compared "
         "with an uncompiled run. Instead: model.compile=null, or engine=ddp"),
        (["engine=fsdp", "optimizer={name: timm/muon, base_learning_rate: 0.01, scaling: none}"], described(1000),
         "optimizer.name=timm/muon with engine=fsdp: on parameters cut among ranks it fails, or takes another step without "
         "a word (timm/muon). Instead: engine=ddp, or one of: " + ", ".join(sorted(FSDP_OPTIMIZERS))),
        (["engine={name: ddp, gradient_compression: bf16}", "precision=fp64"], described(1000),
         "engine.gradient_compression=bf16 with precision=fp64: fp64 is there for exact comparisons, and the sums would "
         "be rounded to three digits. Instead: engine.gradient_compression=none, or precision=fp32"),
        ([ZERO_1], described(1000), "optimizer=lamb and engine=deepspeed with zero_stage 1: a shard has pieces of several "
         "layers, and its norm is that of none of them: wrong trust ratios. Instead: engine=fsdp, which sums the norms over "
         "the ranks, engine.zero_stage=0, or engine=ddp"),
        ([ZERO_1, "optimizer={name: torch/Muon, base_learning_rate: 0.1}"], described(1000), "optimizer=torch/Muon and "
         "engine=deepspeed with zero_stage 1: it sees flat shards with pieces of several parameters instead of their "
         "matrices. Instead: engine.zero_stage=0, engine=ddp, or one of adam, adamw, rmsprop, sgd, torch/ASGD, torch/Adadelta, "
         "torch/Adam, torch/AdamW, torch/Adamax, torch/NAdam, torch/RAdam, torch/RMSprop, torch/Rprop, torch/SGD"),
        ([ZERO_1, "optimizer={name: adagrad, base_learning_rate: 0.1}"], described(1000), "optimizer=adagrad and "
         "engine=deepspeed with zero_stage 1: DeepSpeed makes an Adagrad of its own there, without the groups of the recipe. "
         "Instead: engine.zero_stage=0, or engine=ddp"),
        ([ZERO_0, "precision=fp64"], described(1000), "precision=fp64 and engine=deepspeed: it sums no float64 gradients over "
         "the ranks, and from stage 1 on keeps the weights to update in float32. Instead: precision=fp32, or engine=ddp"),
        ([ZERO_1, SGD, "precision=fp16"], described(1000), "precision=fp16 and engine=deepspeed with zero_stage 1: an overflow "
         "in the gradient of one rank's shard would not be known to the others. Instead: precision=bf16, "
         "engine.zero_stage=0, or engine=ddp"),
        ([ZERO_1, SGD, "regularization.clip_adaptive=0.1"], described(1000), "regularization.clip_adaptive and "
         "engine=deepspeed with zero_stage 1: it needs the norm of each row, and a shard has pieces of rows. Instead: "
         "regularization.clip_norm, engine.zero_stage=0, or engine=ddp"),
        ([ZERO_0, "tracking.noise_scale=true"], described(1000), "tracking.noise_scale and engine=deepspeed: a rank's own "
         "gradient is gone once it is summed over the ranks, which DeepSpeed does in the backward pass. Instead: "
         "tracking.noise_scale=false, or engine=ddp"),
        ([ZERO_0, "model.compile={backend: aot_eager}"], described(1000), "model.compile and engine=deepspeed: neither was ever "
         "tried together with its hooks. Instead: leave it out, or engine=ddp"),
        ([ZERO_1, SGD, "model.channels_last=true"], described(1000), "model.channels_last and engine=deepspeed with "
         "zero_stage 1: weights are pieces of a flat line there, in the usual order. Instead: model.channels_last=false, "
         "engine.zero_stage=0, or engine=ddp"),
        ([ZERO_3, SGD, "averaging=ema"], described(1000), "averaging=ema and engine=deepspeed with zero_stage 3: no rank has "
         "the whole weights between the steps. Instead: averaging=null, engine.zero_stage=2, or engine=ddp"),
        (["engine={name: deepspeed, zero_stage: 0, config: {gradient_clipping: 1.0}}"], described(1000), "engine.config: "
         "gradient_clipping=1.0, and regularization.clip_norm makes it 0: the recipe says what is trained. Instead: write "
         '"auto" there, or leave it out'),
        (["engine={name: deepspeed, zero_stage: 0, config: {bf16: {enabled: true}}}"], described(1000), "engine.config: "
         "bf16.enabled, and the recipe has precision=fp32: the recipe says what is trained. Instead: write "
         '"auto" there, or leave it out'),
        (["engine={name: deepspeed, zero_stage: 0, config: {zero_optimization: {stage: 2}}}"], described(1000), "engine.config: "
         "zero_optimization.stage=2, and engine.zero_stage makes it 0: the recipe says what is trained. Instead: write "
         '"auto" there, or leave it out'),
        (["engine={name: deepspeed, zero_stage: 0, config: {curriculum_learning: {enabled: true}}}"], described(1000),
         "engine.config: curriculum_learning: with it the training would not be the one of the recipe, or it would be ignored. "
         "Instead: leave it out; docs/engines.md lists the keys that are taken"),
        (["engine={name: deepspeed, zero_stage: 0, config: {train_batch_size: 256}}",
          "batch.ramp=[{epoch: 5, global_batch: 512}]"], described(1000), "engine.config: train_batch_size, and batch.ramp: the "
         'JSON has one batch for the whole training. Instead: write "auto" there, or leave it out'),
    ]  # fmt: skip


@pytest.mark.parametrize(("overrides", "dataset", "message"), REFUSED)
def test_what_cannot_work_is_refused_with_reason_and_remedy(
    overrides: list[str], dataset: Dataset, message: str
) -> None:
    loaded = load("digits", "laptop", overrides)
    assert refusals(loaded.recipe, loaded.cluster, dataset) == [message]


@pytest.mark.parametrize("refusal", TABLE, ids=lambda refusal: refusal.rule)
def test_every_refusal_is_provoked_above(refusal: Refusal) -> None:
    loaded = [(load("digits", "laptop", overrides), dataset) for overrides, dataset, _ in REFUSED]
    assert any(list(refusal.found(job.recipe, job.cluster, dataset)) for job, dataset in loaded)


@pytest.mark.parametrize("name", sorted(shipped("recipes")))
def test_every_shipped_recipe_has_a_plan(name: str) -> None:
    loaded = load(
        name, "laptop" if name.startswith("overfit") else "one-node-8gpu"
    )  # 64 samples a step are for few ranks
    dataset = described(*[50_000] * 8, classes=1000)
    assert refusals(loaded.recipe, loaded.cluster, dataset) == []
    plan = planned(loaded, dataset)
    assert plan.peak_learning_rate == loaded.recipe.optimizer.peak_learning_rate(loaded.recipe.batch.global_batch)
    assert plan.micro_batches_per_rank[0] >= 1


def test_a_good_job_is_not_refused() -> None:
    loaded = load("digits", "laptop")
    assert refusals(loaded.recipe, loaded.cluster, described(1000)) == []


def test_a_disk_too_small_for_the_checkpoints_is_told_with_both_numbers(tmp_path: Path) -> None:
    assert disk_space(tmp_path / "not" / "yet", 1000, 3) == []
    (message,) = disk_space(tmp_path / "not" / "yet", 10**15, 3)
    assert "4,000,000,000,000,000 bytes are needed for 3 checkpoints and one being written" in message
