"""What devices cannot do, told in the plan and on every rank; and linear layers in float8, emulated."""

from __future__ import annotations

import importlib.util
import math
import shutil
from functools import partial

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from megabatch.configs.load import load, read_job
from megabatch.configs.model import Compile
from megabatch.configs.precision import Bf16, Fp8, Fp16, Fp32, Fp64
from megabatch.trainer import abilities, build, trained_network
from megabatch.trainer.abilities import Capability, problems_here, require_abilities, unable, unable_to_compile
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.fp8 import announce_fp8, convert_to_fp8
from megabatch.trainer.step import take_step
from megabatch.trainer.world import World
from support.runs import Workplace

CPU = (0, 0)
Settings = Fp32 | Fp64 | Bf16 | Fp16 | Fp8


@pytest.mark.parametrize(
    ("settings", "capability", "needed", "instead"),
    [
        (Fp8(), CPU, "fp8 needs an NVIDIA GPU of compute capability 8.9", "precision=bf16"),
        (Fp8(), (8, 6), "fp8 needs an NVIDIA GPU of compute capability 8.9", "precision=bf16"),
        (Fp8(), (7, 5), "fp8 needs an NVIDIA GPU of compute capability 8.9", "precision=fp16"),
        (Bf16(), (7, 0), "bf16 needs an NVIDIA GPU of compute capability 8.0", "precision=fp16"),
        (Fp32(tf32=True), (7, 5), "fp32 with tf32 needs an NVIDIA GPU of compute capability 8.0", "precision=fp32"),
        (Fp32(tf32=True), CPU, "fp32 with tf32 needs an NVIDIA GPU of compute capability 8.0", "precision=fp32"),
    ],
)
def test_what_a_device_cannot_do_is_told_with_a_remedy(
    settings: Settings, capability: Capability, needed: str, instead: str
) -> None:
    problem = unable(settings, capability)
    assert problem is not None
    assert needed in problem
    assert problem.endswith(f"Instead: {instead}")
    assert "{here}" in problem


@pytest.mark.parametrize(
    ("settings", "capability"),
    [(Fp8(), (8, 9)), (Fp8(), (9, 0)), (Fp8(), (10, 0)), (Bf16(), (8, 0)), (Bf16(), CPU), (Fp16(), (6, 0)), (Fp16(), CPU),
     (Fp32(tf32=True), (8, 0)), (Fp32(), CPU), (Fp32(), (3, 5)), (Fp64(), CPU)],
)  # fmt: skip
def test_what_a_device_can_do_is_not_refused(settings: Settings, capability: Capability) -> None:
    assert unable(settings, capability) is None


def test_inductor_needs_a_gpu_that_triton_knows() -> None:
    problem = unable_to_compile(Compile(), (6, 1))
    assert problem is not None
    assert "7.0 or higher" in problem
    assert unable_to_compile(Compile(backend="aot_eager"), (6, 1)) is None
    assert unable_to_compile(Compile(), (7, 0)) is None
    assert unable_to_compile(Compile(), CPU) is None


def test_an_old_gpu_is_named_with_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(abilities.socket, "gethostname", lambda: "node7")
    recipe = load("digits", "laptop", ["precision=bf16"]).recipe
    with pytest.raises(TrainingError, match=r"bf16 needs .*; node7 has a GPU of 7\.0\. Instead: precision=fp16"):
        require_abilities(recipe, torch.device("cuda"))
    require_abilities(recipe, torch.device("cpu"))


