"""A tracker of your own: a CSV file with a line for each epoch, for a spreadsheet."""

import csv
from collections.abc import Iterator
from typing import Any

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir

COLUMNS = ("epoch", "train_loss", "validation_loss", "validation_top1", "samples_per_second")


def table(job: Job, run_dir: RunDir, lines: Iterator[dict[str, Any]]) -> None:
    """Write RUN_DIR/epochs.csv as the lines of metrics.jsonl come in; the loop ends with the training."""
    losses: list[float] = []
    speeds: list[float] = []
    epoch = 0
    with (run_dir.root / "epochs.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for line in lines:
            if line["kind"] == "step" and line["loss"] is not None:  # None where it was not finite
                losses.append(line["loss"])
                speeds.append(line["samples_per_second"])
                epoch = line["epoch"] + 1
            elif line["kind"] == "evaluation" and line["split"] == job.recipe.data.validation_split and losses:
                means = (sum(losses) / len(losses), line["loss"], line["top1"], sum(speeds) / len(speeds))
                rows.writerow([epoch, *(f"{mean:.4f}" for mean in means)])
                file.flush()
                losses, speeds = [], []
