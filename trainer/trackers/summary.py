"""What is known of a run at its end, by the names that trackers show: the best evaluation, and how it ended."""

from __future__ import annotations

import json
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.configs.targets import is_better


def summary(job: Job, run_dir: RunDir) -> dict[str, Any]:
    """Return best/step, best/NAME for each number of the best validation, and the outcome where the run has one.

    The last value of everything is known to a tracker without this.
    """
    result = json.loads(run_dir.result.read_text(encoding="utf-8")) if run_dir.result.exists() else {}
    known = {"outcome": result["outcome"]} if "outcome" in result else {}
    best = _best_evaluation(job, run_dir, result.get("best_step"))
    if best is None:
        return known
    left_out = ("kind", "attempt", "time", "split", "samples", "skipped_samples")
    return known | {f"best/{name}": value for name, value in best.items() if name not in left_out}


def _best_evaluation(job: Job, run_dir: RunDir, known_step: int | None) -> dict[str, Any] | None:
    """Return the line of the best validation: of the step that the training took for it, if it has ended."""
    if not run_dir.metrics.exists():
        return None
    metric, split = job.recipe.metric, job.recipe.data.validation_split
    best: dict[str, Any] | None = None
    for line in read_metrics(run_dir.metrics, "evaluation"):
        if line["split"] != split or (known_step is not None and line["step"] != known_step):
            continue
        if best is None or is_better(line[metric], best[metric], metric):
            best = line
    return best