def test_deepspeed_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load("digits", "laptop", ["engine={name: deepspeed, zero_stage: 0}"]).recipe
    require_abilities(recipe, torch.device("cpu"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"engine: deepspeed needs the package deepspeed, .* pip install deepspeed"):
        require_abilities(recipe, torch.device("cpu"))


def test_a_plan_made_where_no_gpu_is_says_what_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    job = load("digits", "one-node-8gpu", ["precision=fp8", "model.compile={}"])
    problems = problems_here(job.recipe, job.cluster)
    assert [("torchao" in problem, "triton" in problem) for problem in problems] == [(True, False), (False, True)]
    monkeypatch.undo()
    assert problems_here(load("digits", "laptop").recipe, load("digits", "laptop").cluster) == []


def test_a_compiler_that_is_not_there_is_told_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    wish = load("digits", "laptop", ["model.compile={}"])
    assert problems_here(wish.recipe, wish.cluster) == []
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (problem,) = problems_here(wish.recipe, wish.cluster)
    assert "inductor needs a C++ compiler" in problem
    unknown = load("digits", "laptop", ["model.compile={backend: inductr}"])
    (problem,) = problems_here(unknown.recipe, unknown.cluster)
    assert problem.startswith("model.compile.backend: torch has no 'inductr'")
    assert "inductor" in problem


def test_modes_are_inductors() -> None:
    with pytest.raises(ValidationError, match="mode is for backend: inductor, not aot_eager"):
        Compile(backend="aot_eager", mode="max-autotune")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 30), nn.Linear(30, 16))


def test_only_layers_that_fit_are_converted_and_no_name_changes() -> None:
    pytest.importorskip("torchao", reason="the extra fp8 is not installed")
    assert announce_fp8(network(), num_classes=16) == "precision: 1 linear layers multiply in float8"
    converted = network()
    convert_to_fp8(converted, num_classes=16, emulate=True)
    assert [type(module).__name__ for module in converted] == ["Flatten", "Float8Linear", "GELU", "Linear", "Linear"]
    assert converted.state_dict().keys() == network().state_dict().keys()


def test_emulated_products_are_those_of_rounded_factors() -> None:
    """Each factor scaled to the range of e4m3 by its largest value, rounded, multiplied, scaled back."""
    pytest.importorskip("torchao", reason="the extra fp8 is not installed")
    layer = nn.Sequential(nn.Linear(32, 48, bias=False))
    images = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    weight = layer[0].weight.detach().clone()
    convert_to_fp8(layer, num_classes=10, emulate=True)

    def rounded(x: torch.Tensor) -> torch.Tensor:
        scale = torch.finfo(torch.float8_e4m3fn).max / x.abs().max()
        return (x * scale).to(torch.float8_e4m3fn).float() / scale

    out = layer(images)
    torch.testing.assert_close(out, rounded(images) @ rounded(weight).T, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(out, images @ weight.T, rtol=1e-4, atol=1e-4)
    out.sum().backward()
    assert layer[0].weight.grad is not None


def test_a_model_without_a_layer_that_fits_is_refused() -> None:
    with pytest.raises(TrainingError, match="no linear layer, but for the head, whose sizes are multiples of 16"):
        announce_fp8(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Linear(16, 10)), num_classes=10)


@pytest.mark.processes
def test_a_step_in_fp8_is_one_of_the_trainer(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """From recipe to update, with the device check left out and the products emulated, as there is no such GPU here."""
    pytest.importorskip("torchao", reason="the extra fp8 is not installed")
    vit = "model={name: timm/test_vit, options: {img_size: 8, patch_size: 4}}"
    run_dir = workplace.job("fp8", 1, vit, "precision=bf16", "averaging=ema", "deterministic=false")
    job = read_job(run_dir.job)
    job = job.model_copy(update={"recipe": job.recipe.model_copy(update={"precision": Fp8()})})
    monkeypatch.chdir(workplace.folder)
    monkeypatch.setattr(build, "require_abilities", lambda recipe, device: None)
    monkeypatch.setattr(trained_network, "convert_to_fp8", partial(convert_to_fp8, emulate=True))
    parts = build.build(job, World(0, 1, 0, torch.device("cpu")), run_dir, lambda: False)
    try:
        network = parts.step_parts.engine.network
        assert sum(type(module).__name__ == "Float8Linear" for module in network.modules()) == 24
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        micro_batches = parts.micro_batches_from(0)
        reports = [take_step(parts.step_parts, micro_batches, 0.05, parts.state) for _ in range(3)]
        assert all(math.isfinite(report.loss) for report in reports)
        after = network.state_dict()
        assert not torch.equal(after["blocks.0.mlp.fc1.weight"], before["blocks.0.mlp.fc1.weight"])
        assert math.isfinite(parts.evaluate_split("validation").loss)
    finally:
        parts.close()
