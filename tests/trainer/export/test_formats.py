"""Every format's file, loaded by its own library in a fresh process, predicts real digits as the network does."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from ruamel.yaml import YAML
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

from megabatch.configs.errors import ConfigError
from megabatch.configs.run_dir import RunDir
from megabatch.data.digits import write_digits
from megabatch.data.errors import DataError
from megabatch.data.importer import ImportOptions, import_images
from megabatch.launcher.command import rank_command
from megabatch.trainer import checkpoint
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.export import safetensors_file
from megabatch.trainer.export.__main__ import export
from megabatch.trainer.export.compare import compare
from support.runs import Workplace, environment

pytestmark = pytest.mark.filterwarnings("default")  # torch.onnx and torch.export warn of their own insides
SUFFIXES = {
    "safetensors": ".safetensors",
    "torchscript": ".pt",
    "onnx": ".onnx",
    "exported-program": ".pt2",
    "timm": "",
}
RECIPE = """\
base: digits
epochs: 2
model: {name: timm/test_resnet, options: {drop_rate: 0.1}, batch_norm: {name: ghost, samples: 16}}
averaging: ema
checkpoint: {keep_last: 4}
"""

# Loads every file with the library it is for, and nothing of ours; prints no more than it is asked.
READER = """
import json, sys
import numpy, onnx, onnxruntime, timm, torch
from safetensors import safe_open
from safetensors.torch import load_file

folder, name = sys.argv[1:]
images_NCHW = torch.from_numpy(numpy.load(f"{folder}/images.npy"))
files = {kind: f"{folder}/{name}{suffix}" for kind, suffix in json.load(open(f"{folder}/suffixes.json")).items()}
with safe_open(files["safetensors"], "pt") as opened:
    cards = {"safetensors": opened.metadata()["megabatch"]}
card = json.loads(cards["safetensors"])
network = timm.create_model(card["model"]["name"].removeprefix("timm/"), num_classes=card["outputs"], **card["model"]["options"])
network.load_state_dict(load_file(files["safetensors"]))
extra = {"megabatch.json": ""}
script = torch.jit.load(files["torchscript"], _extra_files=extra)
cards["torchscript"] = extra["megabatch.json"].decode()
extra = {"megabatch.json": ""}
program = torch.export.load(files["exported-program"], extra_files=extra).module()
cards["exported-program"] = extra["megabatch.json"]
onnx.checker.check_model(files["onnx"], full_check=True)
session = onnxruntime.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
cards["onnx"] = session.get_modelmeta().custom_metadata_map["megabatch"]
of_timm = timm.create_model("local-dir:" + files["timm"], pretrained=True)
cards["timm"] = open(files["timm"] + "/megabatch.json").read()
predictors = {
    "safetensors": network.eval(), "torchscript": script, "exported-program": program, "timm": of_timm.eval(),
    "onnx": lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
}
outputs = {}
with torch.no_grad():
    for kind, predict in predictors.items():
        outputs[kind] = torch.cat([predict(images_NCHW[:1]), predict(images_NCHW[1:6]), predict(images_NCHW[6:])]).numpy()
assert not any(module.startswith("megabatch") for module in sys.modules)
numpy.savez(f"{folder}/outputs.npz", **outputs)
json.dump({"cards": cards, "timm": timm.data.resolve_model_data_config(of_timm), "labels": of_timm.pretrained_cfg["label_names"]}, open(f"{folder}/read.json", "w"))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDir]:
    """A run on the digits with batch norm and averaged weights; two epochs, so that both are far from a new network."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "images")
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    import_images(
        folder / "images", folder / "data" / "digits", ImportOptions(fractions=shares), lambda done, total: None
    )
    (folder / "recipe.yaml").write_text(RECIPE)
    path, threads = list(sys.path), torch.get_num_threads()
    run_dir = Workplace(folder).job("run", 1)
    # In a process of its own, as training sets global switches of torch that torch.export stumbles over.
    subprocess.run(rank_command(run_dir.job), cwd=folder, env=environment(), check=True, capture_output=True)
    yield run_dir
    sys.path[:] = path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exported(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All formats of the last checkpoint, and what a fresh process got out of them."""
    folder = tmp_path_factory.mktemp("exported")
    found = {
        name: export(run, name, "last", "averaged", folder / f"digits{suffix}") for name, suffix in SUFFIXES.items()
    }
    np.save(folder / "images.npy", real_digits())
    (folder / "suffixes.json").write_text(json.dumps(SUFFIXES))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, str(folder), "digits"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs = np.load(folder / "outputs.npz")
    return {"folder": folder, "found": found, "outputs": outputs, **json.loads((folder / "read.json").read_text())}


