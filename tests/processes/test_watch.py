"""One rank of several dies, stops, stalls or fails: the others end within seconds and know which one, where and why."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.save_job import write_job
from support.forked_ranks import FAULTY, Case, Outcome
from support.runs import Workplace, environment

pytestmark = pytest.mark.processes
SILENT_SECONDS, COLLECTIVE_SECONDS = 3, 3
BY_TIMEOUT = ("stall", "stopped, found by the time-out")
WHERE = f"on {socket.gethostname()}"
CASES = {
    "in order": (3, "none", 0),
    "killed": (2, "kill", 1),
    "rank 0 killed": (4, "kill", 0),
    "stopped": (4, "stop", 2),
    "stopped for a second": (2, "pause", 1),
    "exit 0": (2, "exit 0", 1),
    "sys.exit": (2, "sys.exit", 1),
    "error": (4, "error", 1),
    "crash": (2, "crash", 1),
    "stall": (4, "stall", 2),
    "stopped, found by the time-out": (2, "stop", 1),
    "the host of the store stopped": (2, "stop", 0),
}


@pytest.fixture(scope="module")
def outcomes(workplace: Workplace) -> dict[str, Outcome]:
    """What came of each case, of one bench for all."""
    (workplace.folder / "faulty.py").write_text(FAULTY)
    job = read_job(workplace.job("peers", 1, "model={name: 'faulty:Faulty'}", "epochs=100").job)
    cases = []
    for name, (ranks, fault, victim) in CASES.items():
        run_dir = RunDir(workplace.folder / "peers" / name)
        timeout = COLLECTIVE_SECONDS if name in BY_TIMEOUT else 60
        silent = SILENT_SECONDS if fault == "stop" and name not in BY_TIMEOUT else 60
        limits = job.cluster.limits.model_copy(update={"collective_timeout_seconds": timeout, "silent_seconds": silent})
        cluster = job.cluster.model_copy(update={"processes_per_node": ranks, "limits": limits})
        endless = fault in ("kill", "stop")
        recipe = job.recipe.model_copy(update={"epochs": 100_000 if endless else 20})
        run_dir.root.mkdir()
        write_job(job.model_copy(update={"cluster": cluster, "recipe": recipe}), run_dir.job)
        cases.append(Case(name, str(run_dir.job), ranks, fault, victim, name != "the host of the store stopped"))
    asked, answered = workplace.folder / "peers" / "cases.json", workplace.folder / "peers" / "outcomes.json"
    asked.write_text(json.dumps([asdict(case) for case in cases]))
    bench = Path(__file__).parents[1] / "support" / "forked_ranks.py"
    done = subprocess.run(
        [sys.executable, str(bench), str(asked), str(answered)], cwd=workplace.folder, env=environment(),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: Outcome(**values) for name, values in json.loads(answered.read_text()).items()}


def verdicts(outcome: Outcome, victim: int) -> list[dict[str, Any]]:
    """Return what the other ranks say of the victim; each of them must have said it."""
    others = [failure for rank, failure in sorted(outcome.failures.items()) if rank != str(victim)]
    assert len(others) == len(outcome.codes) - 1
    assert all(failure["kind"] == "PeerLostError" and failure["of_another_rank"] for failure in others)
    return [failure["verdict"] for failure in others]


@pytest.mark.parametrize("name", ["in order", "stopped for a second"])
def test_ranks_that_end_in_order_and_short_pauses_are_no_failures(outcomes: dict[str, Outcome], name: str) -> None:
    assert set(outcomes[name].codes.values()) == {0}
    assert outcomes[name].failures == {}


@pytest.mark.parametrize(("name", "code"), [("killed", -9), ("rank 0 killed", -9), ("exit 0", 0), ("crash", -11)])
def test_a_rank_that_ends_without_a_word_ends_the_others_who_say_which(
    outcomes: dict[str, Outcome], name: str, code: int
) -> None:
    _, _, victim = CASES[name]
    outcome = outcomes[name]
    for verdict in verdicts(outcome, victim):
        assert (verdict["kind"], verdict["rank"]) == ("gone", victim)
        assert verdict["message"].startswith(f"rank {victim} {WHERE} ended before its time")
        assert re.search(r"last seen .*\(rank \d has finished step \d+\)", verdict["message"])
    assert outcome.codes.pop(str(victim)) == code
    assert set(outcome.codes.values()) == {1}


def test_the_log_of_a_rank_that_crashed_has_the_python_stack(
    workplace: Workplace, outcomes: dict[str, Outcome]
) -> None:
    assert outcomes["crash"]
    log = RunDir(workplace.folder / "peers" / "crash").rank_log(1).read_text()
    assert "Segmentation fault" in log
    assert re.search(r'faulty.py", line \d+ in forward', log)


@pytest.mark.parametrize("name", ["sys.exit", "error"])
def test_a_rank_that_fails_says_why_and_the_others_say_which(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    own = outcome.failures["1"]
    assert not own["of_another_rank"]
    why = {"sys.exit": "faulty.py, line 13, ended the process with sys.exit(1)", "error": "a mistake of the user's"}
    assert why[name] in own["message"]
    for verdict in verdicts(outcome, 1):
        assert (verdict["kind"], verdict["rank"]) == ("failed", 1)
        assert why[name] in verdict["message"]
    assert set(outcome.codes.values()) == {1}


@pytest.mark.parametrize("name", CASES)
def test_starts_jsonl_says_how_it_ended(workplace: Workplace, outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name]
    _, fault, victim = CASES[name]
    file = RunDir(workplace.folder / "peers" / name).starts
    start, *ends = [json.loads(line) for line in file.read_text().splitlines()]
    assert (start["kind"], start["attempt"], start["ranks"]) == ("start", 1, CASES[name][0])
    if victim == 0 and fault in ("kill", "stop"):
        assert ends == []  # nobody was there to write it
    elif fault in ("none", "pause", "exit 0"):
        assert [end["outcome"] for end in ends] == ["failed" if fault == "exit 0" else "finished"]
    else:
        (end,) = ends
        assert (end["outcome"], end["attempt"]) == ("failed", 1)
        assert f"rank {victim} {WHERE}" in end["cause"]


def test_a_stopped_rank_is_killed_and_named_after_silent_seconds(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["stopped"]
    for verdict in verdicts(outcome, 2):
        assert (verdict["kind"], verdict["rank"]) == ("silent", 2)
        assert f"rank 2 {WHERE} has been silent for {SILENT_SECONDS} s" in verdict["message"]
    assert outcome.victim_ended, "SIGTERM does nothing to a stopped process"
    assert outcome.codes == {"0": 1, "1": 1, "2": -9, "3": 1}


def test_a_rank_that_lives_but_keeps_the_others_waiting_is_named_with_its_stack(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["stall"]
    for verdict in verdicts(outcome, 2):
        assert (verdict["kind"], verdict["rank"], verdict["doing"]) == ("stuck", 2, "training")
        assert re.search(r"rank 2 is at:\n(  .*\n)*  .*/faulty\.py:\d+ in stall\n", verdict["message"])
        assert re.search(r"the others wait in gloo:all_reduce number (\d+)", verdict["message"])
    own = outcome.failures["2"]
    assert any("in stall" in line for line in own["stack"])
    assert own["last_collective"].startswith("gloo:all_reduce number ")
    assert outcome.codes == {"0": 1, "1": 1, "2": 1, "3": 1}


def test_a_stopped_rank_is_named_though_a_collective_ran_out_of_time_first(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["stopped, found by the time-out"]
    (verdict,) = verdicts(outcome, 1)
    assert (verdict["kind"], verdict["rank"]) == ("silent", 1)
    assert f"for rank 1 {WHERE}, which gives no sign of life" in verdict["message"]
    assert outcome.codes == {"0": 1, "1": -9}


def test_ranks_end_by_themselves_if_the_process_is_stopped_that_hosts_their_store(
    outcomes: dict[str, Outcome],
) -> None:
    (verdict,) = verdicts(outcomes["the host of the store stopped"], 0)
    assert verdict["kind"] == "store"
    assert "rank 0 without torchrun" in verdict["message"]
    assert outcomes["the host of the store stopped"].codes["1"] == 1
