"""What `megabatch quantize` refuses before anything starts, and what it prints; all of it without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.quantization import Levels, Ternary, has_zero, quantization_of
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import export
from megabatch.launcher.prepare import job_of
from megabatch.launcher.quantization import require_quantization
from megabatch.launcher.save_job import write_job
from megabatch.launcher.study.quantize import Asked, agreement_lines, quantize, rows

NOTHING = Asked(None, None, None, [], "best", False, None)


def job(tmp_path: Path, source: str | None, *overrides: str) -> Job:
    """Return a job that begins with the checkpoint of a run that was quantized like this."""
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"recipe": {"quantization": {"name": source} if source else None}}))
    loaded = load("digits", "laptop", ["model.pretrained=run/checkpoints/step-00000001", *overrides])
    return job_of(loaded).model_copy(update={"working_folder": str(tmp_path)})


def test_weights_behind_quantized_ones_are_no_weights_of_a_recipe_without(tmp_path: Path) -> None:
    wanted = job(tmp_path, "ternary")
    told = (
        "quantization: run/checkpoints/step-00000001 was trained with quantization ternary, .* Write quantization: "
        "ternary to train on, or model.pretrained=run/checkpoints/step-00000001/model.safetensors"
    )
    with pytest.raises(ConfigError, match=told):
        require_quantization(wanted)
    require_quantization(wanted.model_copy(update={"data_fingerprint": "begun"}))


@pytest.mark.parametrize(
    ("source", "overrides"),
    [
        (None, ()),
        (None, ("quantization=int8",)),
        ("ternary", ("quantization=binary",)),
        ("ternary", ("model.pretrained=run/checkpoints/step-00000001/model.safetensors",)),
        ("ternary", ("model.pretrained=null",)),
    ],
)
def test_what_fits_is_not_refused(tmp_path: Path, source: str | None, overrides: tuple[str, ...]) -> None:
    require_quantization(job(tmp_path, source, *overrides))


@pytest.mark.parametrize(
    ("overrides", "asked", "told"),
    [
        (
            (),
            {"name": "trained"},
            "--name trained: .* was not trained with quantization int8: --name static, or train it",
        ),
        (("quantization=int8",), {"name": "static"}, "--name static: .* so its ranges are known: --name trained"),
        (("quantization=int8",), {"keep": ["0"]}, "--keep: what stays in full precision was decided in the training"),
        ((), {"name": "dynamic", "samples": 5}, "--samples: is for --name static; dynamic looks at no samples"),
        ((), {"name": "weights-int4", "calibration": "entropy"}, "--calibration: is for --name static"),
        ((), {"raw": True}, "--raw: the recipe of .* has no averaging"),
    ],
)
def test_options_that_have_no_part_are_refused(
    tmp_path: Path, overrides: tuple[str, ...], asked: dict[str, Any], told: str
) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.checkpoint(1).mkdir(parents=True)
    (run_dir.checkpoint(1) / "manifest.json").write_text("{}")
    write_job(job_of(load("digits", "laptop", overrides)), run_dir.job)
    with pytest.raises(ConfigError, match=told):
        quantize(str(run_dir.root), NOTHING._replace(**asked), print)


def test_a_run_without_a_checkpoint_and_missing_packages_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    write_job(job_of(load("digits", "laptop")), run_dir.job)
    with pytest.raises(ConfigError, match="run: has no checkpoint yet: train it first"):
        quantize(str(run_dir.root), NOTHING, print)
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ConfigError, match=r"megabatch quantize: needs onnxruntime: pip install 'megabatch\[onnx\]'"):
        quantize(str(run_dir.root), NOTHING, print)


def test_the_table_has_differences_of_metrics_and_ratios_of_sizes() -> None:
    def of(top1: float, size: float) -> dict[str, Any]:
        return {"test": {"top1": top1, "top5": 0.9}, "bytes": size, "milliseconds_1": size, "milliseconds_32": size}

    one = {"same": 0.999, "samples": 1000, "split": "test", "mean_difference": 0.01, "difference": 0.2, "largest": 5.0}
    found = {"splits": ["test"], "metric": "top1", "fp32": of(0.8, 4000), "quantized": of(0.79, 1000),
             "reference": "the same file, not optimized", "agreement": {"reference": one, "fp32": one}}  # fmt: skip
    assert rows(found)[0] == ("test top1", "0.8000", "0.7900", "-0.0100")
    assert ("bytes", "4,000", "1,000", "x 0.25") in rows(found)
    assert [row[0] for row in rows({**found, "metric": "loss"})[:2]] == ["test top1", "test top5"]
    assert agreement_lines(found)[1].startswith(
        "99.90% of 1,000 predictions on test are those of float32; outputs differ"
    )


def test_settings_are_read_back_from_json_and_tell_whether_they_have_a_zero() -> None:
    for settings in (Ternary(keep=("a", "b")), Levels(count=4)):
        assert quantization_of(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings
    kinds = [{"name": "int8"}, {"name": "binary"}, {"name": "ternary"}, {"name": "levels", "count": 4},
             {"name": "levels", "count": 5}]  # fmt: skip
    assert [has_zero(quantization_of(values)) for values in kinds] == [True, False, True, False, True]
