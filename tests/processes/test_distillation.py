"""Trainings that learn from others: against a plain loop, on any ranks and engine, killed, and what is refused."""

from __future__ import annotations

import copy
import os
import signal
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import read_job
from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.launch import resume
from megabatch.trainer import checkpoint, loop
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.inspect_model import inspect
from support.ranks import train_together
from support.runs import Workplace, losses, steps_done
from support.training import training

pytestmark = pytest.mark.processes
SCALED = "data.normalize={name: fixed, mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4]}"
PLAIN = "model.options={norm: false, dropout: 0.0}"
TWO = "distillation={teachers: [big, {source: other, weight: 2}], temperature: 3, share: 0.7}"
MIXED = (TWO, "precision=fp64", "data.batch_transforms=[mixup_or_cutmix]", "epochs=4")
KEPT = ("checkpoint.every_steps=3", "checkpoint.keep_last=20")


@pytest.fixture(scope="module", autouse=True)
def teachers(workplace: Workplace) -> tuple[RunDir, RunDir]:
    """A network without batch norm, for pixels scaled in another way, and one like the student with another seed."""
    for name, settings in (("big", (SCALED, PLAIN)), ("other", ("seed=5", "averaging=ema"))):
        with training(workplace, name, *settings, "epochs=3", "optimizer.base_learning_rate=0.2") as parts:
            loop.train(parts)
    return RunDir(workplace.folder / "big"), RunDir(workplace.folder / "other")


@pytest.fixture(scope="module")
def on_ranks(workplace: Workplace) -> dict[int, RunDir]:
    with training(workplace, "taught-1", *MIXED, *KEPT) as parts:
        loop.train(parts)
    return {1: parts.run_dir} | {world: workplace.train(f"taught-{world}", world, *MIXED, *KEPT) for world in (2, 3)}


