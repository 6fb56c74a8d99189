"""Trainings for few bits with real ranks: any number of them, killed and gone on with, evaluated, exported, quantized."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from megabatch.configs.errors import ConfigError
from megabatch.configs.run_dir import RunDir
from megabatch.data.errors import DataError
from megabatch.launcher.cli import app
from megabatch.trainer import checkpoint
from megabatch.trainer.export import packed_file
from megabatch.trainer.quantization.__main__ import quantize
from support.runs import Workplace, finish, kill_after_step, losses
from support.training import training

pytestmark = pytest.mark.processes
SPLITS = ("data.validation_split=validation", "data.test_split=test")
INT8 = (
    "epochs=6",
    "checkpoint.every_steps=4",
    "averaging={name: ema, decay: 0.9}",
    "precision=fp64",
    "quantization=int8",
)
FSDP = "{name: fsdp, min_parameters: 100}"
STEPS = 18
BOUNDS = [f"{name}.bounds" for name in ("0.input_range", "2.output_range", "5.output_range", "7.output_range")]


def bits(run_dir: RunDir) -> dict[str, bytes]:
    found = checkpoint.load(run_dir.checkpoint(STEPS))
    return {f"{g}/{n}": t.numpy().tobytes() for g, tensors in found.groups().items() for n, t in tensors.items()}


@pytest.fixture(scope="module")
def alone(workplace: Workplace) -> RunDir:
    return workplace.train("int8-alone", 1, *INT8)


@pytest.mark.parametrize(
    ("ranks", "engine"),
    [
        (2, "ddp"),
        (3, FSDP),
        pytest.param(3, "ddp", marks=pytest.mark.matrix),
        pytest.param(2, FSDP, marks=pytest.mark.matrix),
    ],
)
def test_any_number_of_ranks_finds_the_same_bounds_and_weights(
    workplace: Workplace, alone: RunDir, ranks: int, engine: str
) -> None:
    together = workplace.train(f"int8-{ranks}-{engine[1:5]}", ranks, *INT8, f"engine={engine}")
    assert losses(together) == pytest.approx(losses(alone), rel=1e-9)
    one, other = (checkpoint.load(run.checkpoint(STEPS)) for run in (alone, together))
    assert sorted(name for name in one.network if name.endswith("bounds")) == sorted(BOUNDS)
    for name in BOUNDS:
        assert one.network[name].any()
        assert torch.allclose(one.network[name], other.network[name], rtol=1e-9)
        assert torch.allclose(one.averaged[name], other.averaged[name], rtol=1e-9)


@pytest.mark.parametrize(
    "settings", ["ternary", "{name: binary, clip_weights: true, keep_ends: false}", "{name: levels, count: 4}"]
)
def test_two_ranks_train_weights_of_few_values_as_one_does(workplace: Workplace, settings: str) -> None:
    asked = (
        "epochs=2",
        "precision=fp64",
        f"quantization={settings}",
        *(("optimizer.base_learning_rate=3",) if "clip" in settings else ()),
    )
    name = f"few-{len(settings)}"
    one, two = (workplace.train(f"{name}-{ranks}", ranks, *asked) for ranks in (1, 2))
    assert losses(two) == pytest.approx(losses(one), rel=1e-9)
    whole = workplace.train(f"{name}-whole", 1, *asked, "quantization=null")
    assert losses(whole)[0] != losses(one)[0]
    if "clip" in settings:
        sizes = [
            checkpoint.load_network(checkpoint.chosen(run, "last"))["9.weight"].abs().max() for run in (one, whole)
        ]
        assert sizes[0] == 1.0 < sizes[1]


def test_a_run_killed_while_bounds_move_ends_with_the_same_bits(workplace: Workplace) -> None:
    unhurried = (*INT8, "model.name=network:unhurried")
    whole = workplace.train("unhurried", 1, *unhurried)
    killed = workplace.job("killed", 1, *unhurried)
    kill_after_step(workplace.start(killed), killed, 9, victim=0)
    finish(workplace.start(killed), killed)
    assert losses(killed) == losses(whole)
    assert bits(killed) == bits(whole)


@pytest.fixture(scope="module")
def dense(workplace: Workplace) -> RunDir:
    return workplace.train("dense", 1, *SPLITS, "epochs=4")


def run(workplace: Workplace, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run the command in this process; it must end well."""
    monkeypatch.chdir(workplace.folder)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_a_trained_network_is_quantized_by_command(
    workplace: Workplace, dense: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = run(workplace, monkeypatch, "quantize", "dense", "--samples", "30", "--keep", "9")
    found = json.loads((dense.root / "quantization-static.json").read_text())
    assert found["calibration"] == {"samples": 30, "method": "minmax"}
    assert found["kept"] == ["9"]
    result = json.loads(dense.result.read_text())
    assert found["fp32"]["test"]["top1"] == pytest.approx(result["test"]["top1"])
    assert found["fp32"]["validation"]["top1"] == pytest.approx(result["best_value"])
    assert found["agreement"]["reference"]["samples"] == 15
    assert found["agreement"]["fp32"]["difference"] > 0
    assert Path(found["output"]).parent.resolve() == dense.exports.resolve()
    assert (workplace.folder / found["output"]).stat().st_size == found["quantized"]["bytes"]
    assert f"{found['quantized']['test']['top1']:.4f}" in printed
    assert "32 images, ms" in printed
    done = CliRunner().invoke(app, ["quantize", "dense", "--keep", "9"])
    assert (done.exit_code, "exists: choose another --output, or remove it" in done.output) == (2, True)
    asked = Namespace(
        run_dir=dense.root, name="static", samples=30, calibration="minmax", keep=["nine"], checkpoint="best",
        weights="averaged", output=workplace.folder / "other.onnx",
    )  # fmt: skip
    monkeypatch.syspath_prepend(workplace.folder)  # and taken back, with what is put there here
    with pytest.raises(ConfigError, match="--keep: 'nine' fits no convolution or linear layer"):
        quantize(asked)
    (workplace.folder / "data").rename(workplace.folder / "gone")
    try:
        with pytest.raises(DataError, match="data: no such folder"):
            quantize(asked)
    finally:
        (workplace.folder / "gone").rename(workplace.folder / "data")
        sys.modules.pop("network", None)
    assert not list(workplace.folder.glob("*other*.onnx"))


def test_a_run_of_int8_is_evaluated_written_and_exported_as_it_was_trained(
    workplace: Workplace, dense: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = workplace.train("from-dense", 1, *SPLITS, "epochs=2", "model.pretrained=dense", "quantization=int8")
    printed = run(workplace, monkeypatch, "quantize", "from-dense", "--json")
    found = json.loads((trained.root / "quantization-trained.json").read_text())
    assert json.loads(printed[printed.rindex("\n{\n") :]) == found
    result = json.loads(trained.result.read_text())
    assert found["quantized"]["test"]["top1"] == pytest.approx(result["test"]["top1"], abs=0.07)
    assert found["agreement"]["reference"]["same"] >= 0.93
    with training(workplace, "from-dense") as parts:
        best = checkpoint.chosen(trained, "best")
        parts.step_parts.engine.load_network(checkpoint.load_network(best))
        assert parts.evaluate_split("test").value("top1") == result["test"]["top1"]
    printed = run(
        workplace, monkeypatch, "export", "from-dense", "--format", "safetensors", "--output", "w.safetensors"
    )
    assert "trained with quantization int8; here weights are rounded and activations are not" in printed
    exported, latent = load_file(workplace.folder / "w.safetensors"), checkpoint.load_network(best)
    assert not any("bounds" in name for name in exported)
    steps = exported["3.weight"] / exported["3.weight"].abs().flatten(1).amax(1).view(-1, 1, 1, 1) * 127
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert not torch.equal(exported["3.weight"], latent["3.weight"])


def test_a_ternary_run_is_packed_and_its_exports_have_quantized_weights(
    workplace: Workplace, dense: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.train("ternary", 1, *SPLITS, "epochs=1", "model.pretrained=dense", "quantization=ternary")
    run(workplace, monkeypatch, "export", "ternary", "--format", "safetensors", "--output", "t.safetensors")
    printed = run(workplace, monkeypatch, "export", "ternary", "--format", "packed")
    assert "the largest difference is 0 " in printed
    exported = load_file(workplace.folder / "t.safetensors")
    (file,) = (workplace.folder / "ternary/exports").iterdir()
    unpacked = packed_file.unpacked(file)
    assert all(torch.equal(tensor, unpacked[name]) for name, tensor in exported.items())
    assert all(len(channel.unique()) <= 3 for channel in exported["3.weight"])
    again = CliRunner().invoke(app, ["launch", "recipe.yaml", "model.pretrained=ternary"])
    assert again.exit_code == 2
    assert "was trained with quantization ternary, and the weights in its checkpoints are those before" in again.output