def real_digits() -> NDArray[np.float32]:
    """Real digits as the network sees them, computed without any of our code: see the recipe's normalize."""
    grey_NHW = np.round(load_digits().images[:40] * (255 / 16))
    return np.repeat((((grey_NHW / 255) - 0.305) / 0.376)[:, None], 3, axis=1).astype(np.float32)


def network_of(run: RunDir, averaged: bool) -> nn.Module:
    network: nn.Module = timm.create_model("test_resnet", num_classes=10)
    network.load_state_dict(checkpoint.load_network(checkpoint.chosen(run, "last"), averaged))
    return network.eval()


@torch.no_grad()
def predicted(network: nn.Module) -> NDArray[np.float32]:
    return network(torch.from_numpy(real_digits())).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SUFFIXES)
def test_a_fresh_process_without_megabatch_predicts_the_same_digits(
    run: RunDir, exported: dict[str, Any], name: str
) -> None:
    averaged, raw = (predicted(network_of(run, averaged)) for averaged in (True, False))
    assert np.abs(averaged - raw).max() > 0.01  # so that the wrong ones would be noticed
    np.testing.assert_allclose(exported["outputs"][name], averaged, rtol=0, atol=1e-5 * np.abs(averaged).max())
    assert (exported["outputs"][name].argmax(axis=1) == averaged.argmax(axis=1)).all()


@pytest.mark.parametrize("name", SUFFIXES)
def test_every_file_has_what_is_needed_to_use_it(exported: dict[str, Any], name: str) -> None:
    card = json.loads(exported["cards"][name])
    assert card["names"] == [str(digit) for digit in range(10)]
    assert (card["image_size"], card["outputs"], card["weights"]) == (8, 10, "averaged")
    assert card["normalize"] == {"name": "fixed", "mean": [0.305] * 3, "std": [0.376] * 3}
    assert card["model"]["name"] == "timm/test_resnet"
    assert card["model"]["options"] == {"drop_rate": 0.1}
    assert card["checkpoint"] == "step-00000012"


