"""What follows the end of a batch job: stops go on for ever, failures without progress do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.configs.slurm import Slurm
from megabatch.launcher.requeue import REQUEUE, Attempt, decide, ending, read_attempts
from megabatch.launcher.save_job import write_job


def attempts(*causes_and_steps: tuple[str, int], host: str | None = None) -> list[Attempt]:
    return [Attempt("7", cause, step, host) for cause, step in causes_and_steps]  # type: ignore[arg-type]


@given(steps=st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_stops_on_request_are_never_counted(steps: list[int]) -> None:
    assert decide(attempts(*(("stopped", step) for step in steps)), Slurm(max_restarts=0)).goes_on


@given(steps=st.sets(st.integers(1, 10_000), min_size=1, max_size=50), budget=st.integers(1, 5))
def test_failures_with_a_new_checkpoint_between_them_go_on_for_ever(steps: set[int], budget: int) -> None:
    assert decide(attempts(*(("failed", step) for step in sorted(steps))), Slurm(max_restarts=budget)).goes_on


@given(before=st.lists(st.sampled_from(["failed", "stopped", "time"]), max_size=20), budget=st.integers(0, 5))
def test_a_crash_loop_ends_after_the_budget_whatever_came_before(before: list[str], budget: int) -> None:
    history = attempts(*((cause, step) for step, cause in enumerate(before, start=1)))
    for number in range(1, budget + 2):
        history += attempts(("failed", 99))
        assert decide(history, Slurm(max_restarts=budget)).goes_on == (number <= budget)


def test_preemptions_between_failures_do_not_hide_a_crash_loop() -> None:
    history = attempts(("failed", 5), ("stopped", 5), ("failed", 5), ("stopped", 5), ("failed", 5))
    assert decide(history, Slurm(max_restarts=3)).goes_on
    assert not decide(history, Slurm(max_restarts=2)).goes_on


def test_a_time_limit_that_leaves_no_time_for_a_step_is_a_failure() -> None:
    history = attempts(("time", 10), ("time", 20), ("time", 20), ("time", 20))
    assert decide(history[:2], Slurm(max_restarts=0)).goes_on
    assert decide(history, Slurm(max_restarts=2)).goes_on
    assert not decide(history, Slurm(max_restarts=1)).goes_on


def test_an_unfit_node_is_left_out_at_once_where_the_cluster_file_spares_some() -> None:
    history = attempts(("unfit", 0), host="node3")
    assert decide(history, Slurm(max_excluded_nodes=1)).excluded == "node3"
    assert decide(history, Slurm()).excluded is None
    assert not decide(history * 4, Slurm()).goes_on


@pytest.mark.parametrize("cause", ["finished", "mistake"])
def test_the_end_and_mistakes_are_never_tried_again(cause: str) -> None:
    assert not decide(attempts((cause, 5)), Slurm()).goes_on


def test_a_node_is_left_out_after_two_failures_in_a_row_and_no_more_nodes_than_allowed() -> None:
    twice = attempts(("failed", 5), ("failed", 6), host="node3")
    assert decide(twice, Slurm()).excluded is None
    assert decide(twice, Slurm(max_excluded_nodes=1)).excluded == "node3"
    elsewhere = [*twice[:1], *attempts(("failed", 6), host="node4")]
    assert decide(elsewhere, Slurm(max_excluded_nodes=1)).excluded is None
    already = [Attempt("7", "failed", 4, "node1", excluded="node1"), *twice]
    assert decide(already, Slurm(max_excluded_nodes=1)).excluded is None
    assert decide(already, Slurm(max_excluded_nodes=2)).excluded == "node3"


def run_folder(folder: Path, step: int = 0, outcome: str | None = None, *failures: dict[str, Any]) -> RunDir:
    run_dir = RunDir(folder / "run")
    run_dir.logs.mkdir(parents=True)
    if step:
        run_dir.checkpoint(step).mkdir(parents=True)
        (run_dir.checkpoints / ".step-99999999").mkdir()  # one that was being written
    if outcome is not None:
        run_dir.ended.touch()
        run_dir.result.write_text(json.dumps({"outcome": outcome}))
    for rank, failure in enumerate(failures):
        known = {"time": rank, "of_another_rank": False, "host": "node1", "verdict": None, "kind": "TrainingError"}
        run_dir.failure(rank).write_text(json.dumps({**known, **failure}))
    return run_dir


@pytest.mark.parametrize(
    ("outcome", "failures", "code", "time_is_up", "cause", "host"),
    [
        ("finished", [], 0, False, "finished", None),
        ("stopped", [], 0, False, "stopped", None),
        ("stopped", [], 0, True, "time", None),
        (None, [], 143, True, "time", None),  # it did not save in time
        (None, [], 0, False, "failed", None),  # something ended the ranks with exit code 0
        (None, [{"host": "node2"}, {"of_another_rank": True}], 1, False, "failed", "node2"),
        (None, [{"of_another_rank": True, "verdict": {"host": "node4"}}], 1, False, "failed", "node4"),
        (None, [{"kind": "DataError"}], 1, False, "mistake", None),
        (None, [], 1, False, "failed", None),  # the folder was in use
    ],
)
def test_how_an_attempt_ended_is_read_from_the_run_folder(
    outcome: str | None, failures: list[dict[str, Any]], code: int, time_is_up: bool, cause: str, host: str | None,
    tmp_path: Path,
) -> None:  # fmt: skip
    run_dir = run_folder(tmp_path, 12, outcome, *failures)
    assert ending(run_dir, "7", code, time_is_up) == Attempt("7", cause, 12, host)  # type: ignore[arg-type]


def test_files_that_were_cut_short_are_no_reason_to_fail(tmp_path: Path) -> None:
    run_dir = run_folder(tmp_path, 0, "stopped")
    run_dir.result.write_text('{"outcome": ')
    run_dir.failure(0).write_text("{")
    run_dir.attempts.write_text('{"job": "7", "cause": "failed", "step": 3}\n{"job": "7", "ca')
    assert ending(run_dir, "7", 1, False).cause == "failed"
    assert read_attempts(run_dir, "7") == attempts(("failed", 3))


def test_the_command_counts_failures_of_its_own_job_and_says_why(tmp_path: Path) -> None:
    run_dir = run_folder(tmp_path)
    loaded = load("digits", "slurm-example", ["cluster.backend.max_restarts=1"])
    job = Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder="/", data_fingerprint="", version="1")
    write_job(job, run_dir.job)

    def end(number: str, code: int) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "megabatch.launcher.requeue", str(run_dir.job), "--slurm-job", number]
        done = subprocess.run([*command, "--code", str(code)], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    again = "requeued to go on from step 0, failure 1 without a new checkpoint\n"
    assert end("7", 9) == (REQUEUE, "\n", again)
    assert end("7", 9) == (9, "", "not requeued: 2 failures in a row without a new checkpoint\n")
    assert end("8", 9) == (REQUEUE, "\n", again)  # submitted again by hand
    assert [attempt.job for attempt in read_attempts(run_dir)] == ["7", "7", "8"]
    assert run_dir.report.exists()