def softmax(values: torch.Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    powers = np.exp(values.numpy() - values.numpy().max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("micro_batch", [20, 5])
def test_the_loss_of_every_step_is_that_of_a_plain_loop(
    workplace: Workplace, teachers: tuple[RunDir, RunDir], micro_batch: int
) -> None:
    settings = (
        TWO, PLAIN, "precision=fp64", "regularization={}", "schedule=constant", "optimizer.weight_decay=0",
        "optimizer.momentum=0", f"batch.micro_batch={micro_batch}",
    )  # fmt: skip
    with training(workplace, f"loop-{micro_batch}", *settings) as parts:
        student, normalize = copy.deepcopy(parts.step_parts.engine.network), parts.step_parts.normalize
        loaded = list(parts.micro_batches_from(0))
        loop.train(parts)
        found = losses(parts.run_dir)
        distances = [line["distillation_loss"] for line in read_metrics(parts.run_dir.metrics, "step")]
    networks = []
    for run_dir, overrides in zip(teachers, ((PLAIN,), ()), strict=True):
        with training(workplace, f"copy-{run_dir.root.name}-{micro_batch}", *overrides) as parts:
            network = copy.deepcopy(parts.step_parts.engine.network).eval().double()
            network.load_state_dict(checkpoint.load_network(checkpoint.chosen(run_dir, "last")))
            networks.append(network)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    batches = [list(group) for _, group in groupby(loaded, key=lambda micro_batch: micro_batch.request.step)]
    assert len(batches) == len(found) == 6
    for batch, loss, told in zip(batches, found, distances, strict=True):
        pixels_NHWC = torch.cat([micro_batch.images_NHWC for micro_batch in batch])
        labels_N = torch.cat([micro_batch.labels_N for micro_batch in batch])
        images_NCHW = normalize(pixels_NHWC)
        own_way = (pixels_NHWC.double().permute(0, 3, 1, 2) / 255 - mean) / std
        with torch.no_grad():
            p = (softmax(networks[0](own_way) / 3) + 2 * softmax(networks[1](images_NCHW) / 3)) / 3
        outputs = student(images_NCHW)
        q = softmax(outputs.detach() / 3)
        distance = 9 * float((p * np.log(p / q)).sum(axis=1).mean())
        plain = functional.cross_entropy(outputs, labels_N)
        assert told == pytest.approx(distance, rel=1e-10)
        assert loss == pytest.approx(0.7 * distance + 0.3 * plain.item(), rel=1e-10)
        # torch's own derivative of the same, with the mean over the whole batch
        whole = (
            0.7
            * 9
            * functional.kl_div(functional.log_softmax(outputs / 3, dim=1), torch.from_numpy(p), reduction="batchmean")
            + 0.3 * plain
        )
        gradients = torch.autograd.grad(whole, list(student.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(student.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient


def test_one_two_and_three_ranks_learn_the_same(workplace: Workplace, on_ranks: dict[int, RunDir]) -> None:
    reference = losses(on_ranks[1])
    for world in (2, 3):
        assert losses(on_ranks[world]) == pytest.approx(reference, rel=1e-12)
    sharded = workplace.train("taught-fsdp", 3, *MIXED, "engine={name: fsdp, min_parameters: 100}")
    assert losses(sharded) == pytest.approx(reference, rel=1e-12)
    told = [[line["distillation_loss"] for line in read_metrics(run.metrics, "step")] for run in on_ranks.values()]
    assert told[1] == pytest.approx(told[0], rel=1e-12)
    assert told[2] == pytest.approx(told[0], rel=1e-12)


def test_a_checkpoint_has_nothing_of_the_teachers_and_leads_on_to_the_same_bits(
    workplace: Workplace, on_ranks: dict[int, RunDir]
) -> None:
    alone = on_ranks[3]
    assert (
        checkpoint.load_network(alone.checkpoint(6)).keys()
        == checkpoint.load_network(checkpoint.newest(RunDir(workplace.folder / "other"))[0] or Path()).keys()
    )
    resumed = workplace.job("taught-resumed", 3, *MIXED, *KEPT)
    assert not train_together([resumed], 3, {resumed: alone.checkpoint(6)})
    assert [line["loss"] for line in read_metrics(resumed.metrics, "step")] == losses(alone)[6:]
    ends = [checkpoint.load(run.checkpoint(12)) for run in (alone, resumed)]
    assert all(torch.equal(ends[0].network[name], tensor) for name, tensor in ends[1].network.items())


def test_a_killed_run_needs_the_same_teachers_to_go_on(
    workplace: Workplace, on_ranks: dict[int, RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = workplace.job("taught-killed", 1, *MIXED, *KEPT)
    process = workplace.start_alone(run_dir)
    while steps_done(run_dir) < 5 and process.poll() is None:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert steps_done(run_dir) >= 5
    settings = read_job(run_dir.job).recipe.distillation
    assert settings is not None
    manifest = workplace.folder / settings.teachers[0].source / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text + " ")
    monkeypatch.chdir(workplace.folder)
    with pytest.raises(ConfigError, match=r"distillation.teachers.0: big/\S+ is not what it was: its SHA-256 is"):
        resume("taught-killed", None, None, [])
    with (
        training(workplace, "taught-killed") as parts,
        pytest.raises(TrainingError, match=r"teachers.0: .*changed since"),
    ):
        loop.train(parts)
    manifest.write_text(text)
    with training(workplace, "taught-killed") as parts:
        loop.train(parts)
    assert losses(run_dir) == losses(on_ranks[1])


def test_the_plan_names_the_teachers_and_an_evaluation_needs_none(
    workplace: Workplace, on_ranks: dict[int, RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = read_job(on_ranks[1].job)
    monkeypatch.syspath_prepend(str(workplace.folder))
    lines = inspect(job)["changes"]
    assert [line.partition(",")[2] for line in lines] == [
        " 635 parameters, share 0.333", " 663 parameters, share 0.667",
    ]  # fmt: skip
    assert job.recipe.distillation is not None
    assert all(teacher.sha256 for teacher in job.recipe.distillation.teachers)
    (workplace.folder / "big").rename(workplace.folder / "gone")
    try:
        with training(workplace, "taught-1", *MIXED) as parts:
            assert parts.evaluate_split("test").samples == 15
        with pytest.raises(ConfigError, match="big: no such file or folder"):
            workplace.job("without", 1, TWO)
    finally:
        (workplace.folder / "gone").rename(workplace.folder / "big")
