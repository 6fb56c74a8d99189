"""The gradient noise scale against its definition, computed by brute force; and what is said about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.configs.run_dir import RunDir
from megabatch.launcher.prepare import prepare
from megabatch.trainer.build import Parts, build
from megabatch.trainer.noise_scale import NoiseAverages, advice
from megabatch.trainer.step import take_step
from megabatch.trainer.world import World
from support.runs import Workplace
from support.shards import dataset

OVERRIDES = [
    "epochs=60", "batch={global_batch: 60, micro_batch: 6}", "optimizer={name: sgd, base_learning_rate: 1e-30}",
    "precision=fp64", "data.train_transforms=[]", "tracking={noise_scale: true}", "schedule=constant",
    "regularization={label_smoothing: 0}", "model={name: 'network:small', options: {norm: false, dropout: 0.0}}",
]  # fmt: skip
SAMPLES = 600


def parts_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Build a training of fixed weights, in this process."""
    place = Workplace(folder)
    place.write()
    dataset(folder, {"train": SAMPLES})
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    job = prepare("recipe.yaml", "laptop", [*OVERRIDES, "cluster.processes_per_node=1"]).job
    return build(job, World(0, 1, 0, torch.device("cpu")), RunDir(folder / "run"), lambda: False)


def by_definition(parts: Parts) -> float:
    """Return tr(S) / |G|**2 from the gradient of every sample; both unbiased for the population they are drawn from."""
    network, loader = parts.step_parts.engine.network, parts.micro_batches_from(0)
    gradients: dict[int, np.ndarray] = {}
    for batch in loader:
        images = parts.step_parts.normalize(batch.images_NHWC)
        for sample, image, label in zip(batch.request.sample_ids, images, batch.labels_N, strict=True):
            network.zero_grad()
            torch.nn.functional.cross_entropy(network(image[None]), label[None]).backward()
            flat = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
            gradients[int(sample)] = torch.cat(flat).numpy().copy()
        if len(gradients) == SAMPLES:
            break
    network.zero_grad()
    G = np.stack(list(gradients.values()))
    trace = float(G.var(axis=0, ddof=1).sum())
    return trace / (float((G.mean(axis=0) ** 2).sum()) - trace / len(G))


def test_the_estimate_is_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_in(tmp_path, monkeypatch)
    expected = by_definition(parts)
    batches = parts.micro_batches_from(0)
    for _ in range(400):
        report = take_step(parts.step_parts, batches, 1e-30, parts.state)
    parts.close()
    assert report.noise_scale == pytest.approx(expected, rel=0.1)
    assert report.noise_scale == parts.state.noise.noise_scale


@pytest.mark.processes
def test_two_ranks_measure_what_one_measures(tmp_path: Path) -> None:
    """One rank compares its first micro-batch with the step, two their halves: the same scale by two estimates."""
    place = Workplace(tmp_path)
    place.write()
    dataset(tmp_path, {"train": SAMPLES})
    scales = []
    for ranks in (1, 2):
        run = place.train(f"ranks-{ranks}", ranks, *OVERRIDES)
        lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
        scales.append([line["noise_scale"] for line in lines if line["kind"] == "step"][-1])
        assert any("gradient noise scale about" in line.get("text", "") for line in lines)
    assert scales[0] == pytest.approx(scales[1], rel=0.15)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.1, 10), st.floats(1, 1000), st.integers(2, 64), st.integers(2, 40))
def test_norms_that_follow_the_formula_give_back_what_made_them(
    squared_gradient: float, trace: float, small: int, times: int
) -> None:
    averages = NoiseAverages()
    big = small * times
    for _ in range(3):
        averages.add(squared_gradient + trace / small, 1 / small, squared_gradient + trace / big, big)
    assert averages.noise_scale == pytest.approx(trace / squared_gradient, rel=1e-6)


def test_noise_that_hides_the_gradient_gives_no_number() -> None:
    averages = NoiseAverages()
    averages.add(small=1.0, inverse_small=0.5, big=0.1, big_batch=8)
    assert averages.noise_scale is None
    assert replace(averages).noise_scale is None


@pytest.mark.parametrize(
    ("scale", "batch", "words"),
    [
        (9000, 4096, "a batch up to 2.2 x larger costs little"),
        (4000, 4096, "the batch is about right"),
        (100, 4096, "a batch 41 x smaller would need few more steps and far fewer samples"),
    ],
)
def test_the_advice_is_plain(scale: float, batch: int, words: str) -> None:
    text = advice(scale, batch)
    assert text.startswith(f"gradient noise scale about {scale:,} samples, batch {batch:,}: {words}")


@pytest.mark.parametrize("infinite", [float("inf"), float("nan")])
def test_a_gradient_that_overflowed_has_no_part_in_the_averages(infinite: float) -> None:
    averages = NoiseAverages()
    averages.add(3.0, 0.25, 2.0, 8)
    before = replace(averages)
    averages.add(infinite, 0.25, infinite, 8)
    assert averages == before
