"""The options of DDP on three real ranks: what they change, and that they change nothing else."""

from __future__ import annotations

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from support.ranks import FINISHED, train_together
from support.runs import Workplace, losses, trained_samples

pytestmark = pytest.mark.processes
RANKS = 3
STATIC = "engine={name: ddp, static_graph: true}"
UNUSED = "model={name: 'network:Unused'}"
NOISE = "tracking={noise_scale: true, gradient_norm: true, sample_log: true}"
CELLS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "static-compiled": (STATIC, "model={name: 'network:small', compile: {backend: aot_eager}}"),
    "unused-static": (STATIC, UNUSED),
    "unused-searched": ("engine={name: ddp, find_unused_parameters: true}", UNUSED),
    "small-buckets": ("engine={name: accelerate, bucket_megabytes: 1}",),
    "fp16": ("engine={name: ddp, gradient_compression: fp16}",),
    "bf16": ("engine={name: ddp, gradient_compression: bf16}",),
    "accelerate-bf16": ("engine={name: accelerate, gradient_compression: bf16}",),
    "bf16-again": ("engine={name: ddp, gradient_compression: bf16}",),
}
UNIT_ROUNDOFF = {"fp16": 2**-11, "bf16": 2**-8}


@pytest.fixture(scope="module")
def runs(workplace: Workplace) -> dict[str, RunDir]:
    """Each cell trained for 6 steps in float32, one after another in one group of ranks."""
    short = ("epochs=2", "schedule.warmup=0", NOISE)
    found = {name: workplace.job(f"option-{name}", RANKS, *short, *cell) for name, cell in CELLS.items()}
    failure = train_together(list(found.values()), RANKS)
    assert all((run_dir.root / FINISHED).exists() for run_dir in found.values()), failure
    return found


@pytest.mark.parametrize(
    ("name", "same_as"),
    [("static-compiled", "plain"), ("unused-static", "unused-searched"), ("small-buckets", "plain")],
)
def test_how_gradients_are_gathered_does_not_change_what_is_learned(
    runs: dict[str, RunDir], name: str, same_as: str
) -> None:
    assert losses(runs[name]) == pytest.approx(losses(runs[same_as]), rel=1e-5)
    assert trained_samples(runs[name]) == trained_samples(runs[same_as])


@pytest.mark.parametrize("compression", ["fp16", "bf16"])
def test_compressed_gradients_are_those_of_float32_within_their_rounding(
    runs: dict[str, RunDir], compression: str
) -> None:
    """Each rank rounds its share, and each of the additions rounds again; with cancellation, a few times more."""
    rounding = 4 * RANKS * UNIT_ROUNDOFF[compression]
    plain, compressed = (read_metrics(runs[name].metrics, "step") for name in ("plain", compression))
    assert compressed[0]["loss"] == plain[0]["loss"]
    assert compressed[0]["gradient_norm"] != plain[0]["gradient_norm"]
    assert compressed[0]["gradient_norm"] == pytest.approx(plain[0]["gradient_norm"], rel=rounding)
    assert losses(runs[compression]) == pytest.approx(losses(runs["plain"]), rel=rounding)
    assert losses(runs[compression])[2:] != losses(runs["plain"])[2:]


def test_the_noise_scale_can_be_measured_on_compressed_gradients(runs: dict[str, RunDir]) -> None:
    plain, rounded = (
        checkpoint.load(runs[name].checkpoint(6)).state["training"]["noise"] for name in ("plain", "bf16")
    )
    assert plain["weight"] == rounded["weight"] > 0
    assert plain["trace"] > 0
    assert rounded["trace"] == pytest.approx(plain["trace"], rel=0.01)
    assert rounded["trace"] != plain["trace"]


def test_accelerate_sends_the_same_16_bits_as_ddp_and_each_run_the_same_as_before(runs: dict[str, RunDir]) -> None:
    assert losses(runs["accelerate-bf16"]) == losses(runs["bf16"]) == losses(runs["bf16-again"])
