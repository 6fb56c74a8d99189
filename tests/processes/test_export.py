"""`megabatch export` as a user runs it: a network of one's own, and every mistake in one line without a traceback."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors import safe_open

from megabatch.configs.errors import ConfigError
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import export
from megabatch.launcher.command import rank_command
from support.runs import Workplace, environment

pytestmark = pytest.mark.processes
WAYWARD = """
import torch
from torch import nn

class Wayward(nn.Module):
    '''Looks at its values, as no graph can.'''
    def __init__(self, num_classes):
        super().__init__()
        self.out = nn.Linear(3, num_classes)

    def forward(self, images):
        mean = images.mean(dim=(2, 3))
        return self.out(mean if float(mean.abs().sum()) > 1e9 else mean + 1)
"""


def trained(workplace: Workplace, name: str, *overrides: str) -> RunDir:
    """Train with one rank, without torchrun."""
    run_dir = workplace.job(name, 1, *overrides)
    subprocess.run(rank_command(run_dir.job), cwd=workplace.folder, env=environment(), capture_output=True, check=True)
    return run_dir


@pytest.fixture(scope="module")
def run(workplace: Workplace) -> RunDir:
    return trained(workplace, "to-export", "precision=bf16")


def test_a_network_of_ones_own_becomes_a_file_that_needs_none_of_its_code(workplace: Workplace, run: RunDir) -> None:
    done = workplace.megabatch("export", "to-export", "--format", "onnx", "--output", "mine.onnx")
    assert done.returncode == 0, done.stderr
    network, precision, written, compared = done.stdout.splitlines()
    assert network == "network:   step-00000006"
    assert precision.strip() == "trained in bf16; as exported it computes in float32"
    file = workplace.folder / "mine.onnx"
    assert written == f"written:   {file}, {file.stat().st_size:,} bytes"
    assert compared.startswith("read back: the largest difference is ")
    assert compared.endswith("(0.0001 of that is allowed), on 32 samples of train")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert session.run(None, {"images": torch.zeros(7, 3, 8, 8).numpy()})[0].shape == (7, 3)


def test_a_network_that_no_graph_can_have_is_told_with_what_can(workplace: Workplace) -> None:
    (workplace.folder / "wayward.py").write_text(WAYWARD)
    trained(workplace, "wayward", "model.name=wayward:Wayward", "epochs=1")
    done = workplace.megabatch("export", "wayward", "--format", "exported-program")
    assert done.returncode == 1
    assert done.stderr.startswith("error: torch.export cannot capture this network for any number of images: ")
    assert done.stderr.rstrip().endswith("Instead: --format safetensors, which has the weights alone")
    assert not list((workplace.folder / "wayward" / "exports").glob("*"))
    done = workplace.megabatch("export", "wayward", "--format", "safetensors", "--output", "w.safetensors")
    assert done.returncode == 0, done.stderr
    with safe_open(workplace.folder / "w.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["megabatch"])["model"]["name"] == "wayward:Wayward"


def test_mistakes_are_told_in_a_line(workplace: Workplace, run: RunDir) -> None:
    mistakes = {
        ("nowhere", "--format", "onnx"): "error: nowhere: is no run folder: it has no job.yaml.",
        (
            "to-export",
            "--format",
            "onx",
        ): "'onx' is not one of 'safetensors', 'torchscript', 'onnx', 'exported-program'",
        ("to-export", "--format", "onnx", "--raw"): "the recipe has no averaging: leave out --raw",
        ("to-export", "--format", "timm"): "error: --format timm: model network:small is none of timm's",
    }
    for arguments, told in mistakes.items():
        done = workplace.megabatch("export", *arguments)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr
    absent = workplace.megabatch("export", "to-export", "--format", "onnx", "--checkpoint", "77")
    assert absent.returncode == 1
    assert "has no checkpoint '77': write best, last, or the step of one of" in absent.stderr


def test_a_missing_extra_is_named(workplace: Workplace, monkeypatch: pytest.MonkeyPatch, run: RunDir) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"--format onnx: needs onnxscript: pip install 'megabatch\[onnx\]'"):
        export.export(str(run.root), "onnx", "best", raw=False, output=Path("x.onnx"))
