"""`python -m megabatch.trainer.export RUN_DIR FORMAT ...`: writes a network, reads it back, prints one line of JSON.

The launcher runs this in a process of its own. What was written gets its name only when its predictions were compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.data.errors import DataError
from megabatch.trainer import checkpoint
from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.export.card import Card, card_of
from megabatch.trainer.export.compare import TOLERANCE, compare, images_of
from megabatch.trainer.export.files import default_target, hidden_beside, require_new
from megabatch.trainer.export.formats import Format, Predict, format_of
from megabatch.trainer.export.network import plain_network_of, trained_network_of
from megabatch.trainer.outputs import read_outputs
from megabatch.trainer.pruning.plan import plan_of


def main() -> int:
    """Print what was written, or why nothing was; the exit code is 0 either way."""
    parser = argparse.ArgumentParser(prog="python -m megabatch.trainer.export", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("format")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--weights", choices=["averaged", "raw"], default="averaged")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    try:
        found = export(
            RunDir(arguments.run_dir), arguments.format, arguments.checkpoint, arguments.weights, arguments.output
        )
    except (ConfigError, DataError) as error:
        found = {"error": str(error), "code": 2}
    except (TrainingError, OSError) as error:
        found = {"error": str(error), "code": 1}
    print(json.dumps(found))
    return 0


def export(run_dir: RunDir, format_name: str, which: str, weights: str, output: Path | None) -> dict[str, Any]:
    """Write a checkpoint's network and return what was written. Raises ConfigError, DataError or TrainingError."""
    job, used = read_job(run_dir.job), format_of(format_name)
    sys.path.insert(0, job.working_folder)
    torch.set_num_threads(job.cluster.threads_per_process)
    folder = checkpoint.chosen(run_dir, which)
    averaged = weights == "averaged" and checkpoint.read_state(folder)["training"]["average_updates"] > 0
    kind: Literal["averaged", "raw"] = "averaged" if averaged else "raw"
    card = card_of(job, read_outputs(run_dir, job), folder.name, kind, plan_of(job, run_dir))
    used.refuse(card)
    name = ("-raw" if weights == "raw" else "") + ("-packed" if format_name == "packed" else "")
    target = output or default_target(run_dir, card, name, used.SUFFIX)
    require_new(target, used.SUFFIX)
    build = trained_network_of if format_name == "packed" else plain_network_of
    network = build(card, checkpoint.load_network(folder, averaged))
    images = images_of(job)
    with hidden_beside(target) as hidden:
        found = compare(network, _written(used, network, card, hidden), images.images_NCHW)
        hidden.rename(target)
    return {
        "output": str(target),
        "bytes": sum(file.stat().st_size for file in (target, *target.glob("*")) if file.is_file()),
        "checkpoint": card.checkpoint,
        "weights": card.weights,
        "trained_in": card.trained_in,
        "quantization": card.quantization["name"] if card.quantization is not None else None,
        "images": images.origin,
        "tolerance": TOLERANCE,
        **found._asdict(),
    }


def _written(used: Format, network: nn.Module, card: Card, target: Path) -> Predict:
    """Return what predicts as the file does. Raises TrainingError."""
    try:
        used.write(network, card, target)
        return used.read(target)
    except TrainingError:
        raise
    except Exception as error:  # disks fill up, and each library has exceptions of its own
        raise TrainingError(f"{target.parent}: cannot be written to and read back: {first_line(error)}") from error


if __name__ == "__main__":
    sys.exit(main())
