"""`megabatch export`: finds the run, and has a process with torch write its network and read it back."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from megabatch.configs.errors import ConfigError, Problem
from megabatch.launcher.command import child_environment
from megabatch.launcher.save_job import find_run, saved_job
from megabatch.launcher.study.process import StudyFailedError
from megabatch.launcher.supervise import Ending, ExitCode

_NEEDS = {"onnx": ("onnx", "onnxruntime", "onnxscript")}


def export(which: str, format_name: str, checkpoint: str, raw: bool, output: Path | None) -> dict[str, Any]:
    """Write a network of a run and return what the process found. Raises ConfigError and StudyFailedError."""
    require_packages(format_name, f"--format {format_name}")
    run_dir = find_run(which, None)
    job = saved_job(run_dir)
    if raw and job.recipe.averaging is None:
        raise ConfigError([Problem("", f"{run_dir.root}: the recipe has no averaging: leave out --raw")])
    command = [
        sys.executable, "-m", "megabatch.trainer.export", str(run_dir.root), format_name,
        "--checkpoint", checkpoint, "--weights", "raw" if raw else "averaged",
        *([] if output is None else ["--output", str(output.absolute())]),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment(job))
    if done.returncode != 0:
        raise StudyFailedError(Ending(ExitCode.FAILED, f"the network could not be exported:\n{done.stderr.strip()}"))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise StudyFailedError(Ending(ExitCode(found["code"]), found["error"]))
    return found


def require_packages(extra: str, what: str) -> None:
    """Raise ConfigError, about what was asked for, if packages of an extra are missing."""
    missing = [name for name in _NEEDS.get(extra, ()) if find_spec(name) is None]
    if missing:
        raise ConfigError([Problem(what, f"needs {', '.join(missing)}: pip install 'megabatch[{extra}]'")])