def test_timm_knows_size_scaling_and_classes(exported: dict[str, Any]) -> None:
    expected = {
        "input_size": [3, 8, 8],
        "interpolation": "bilinear",
        "mean": [0.305] * 3,
        "std": [0.376] * 3,
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    assert exported["timm"] == expected
    assert exported["labels"] == [str(digit) for digit in range(10)]
    assert (exported["folder"] / "digits" / "config.json").exists()


def test_what_was_compared_is_told(exported: dict[str, Any]) -> None:
    for name, found in exported["found"].items():
        assert found["images"] == "32 samples of validation"
        assert found["difference"] <= found["tolerance"] * found["largest"]
        assert (found["difference"] == 0) == (name != "onnx")  # the others run the same kernels of torch


@pytest.mark.parametrize("name", ["digits.pt", "digits.pt2"])
def test_archives_have_no_pickle_that_python_would_load(exported: dict[str, Any], name: str) -> None:
    """TorchScript's own are read by its C++ reader, which makes tensors and no Python objects."""
    with zipfile.ZipFile(exported["folder"] / name) as archive:
        starts = {entry: archive.read(entry)[:2] for entry in archive.namelist()}
    pickles = [entry for entry, start in starts.items() if start in (b"\x80\x02", b"\x80\x04", b"PK")]
    assert all(name == "digits.pt" and entry.endswith((".pkl", ".debug_pkl")) for entry in pickles)


def test_raw_weights_and_a_step_are_what_is_asked_for(run: RunDir, tmp_path: Path) -> None:
    found = export(run, "safetensors", "last", "raw", None)
    assert found["output"] == str(run.exports / "digits-step-00000012-raw.safetensors")
    state = load_file(found["output"])
    assert all(
        torch.equal(state[name], tensor) for name, tensor in network_of(run, averaged=False).state_dict().items()
    )
    first = export(run, "safetensors", "6", "averaged", tmp_path / "six.safetensors")
    assert first["checkpoint"] == "step-00000006"


def test_without_the_data_random_images_are_compared_and_the_classes_stay(run: RunDir, tmp_path: Path) -> None:
    text = run.job.read_text()
    try:
        run.job.write_text(text.replace("path: data/digits", "path: data/gone"))
        found = export(run, "safetensors", "last", "averaged", tmp_path / "a.safetensors")
        assert found["images"].startswith("32 random images, as the data cannot be read (")
        run.outputs.rename(tmp_path / "outputs.json")
        with pytest.raises(
            DataError, match=r"has no outputs.json, and the classes cannot be read from data/gone: .*Put the data back"
        ):
            export(run, "safetensors", "last", "averaged", tmp_path / "b.safetensors")
        run.job.write_text(text)
        export(run, "safetensors", "last", "averaged", tmp_path / "c.safetensors")
    finally:
        run.job.write_text(text)
        if not run.outputs.exists():
            (tmp_path / "outputs.json").rename(run.outputs)
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "name: megabatch.trainer.models.convnet:convnet",
            "is none of timm's, so timm cannot build it. Instead: --format safetensors",
        ),
        ("activation: {name: gelu}", "model.activation changes timm's test_resnet, and config.json cannot say so"),
        ("replace_batch_norm: {name: layer_norm}", "model.replace_batch_norm changes timm's test_resnet"),
        ("normalize: {name: per_image, channels: together}", "timm scales pixels with a fixed mean and deviation"),
    ],
)
def test_what_timms_folder_cannot_say_is_refused(run: RunDir, tmp_path: Path, change: str, told: str) -> None:
    key, _, value = change.partition(": ")
    values = YAML(typ="safe").load(run.job)
    values["recipe"]["data" if key == "normalize" else "model"][key] = YAML(typ="safe").load(value)
    values["recipe"]["model"]["batch_norm"] = None
    text = run.job.read_text()
    try:
        with run.job.open("w") as opened:
            YAML(typ="safe").dump(values, opened)
        with pytest.raises(ConfigError, match=told):
            export(run, "timm", "last", "averaged", tmp_path / "folder")
    finally:
        run.job.write_text(text)


def test_a_target_that_exists_or_has_another_ending_is_left_alone(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_text("mine")
    with pytest.raises(ConfigError, match="exists: choose another --output, or remove it"):
        export(run, "onnx", "last", "averaged", tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"the name of such a file ends in \.onnx"):
        export(run, "onnx", "last", "averaged", tmp_path / "mine.bin")


def test_a_file_that_predicts_otherwise_is_not_left_behind(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = safetensors_file.read
    monkeypatch.setattr(safetensors_file, "read", lambda target: lambda images: read(target)(images) * 1.001)
    with pytest.raises(TrainingError, match=r"predicts other numbers than the network: they differ by .* is allowed"):
        export(run, "safetensors", "last", "averaged", tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


class Fixed(nn.Module):
    """Has the size of its batch in its code, so that tracing keeps that of the example."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(int(images.shape[0]), 192)[:, :10]


def test_a_traced_network_that_takes_one_batch_size_only_is_noticed(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megabatch.trainer.export.__main__.plain_network_of", lambda card, tensors: Fixed())
    with pytest.raises(TrainingError, match=r"does not predict 32 images: .*Instead: another --format"):
        export(run, "torchscript", "last", "averaged", tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_told(run: RunDir, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 250 + ".safetensors")
    with pytest.raises((TrainingError, OSError), match=r"cannot be written|too long"):
        export(run, "safetensors", "last", "averaged", long)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_no_match(wrong: float) -> None:
    images = torch.ones(3, 2)
    with pytest.raises(TrainingError, match="predicts other numbers"):
        compare(lambda x: x, lambda x: x * wrong, images)
    with pytest.raises(TrainingError, match=r"have shape \(3, 1\), not \(3, 2\)"):
        compare(lambda x: x, lambda x: x[:, :1], images)
