"""ablate, tune and soup as a user runs them, with real ranks underneath."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from typing import Any

import pytest
import torch

from megabatch.configs.metrics import read_metrics
from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.soup import mean_of
from support.runs import Workplace, losses, steps_done

pytestmark = pytest.mark.processes
ONE_RANK = ("cluster.processes_per_node=1", "tracking.sample_log=false")
SPLITS = ("data.validation_split=validation", "data.test_split=test")
MATRIX = ("recipe.yaml", *ONE_RANK, *SPLITS, "epochs=20", "checkpoint.every_steps=4", "--seeds", "1",
          "--vary", "regularization.label_smoothing=0|0.1", "--vary", "optimizer.base_learning_rate=1e30",
          "--folder", "study")  # fmt: skip

HUNGRY = """
import torch
from torch import nn

class Hungry(nn.Module):
    '''Keeps 24 MiB of activations for each image.'''
    def __init__(self, num_classes):
        super().__init__()
        self.scale, self.out = nn.Parameter(torch.ones(1)), nn.Linear(3, num_classes)

    def forward(self, images):
        wide = images.mean(dim=(2, 3)).repeat(1, 1 << 20) * self.scale
        return self.out(wide.exp().view(len(images), 1 << 20, 3).mean(dim=1))
"""


def kill_all(pid: int) -> None:
    """Kill -9 a command and everything it started."""
    for process in [pid, *descendants(pid)]:
        os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def ablated(workplace: Workplace) -> dict[str, Any]:
    """An ablation whose second run was killed with kill -9 in the midst, then gone on with; the third cannot succeed."""
    root = workplace.folder / "study" / "runs"
    command = workplace.popen("ablate", *MATRIX)
    deadline = time.monotonic() + 300
    while not (second := [run for run in root.glob("regularization*/seed-0") if steps_done(RunDir(run)) >= 20]):
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    kill_all(command.pid)
    command.wait()
    before = (root / "base/seed-0/result.json").stat().st_mtime_ns
    done = workplace.megabatch("ablate", *MATRIX)
    assert done.returncode == 1, done.stderr
    return {"done": done, "base": RunDir(root / "base/seed-0"), "killed": RunDir(second[0]), "before": before}


def test_after_kill_9_finished_cells_stay_and_the_interrupted_one_goes_on(
    workplace: Workplace, ablated: dict[str, Any]
) -> None:
    base, killed = ablated["base"], ablated["killed"]
    assert "3 cells x 1 seeds = 3 runs, 2,640 samples in all; 1 finished already" in ablated["done"].stdout
    assert "regularization.label_smoothing=0.1 is what the base has already: no run" in ablated["done"].stdout
    assert base.result.stat().st_mtime_ns == ablated["before"]
    attempts = [line["attempt"] for line in read_metrics(killed.metrics, "step")]
    assert (attempts[0], attempts[-1], len(attempts)) == (1, 2, 60)
    overrides = (*ONE_RANK[1:], *SPLITS, "epochs=20", "regularization.label_smoothing=0")
    assert losses(killed) == losses(workplace.train("uninterrupted", 1, *overrides))


def test_the_reports_have_the_numbers_of_the_runs(workplace: Workplace, ablated: dict[str, Any]) -> None:
    folder = workplace.folder / "study"
    with (folder / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["cell"], row["seed"], row["status"]) for row in rows] == [
        ("base", "0", "finished"),
        ("regularization.label_smoothing=0", "0", "finished"),
        ("optimizer.base_learning_rate=1e30", "0", rows[2]["status"]),
    ]
    assert rows[2]["status"].startswith("failed: rank 0")
    assert rows[2]["test_top1"] == ""
    assert "error: optimizer.base_learning_rate=1e30, seed 0: rank 0" in ablated["done"].stderr
    for row, run in zip(rows[:2], (ablated["base"], ablated["killed"]), strict=True):
        result = json.loads(run.result.read_text())
        assert float(row["test_top1"]) == result["test"]["top1"]
        assert float(row["validation_top1"]) == result["best_value"]
    cells = json.loads((folder / "ablation.json").read_text())["cells"]
    difference = float(rows[1]["test_top1"]) - float(rows[0]["test_top1"])
    assert cells[1]["effects"]["test"]["differences"] == [difference]
    assert f"{100 * difference:+.2f}, unclear" in (folder / "ablation.html").read_text()


def test_an_ablation_is_refused_before_anything_runs(workplace: Workplace, ablated: dict[str, Any]) -> None:
    changed = workplace.megabatch("ablate", *MATRIX, "epochs=21")
    assert changed.returncode == 2
    assert (
        "cell base was begun with epochs 20, which is 21 now. Runs of two recipes cannot be compared" in changed.stderr
    )
    vary = ("--vary", "batch.micro_batch=40", "--vary", "model.name=network:none", "--vary", "optimizer.momentum=2")
    wrong = workplace.megabatch("ablate", "recipe.yaml", *SPLITS, *vary, "--folder", "wrong")
    assert wrong.returncode == 2
    assert "cell batch.micro_batch=40: batch.micro_batch=40 > batch.global_batch=20" in wrong.stderr
    assert "cell optimizer.momentum=2: command line, optimizer.momentum=2" in wrong.stderr
    model = workplace.megabatch("ablate", "recipe.yaml", *SPLITS, *vary[2:4], "--folder", "wrong")
    assert "cell model.name=network:none: model network:none: network has no 'none'" in model.stderr
    blind = workplace.megabatch("ablate", "recipe.yaml", "--vary", "epochs=3", "--folder", "wrong")
    assert "name data.validation_split or data.test_split" in blind.stderr
    assert not (workplace.folder / "wrong").exists()


def test_a_soup_is_a_finished_run_whose_weights_are_the_mean(workplace: Workplace, ablated: dict[str, Any]) -> None:
    runs = [str(ablated[name].root.relative_to(workplace.folder)) for name in ("base", "killed")]
    done = workplace.megabatch("soup", *runs, "--output", "soup", "--batch-norm", "average", "--checkpoint", "last")
    assert done.returncode == 0, done.stderr
    soup = RunDir(workplace.folder / "soup")
    saved = checkpoint.load_network(checkpoint.chosen(soup, "best"))
    networks = [checkpoint.load_network(checkpoint.chosen(ablated[name], "last")) for name in ("base", "killed")]
    for name, tensor in mean_of(networks).items():
        assert torch.equal(saved[name], tensor)
    shown = workplace.megabatch("eval", "soup")
    assert shown.returncode == 0, shown.stderr
    again = json.loads(soup.evaluation("test", "best").read_text())
    result = json.loads(soup.result.read_text())
    assert (again["top1"], again["loss"]) == (result["test"]["top1"], result["test"]["loss"])
    assert "has finished: nothing is left to train" in workplace.megabatch("launch", "--resume", "soup").stdout
    absent = workplace.megabatch("soup", *runs, "--checkpoint", "77", "--output", "absent")
    assert absent.returncode == 1
    assert "has no checkpoint '77': write best, last, or the step of one of step-" in absent.stderr
    assert not [path for path in workplace.folder.iterdir() if "absent" in path.name]
    twice = workplace.megabatch("soup", runs[0], runs[0], "--output", "soup2")
    assert "a run is named twice" in twice.stderr
    there = workplace.megabatch("soup", *runs, "--output", "soup")
    assert "is a run already" in there.stderr


def test_a_greedy_soup_is_no_worse_on_validation_than_its_best_run(
    workplace: Workplace, ablated: dict[str, Any]
) -> None:
    runs = [str(ablated[name].root) for name in ("base", "killed")]
    done = workplace.megabatch("soup", *runs, "--greedy", "--output", "greedy", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads((workplace.folder / "greedy" / "study-result.json").read_text())
    assert found["validation"]["top1"] >= max(one["top1"] for one in found["single_validation"])
    assert found["batch_norm"] == "recompute"
    assert json.loads(done.stdout)["validation"] == found["validation"]


def test_tune_lr_takes_the_steps_of_the_training_and_stops_where_the_loss_is_lost(
    workplace: Workplace, ablated: dict[str, Any]
) -> None:
    before = {path.name for path in workplace.folder.iterdir()}
    done = workplace.megabatch(
        "tune", "lr", "recipe.yaml", *ONE_RANK, "regularization.clip_norm=null", "--low", "1e-4", "--high", "1e12"
    )
    assert done.returncode in (0, 1), done.stderr
    found = json.loads((workplace.folder / "tune" / "tiny-lr.json").read_text())
    assert found["losses"][0] == losses(ablated["base"])[0]
    assert found["ended"] in ("diverged", "not finite")
    assert 10 < len(found["losses"]) < 140
    assert found["rates"][1] / found["rates"][0] == pytest.approx((1e12 / 1e-4) ** (1 / 139))
    if found["safe"]:
        assert f"  optimizer.base_learning_rate={found['safe_base_learning_rate']:g}" in done.stdout
    assert {path.name for path in workplace.folder.iterdir()} - before == {"tune"}


def test_tune_batch_finds_what_fits_under_a_real_memory_limit(workplace: Workplace) -> None:
    (workplace.folder / "hungry.py").write_text(HUNGRY)
    done = workplace.megabatch(
        "tune", "batch", "recipe.yaml", *ONE_RANK, "model.name=hungry:Hungry", "--max", "8", "--seconds", "0",
        "--memory-limit", "160M", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((workplace.folder / "tune" / "tiny-batch.json").read_text())
    fits = {probe["micro_batch"]: probe["fits"] for probe in found["probes"]}
    assert fits[1]
    assert not found["bounded"]
    assert max(size for size, good in fits.items() if good) == found["largest"] < 8
    assert min(size for size, good in fits.items() if not good) == found["largest"] + 1
    assert f"  batch.micro_batch={found['saturated']}" in done.stderr
    assert json.loads(done.stdout)["probes"] == found["probes"]
