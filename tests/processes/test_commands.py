"""launch, Ctrl-C, resume and eval as a user runs them, with real ranks underneath."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from support.disks import fill, small_disk
from support.runs import Workplace, environment, losses, trained_samples, wait_for_step

pytestmark = pytest.mark.processes
LONG = ("epochs=300", "checkpoint.every_epochs=300")


def launch(workplace: Workplace, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from megabatch.launcher.cli import main; main()", "launch", *arguments]
    return subprocess.Popen(
        command, cwd=workplace.folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_every_signal_saves_a_checkpoint_and_resume_goes_on_exactly(workplace: Workplace) -> None:
    """Ctrl-C, then a scheduler's SIGTERM, then a terminal that is gone, each in what the one before left."""
    run_dir = RunDir(workplace.folder / "stopped")
    chosen, starts = ("recipe.yaml", *LONG, "--run-dir", "stopped"), [0]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = launch(workplace, *chosen)
        wait_for_step(run_dir, starts[-1] + 20, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 3, err
        assert "Go on with: megabatch launch --resume stopped" in out
        starts.append(json.loads(run_dir.result.read_text())["step"])
        assert run_dir.checkpoint(starts[-1]).exists()
        chosen = ("--resume", "stopped")
    lines = read_metrics(run_dir.metrics, "step")
    attempts = [[attempt] * (end - start) for attempt, (start, end) in enumerate(itertools.pairwise(starts), 1)]
    assert [line["attempt"] for line in lines] == sum(attempts, [])
    told = [json.loads(text) for text in run_dir.starts.read_text().splitlines()]
    assert [(line["kind"], line["attempt"], line["step"]) for line in told] == [
        (kind, attempt, starts[attempt - (kind == "start")]) for attempt in (1, 2, 3) for kind in ("start", "end")
    ]
    assert {line["outcome"] for line in told[1::2]} == {"stopped"}
    assert [line["from_checkpoint"] for line in told[::2]] == [None, *(run_dir.checkpoint(n).name for n in starts[1:3])]
    reference = workplace.train("not-stopped", 2, *LONG)
    assert losses(run_dir) == losses(reference)[: len(lines)]
    assert trained_samples(run_dir) == trained_samples(reference)[: len(lines)]


def test_a_second_signal_ends_the_ranks_at_once_and_leaves_no_process(workplace: Workplace) -> None:
    run_dir = RunDir(workplace.folder / "impatient")
    process = launch(workplace, "recipe.yaml", *LONG, "--run-dir", "impatient")
    wait_for_step(run_dir, 5, process)
    ranks = descendants(process.pid)
    for rank in ranks[1:]:
        os.kill(rank, signal.SIGSTOP)  # a rank that hangs
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 3
    assert "stopped at once" in err
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{rank}").exists() for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def test_a_rank_killed_from_outside_ends_the_job_with_a_message_how_to_go_on(workplace: Workplace) -> None:
    run_dir = RunDir(workplace.folder / "shot")
    process = launch(workplace, "recipe.yaml", "epochs=300", "checkpoint.every_steps=5", "--run-dir", "shot")
    wait_for_step(run_dir, 12, process)
    os.kill(descendants(process.pid)[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "was killed by SIGKILL: out of memory, or kill -9 from outside; last seen after step" in err
    assert "megabatch launch --resume shot" in err
    assert "Traceback" not in err
    *_, end = (json.loads(text) for text in run_dir.starts.read_text().splitlines())
    assert (end["kind"], end["outcome"]) == ("end", "failed")
    assert re.match(r"rank 1 on \S+ ended before its time", end["cause"])


def test_launch_evaluates_validation_and_test_and_eval_gives_the_same_numbers(workplace: Workplace) -> None:
    splits = ("data.validation_split=validation", "data.test_split=test", "epochs=4")
    done = workplace.megabatch("launch", "recipe.yaml", *splits, "--run-dir", "whole")
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    run_dir = RunDir(workplace.folder / "whole")
    result = json.loads(run_dir.result.read_text())
    assert (result["outcome"], result["test"]["samples"]) == ("finished", 15)
    validations = [line for line in read_metrics(run_dir.metrics, "evaluation") if line["split"] == "validation"]
    assert [line["step"] for line in validations] == [3, 6, 9, 12]
    assert result["best_value"] == max(line["top1"] for line in validations)
    details = json.loads(run_dir.details("test").read_text())
    run_dir.details("test").unlink()
    unknown = workplace.megabatch("eval", "whole", "--split", "tset")
    assert unknown.returncode == 2
    assert "has no split 'tset'" in unknown.stderr
    shown = workplace.megabatch("eval", "whole")
    assert shown.returncode == 0, shown.stderr
    again = json.loads(run_dir.evaluation("test", "best").read_text())
    assert {key: again[key] for key in ("top1", "loss", "samples")} == {
        key: result["test"][key] for key in ("top1", "loss", "samples")
    }
    assert json.loads(run_dir.details("test").read_text()) == details
    assert (details["step"], details["checkpoint"]) == (result["best_step"], "best")
    assert sum(of_class["correct"] for of_class in details["per_class"]) == round(15 * again["top1"])
    assert json.loads(run_dir.details("validation").read_text())["step"] == result["best_step"]
    assert workplace.megabatch("launch", "--resume", "whole").stdout.startswith(f"{run_dir.root} has finished")


def test_evaluation_gives_the_same_numbers_for_any_number_of_ranks_and_micro_batch(workplace: Workplace) -> None:
    splits = ("data.validation_split=validation", "precision=fp64", "epochs=2")
    results = []
    for world, micro_batch in ((1, 256), (2, 4), (3, 1)):
        name = f"evaluated-{world}"
        run_dir = workplace.train(name, world, *splits, f"evaluation.micro_batch={micro_batch}")
        (first, _) = read_metrics(run_dir.metrics, "evaluation")
        assert first["samples"] == 15
        results.append(first)
    for result in results[1:]:
        assert (result["top1"], result["top5"]) == (results[0]["top1"], results[0]["top5"])
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-9)


def test_latest_is_the_newest_run_of_the_recipe(workplace: Workplace) -> None:
    for name, recipe in (("runs/a", "tiny"), ("runs/b", "tiny"), ("runs/c", "other")):
        done = workplace.megabatch("launch", "recipe.yaml", f"name={recipe}", "--dry-run", "--write", name)
        assert done.returncode == 0, done.stderr
    for recipe, expected in (("recipe.yaml", "b"), (None, "c")):
        done = workplace.megabatch("launch", *([recipe] if recipe else []), "--resume", "latest", "--dry-run")
        assert f"runs/{expected}/job.yaml" in done.stdout


def test_a_disk_that_stays_full_ends_the_run_with_a_message_and_leaves_the_checkpoints(workplace: Workplace) -> None:
    many = (*LONG, "checkpoint.every_steps=5", "tracking.sample_log=false")
    with small_disk(workplace.folder / "small-disk") as disk:
        run_dir = RunDir(disk / "run")
        process = launch(workplace, "recipe.yaml", *many, "--run-dir", "small-disk/run")
        deadline = time.monotonic() + 300
        while not run_dir.checkpoint(5).exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        fill(disk)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 1
        assert (
            "Earlier checkpoints are as they were, and the training goes on: failure 1 in a row, number 3 ends" in out
        )
        assert "failure 3 in a row, checkpoint.max_failures allows no more" in out
        assert "Traceback" not in err
        newest, messages = checkpoint.newest(run_dir)
        assert newest is not None
        assert messages == []
        assert not list(run_dir.checkpoints.glob(".*"))


def test_a_run_folder_in_use_is_refused(workplace: Workplace) -> None:
    run_dir = RunDir(workplace.folder / "busy")
    longer = ("epochs=20000", "checkpoint.every_epochs=20000")  # than a second torchrun takes to start and to fail
    process = launch(workplace, "recipe.yaml", *longer, "--run-dir", "busy")
    wait_for_step(run_dir, 2, process)
    job = run_dir.job.read_bytes()
    resumed = workplace.megabatch("launch", "--resume", "busy", "cluster.processes_per_node=1")
    world = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29765"}
    by_hand = subprocess.run(
        [sys.executable, "-m", "megabatch.trainer", str(run_dir.job)],
        cwd=workplace.folder, env={**environment(), **world}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    for second in (resumed, by_hand):
        assert second.returncode == 2
        assert "two jobs must not write to one run folder" in second.stderr
    assert run_dir.job.read_bytes() == job
    assert process.returncode == 3
    assert not run_dir.failures()


def test_resume_refuses_another_recipe_and_other_data(workplace: Workplace) -> None:
    workplace.train("fixed", 1)
    done = workplace.megabatch("launch", "--resume", "fixed", "optimizer.momentum=0.5")
    assert done.returncode == 2
    assert "a run keeps its recipe: only cluster.* and engine can change with --resume" in done.stderr
    job = workplace.folder / "fixed" / "job.yaml"
    job.write_text(job.read_text().replace("momentum: 0.9", "momentum: 0.5"))
    process = workplace.start(RunDir(workplace.folder / "fixed"))
    assert process.wait(timeout=300) == 1
    failure = json.loads((workplace.folder / "fixed" / "logs" / "failure-rank-00000.json").read_text())
    assert "was written by another recipe or with other data" in failure["message"]


def test_a_loss_that_is_not_finite_stops_before_the_update_and_says_where(workplace: Workplace) -> None:
    done = workplace.megabatch(
        "launch", "recipe.yaml", "optimizer={name: sgd, base_learning_rate: 1e30, scaling: none}",
        "regularization.clip_norm=null", "schedule=constant", "--run-dir", "diverged",
    )  # fmt: skip
    assert done.returncode == 1
    assert "before the optimizer update" in done.stderr
    assert "warmup too short" in done.stderr
    assert "Traceback" not in done.stderr


def test_parameters_without_a_gradient_are_told_at_the_start_with_the_remedy(workplace: Workplace) -> None:
    unused = ("launch", "recipe.yaml", "model={name: 'network:Unused'}")
    done = workplace.megabatch(*unused)
    assert done.returncode == 1
    assert "some parameters of the model take no part in its output" in done.stderr
    assert "Traceback" not in done.stderr
    done = workplace.megabatch(*unused, "engine={name: ddp, find_unused_parameters: true}")
    assert done.returncode == 0, done.stderr


@pytest.mark.matrix
def test_a_rank_that_is_stopped_ends_the_job_and_is_named(workplace: Workplace) -> None:
    run_dir = RunDir(workplace.folder / "stalled")
    process = launch(workplace, "recipe.yaml", *LONG, "cluster.limits.silent_seconds=3", "--run-dir", "stalled")
    wait_for_step(run_dir, 5, process)
    os.kill(descendants(process.pid)[-1], signal.SIGSTOP)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert re.search(
        rf"error: rank \d on {socket.gethostname()} has been silent for 3 s .*, last seen after step \d", err
    )
    assert "Traceback" not in err
    assert "Unable to shutdown" not in run_dir.launcher_log.read_text(), "torchrun had to wait for the stopped rank"


def test_a_broken_image_is_told_with_shard_and_sample(workplace: Workplace, tmp_path: Path) -> None:
    from megabatch.data.tar_index import read_index
    from support.shards import dataset

    dataset(tmp_path, {"train": 44})
    (tmp_path / "recipe.yaml").write_text((workplace.folder / "recipe.yaml").read_text())
    (tmp_path / "network.py").write_text((workplace.folder / "network.py").read_text())
    sample = read_index(tmp_path / "data" / "train-000002.idx")[3]
    image = next(member for member in sample.members if member.extension == "png")
    with (tmp_path / "data" / "train-000002.tar").open("r+b") as shard:
        shard.seek(image.offset)
        shard.write(b"\0" * 100)
    done = Workplace(tmp_path).megabatch("launch", "recipe.yaml")
    assert done.returncode == 2
    assert (
        f"train-000002.tar: byte {image.offset}: sample {sample.key}: not a JPEG, PNG, WebP, BMP, GIF or TIFF image"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
