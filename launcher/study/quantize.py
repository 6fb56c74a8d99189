"""`megabatch quantize`: finds the run, has a process with torch write and measure the file, and shows both networks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.quantization import Int8
from megabatch.configs.run_dir import CHECKPOINT_PREFIX, RunDir
from megabatch.launcher.command import child_environment
from megabatch.launcher.export import require_packages
from megabatch.launcher.save_job import find_run, saved_job
from megabatch.launcher.study.process import StudyFailedError
from megabatch.launcher.supervise import Ending, ExitCode

TRAINED = "trained"


class Asked(NamedTuple):
    """What the command was asked for; None where it is to choose."""

    name: str | None
    samples: int | None
    calibration: str | None
    keep: list[str]
    checkpoint: str
    raw: bool
    output: Path | None


def quantize(which: str, asked: Asked, say: Callable[[str], None]) -> dict[str, Any]:
    """Write a quantized network of a run and return what was measured. Raises ConfigError and StudyFailedError."""
    require_packages("onnx", "megabatch quantize")
    run_dir = find_run(which, None)
    job = saved_job(run_dir)
    if not any(run_dir.checkpoints.glob(f"{CHECKPOINT_PREFIX}*/manifest.json")):
        raise ConfigError([Problem(which, "has no checkpoint yet: train it first (megabatch launch)")])
    if asked.raw and job.recipe.averaging is None:
        raise ConfigError([Problem("--raw", f"the recipe of {run_dir.root} has no averaging: leave it out")])
    name = _name(asked, job, run_dir)
    say("the file is written, and both networks evaluated on the whole splits: a minute or more")
    done = subprocess.run(
        _command(run_dir, name, asked), capture_output=True, text=True, check=False, env=child_environment(job)
    )
    if done.returncode != 0:
        raise StudyFailedError(Ending(ExitCode.FAILED, f"the network could not be quantized:\n{done.stderr.strip()}"))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise StudyFailedError(Ending(ExitCode(found["code"]), found["error"]))
    (run_dir.root / f"quantization-{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _name(asked: Asked, job: Job, run_dir: RunDir) -> str:
    """Return what is to be done: what was trained for 8 bits has its ranges already."""
    is_trained = isinstance(job.recipe.quantization, Int8)
    name = asked.name or (TRAINED if is_trained else "static")
    if is_trained and name != TRAINED:
        problem = f"{run_dir.root} was trained with quantization int8, so its ranges are known: --name trained"
        raise ConfigError([Problem(f"--name {name}", problem)])
    if name == TRAINED and not is_trained:
        problem = (
            f"{run_dir.root} was not trained with quantization int8: --name static, or train it so "
            "(docs/quantization.md)"
        )
        raise ConfigError([Problem("--name trained", problem)])
    for option, value in (("--samples", asked.samples), ("--calibration", asked.calibration)):
        if value is not None and name != "static":
            raise ConfigError([Problem(option, f"is for --name static; {name} looks at no samples: leave it out")])
    if name == TRAINED and asked.keep:
        raise ConfigError([Problem("--keep", "what stays in full precision was decided in the training: leave it out")])
    return name


def _command(run_dir: RunDir, name: str, asked: Asked) -> list[str]:
    optional = {"--samples": asked.samples, "--calibration": asked.calibration}
    if asked.output is not None:
        optional["--output"] = str(asked.output.absolute())
    return [
        sys.executable, "-m", "megabatch.trainer.quantization", str(run_dir.root), name,
        "--checkpoint", asked.checkpoint, "--weights", "raw" if asked.raw else "averaged",
        *(f"{option}={value}" for option, value in optional.items() if value is not None),
        *(f"--keep={pattern}" for pattern in asked.keep),
    ]  # fmt: skip


def rows(found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return what is printed: what, in float32, quantized, and the difference or the ratio."""
    whole, small, metric = found["fp32"], found["quantized"], found["metric"]
    measured = [
        (f"{split} {name}", f"{whole[split][name]:.4f}", f"{small[split][name]:.4f}",
         f"{small[split][name] - whole[split][name]:+.4f}")
        for split in found["splits"] for name in _metrics(whole[split], metric)
    ]  # fmt: skip
    sizes = [("bytes", "bytes", "{:,.0f}"), ("1 image, ms", "milliseconds_1", "{:.3f}"),
             ("32 images, ms", "milliseconds_32", "{:.2f}")]  # fmt: skip
    return measured + [
        (title, shown.format(whole[key]), shown.format(small[key]), f"x {small[key] / whole[key]:.2f}")
        for title, key, shown in sizes
    ]


def _metrics(values: dict[str, float], metric: str) -> list[str]:
    """Return the metric of the recipe; where that is the loss, which files do not have, all there are."""
    return [metric] if metric in values else list(values)


def agreement_lines(found: dict[str, Any]) -> list[str]:
    """Return in words how far the file's predictions are from those it is to compute, and from float32."""
    others = {"reference": found["reference"], "fp32": "float32"}
    return [
        f"{one['same']:.2%} of {one['samples']:,} predictions on {one['split']} are those of {others[name]}; outputs "
        f"differ by {one['mean_difference']:.2g} on average, {one['difference']:.2g} at most, and are up to "
        f"{one['largest']:.3g}"
        for name, one in found["agreement"].items()
    ]
