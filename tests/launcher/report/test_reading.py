"""What is read from a run folder: the last attempt of each step, the starts and their ends, and half of everything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.report.page import run_page
from megabatch.launcher.report.run import Run, read_run
from megabatch.launcher.report.trouble import failure_of, trouble_of
from support.report_runs import BEGAN, STEP_SECONDS, bare_run, lines, rich_run, step_line, whole


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(rich_run(tmp_path_factory.mktemp("report") / "rich", 200))


def test_steps_that_were_trained_again_count_once_and_as_the_last_attempt_has_them(rich: Run) -> None:
    steps = rich.metrics.steps
    assert steps.columns["step"].tolist() == list(range(1, 201))
    assert steps.columns["attempt"].tolist() == [1] * 100 + [2] * 100
    assert len(steps.all_steps) == 210


def test_the_time_between_two_starts_is_not_training(rich: Run) -> None:
    assert rich.metrics.steps.hours()[-1] * 3600 == pytest.approx(200 * STEP_SECONDS)
    assert rich.training_seconds == pytest.approx(210 * STEP_SECONDS)
    assert rich.device_hours == pytest.approx(4 * 210 * STEP_SECONDS / 3600)


def test_starts_have_their_ends_and_causes(rich: Run) -> None:
    first, second = rich.attempts
    assert (first.outcome, first.first_step, first.last_step) == ("failed", 0, 110)
    assert first.cause.startswith("rank 3 on node-b was killed by SIGKILL")
    assert (second.outcome, second.first_step, second.last_step, second.cause) == ("finished", 100, 200, "")
    assert rich.device == "cuda (NVIDIA H200)"


def killed(folder: Path, *launches: dict[str, object]) -> RunDir:
    run_dir = bare_run(folder)
    draws = np.random.default_rng(0)
    lines(run_dir.metrics, [step_line(draws, 1, step, 40, BEGAN + step) for step in range(1, 13)])
    lines(run_dir.starts, [{"kind": "start", "attempt": 1, "time": BEGAN, "step": 0, "ranks": 2, "hosts": ["a"]}])
    lines(run_dir.launches, launches)
    return run_dir


def test_a_start_without_an_end_was_killed_and_the_launcher_says_why(tmp_path: Path) -> None:
    told = {"kind": "ended", "time": BEGAN + 20, "cause": "rank 0 was killed by SIGKILL"}
    (attempt,) = read_run(killed(tmp_path / "told", told)).attempts
    assert (attempt.outcome, attempt.cause, attempt.last_step) == ("killed", "rank 0 was killed by SIGKILL", 12)
    assert attempt.seconds == 12
    (attempt,) = read_run(killed(tmp_path / "silent")).attempts
    assert (attempt.outcome, attempt.cause) == ("killed", "")


def test_a_run_of_before_these_files_is_told_by_its_steps(tmp_path: Path) -> None:
    run_dir = rich_run(tmp_path / "old", 100)
    for file in (run_dir.starts, run_dir.rank_history, run_dir.launches, run_dir.details("test"), run_dir.bad_steps):
        file.unlink()
    run = read_run(run_dir)
    assert [(one.number, one.first_step, one.last_step, one.outcome) for one in run.attempts] == [
        (1, 0, 55, "interrupted"), (2, 50, 100, "ended"),
    ]  # fmt: skip
    text = run_page(run, run_dir.report)
    assert "Confusion" not in text
    assert "The run was started 2 times." in text


def test_a_run_that_has_not_begun_has_a_page_too(tmp_path: Path) -> None:
    run = read_run(bare_run(tmp_path / "new"))
    assert run.state == "not started"
    assert "The training has not begun." in run_page(run, run.run_dir.report)


@pytest.mark.parametrize(
    "content", [b"", b'{"kind": "st', b"\xff\xfe\x00", b"[1, 2]\n7\nnull\n", b'{"kind": "step"}\n{}\n']
)
def test_half_files_only_mean_that_there_is_less_to_show(tmp_path: Path, content: bytes) -> None:
    run_dir = rich_run(tmp_path / "half", 20)
    for name in ("metrics", "starts", "rank_history", "data_errors", "bad_steps", "launches", "result", "attempts"):
        getattr(run_dir, name).write_bytes(content)
    run_dir.details("test").write_bytes(content)
    assert "</html>" in run_page(read_run(run_dir), run_dir.report)


def test_numbers_that_are_words_do_not_stop_the_page(tmp_path: Path) -> None:
    run_dir = rich_run(tmp_path / "words", 20)
    values = json.loads(run_dir.details("test").read_text())
    values["per_class"] = [{"class": "cat"}, {}, {"class": 99, "samples": 3, "correct": 1}]
    values["confusion"] = [[1, 2], [0, 99, 4]]
    values["mistakes"] = [{}, {"label": "cat", "thumbnail": "no base64!", "probability": None}]
    whole(run_dir.details("test"), values)
    assert "no picture" in run_page(read_run(run_dir), run_dir.report)


def test_a_folder_that_is_no_run_is_told_with_what_would_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no run folder: it has no job\.yaml"):
        read_run(RunDir(tmp_path))
    (tmp_path / "job.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"job\.yaml:1"):
        read_run(RunDir(tmp_path))


def test_samples_left_out_are_counted_once_each(rich: Run) -> None:
    parts = {part.title: part for part in trouble_of(rich)}
    assert parts["Samples left out"].told == "2 samples could not be used and counted with weight 0."
    assert parts["Bad steps"].told == "1 in all."
    assert failure_of(rich) == ""


def test_every_sample_left_out_is_counted_though_all_of_a_shard_fail_in_every_epoch(tmp_path: Path) -> None:
    run_dir = rich_run(tmp_path / "bad", 20)
    lines(run_dir.data_errors, [
        {"split": "train", "epoch": epoch, "reason": "damaged", "shard": f"train-00000{n % 2}.tar", "sample_id": n,
         "message": f"{n}: cut short"} for epoch in range(3) for n in range(7000)
    ])  # fmt: skip
    (found,) = [part for part in trouble_of(read_run(run_dir)) if part.title == "Samples left out"]
    assert found.told.startswith("7,000 samples could not be used")
    assert found.table is not None
    assert [row[1:] for row in found.table.rows] == [
        ("train-000000.tar", "3,500", "6998: cut short"), ("train-000001.tar", "3,500", "6999: cut short"),
    ]  # fmt: skip


def test_a_long_run_is_read_whole_and_its_page_stays_small(tmp_path: Path) -> None:
    run_dir = bare_run(tmp_path / "long")
    line = json.dumps(step_line(np.random.default_rng(0), 1, 7, 30_000, BEGAN))
    with run_dir.metrics.open("w") as file:
        file.writelines(line.replace('"step": 7', f'"step": {step}') + "\n" for step in range(1, 30_001))
    run = read_run(run_dir)
    page = run_page(run, run_dir.report)
    assert len(run.metrics.steps) == 30_000
    assert len(page) < 1_500_000
