"""Why a job ended, from what torchrun and the ranks left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.launcher import supervise
from megabatch.launcher.supervise import ExitCode

ENTRY = """
[{number}]:
  time      : 2026-11-21_01:07:04
  host      : localhost
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: 30231)
  error_file: <N/A>
"""


@pytest.mark.parametrize(
    ("ended", "message"),
    [
        ([(1, -9), (0, 1)], "rank 1 was killed by SIGKILL: out of memory, or kill -9 from outside"),
        ([(0, -15), (1, -9)], "rank 1 was killed by SIGKILL: out of memory, or kill -9 from outside"),
        ([(0, -15), (2, -11)], "rank 2 was killed by SIGSEGV"),
        ([(1, -15), (0, 7)], "rank 0 ended with code 7"),
        ([], "the process that started the ranks ended before they did"),
    ],
)
def test_the_killed_rank_is_named_whoever_torchrun_saw_first(
    tmp_path: Path, ended: list[tuple[int, int]], message: str
) -> None:
    assert ending(tmp_path, ended, {}).startswith(message)


def ending(folder: Path, ended: list[tuple[int, int]], failures: dict[int, dict[str, object]]) -> str:
    """Return what is told of ranks that ended with these codes and left these failures, beside what all have."""
    run_dir = RunDir(folder)
    run_dir.logs.mkdir()
    entries = [ENTRY.format(number=n, rank=rank, code=code) for n, (rank, code) in enumerate(ended)]
    run_dir.launcher_log.write_text("Failures:" + "".join(entries[:-1]) + "Root Cause" + "".join(entries[-1:]))
    for rank, values in failures.items():
        common = {
            "rank": rank,
            "host": f"node{rank}",
            "time": rank,
            "kind": "RuntimeError",
            "message": "",
            "traceback": "",
        }
        run_dir.failure(rank).write_text(json.dumps({**common, "verdict": None, **values}))
    told = supervise.ending(1, 0, run_dir, log_start=0)
    assert told.code == ExitCode.FAILED
    return told.message


def blaming(kind: str, rank: int) -> dict[str, object]:
    verdict = {
        "kind": kind, "rank": rank, "host": f"node{rank}", "step": 41, "doing": "evaluating", "message": f"{kind}: {rank}"
    }  # fmt: skip
    return {"of_another_rank": True, "verdict": verdict}


def test_a_killed_rank_is_told_with_what_it_was_doing(tmp_path: Path) -> None:
    told = ending(tmp_path, [(0, 1), (2, -9)], {0: blaming("gone", 2)})
    assert told == (
        "rank 2 on node2 was killed by SIGKILL: out of memory, or kill -9 from outside; last seen after step 41, "
        f"evaluating. Its log is {RunDir(tmp_path).rank_log(2)}"
    )


def test_a_rank_that_ended_with_code_0_is_told_in_the_words_of_the_others(tmp_path: Path) -> None:
    assert ending(tmp_path, [(0, 1)], {0: blaming("gone", 1)}).startswith("gone: 1\nlogs: ")


def test_a_silent_rank_is_not_said_to_be_killed_though_the_others_killed_it(tmp_path: Path) -> None:
    assert ending(tmp_path, [(0, 1), (1, -9)], {0: blaming("silent", 1)}).startswith("silent: 1\nlogs: ")


def test_what_the_rank_itself_says_goes_before_what_others_say_of_it(tmp_path: Path) -> None:
    own = {"of_another_rank": False, "kind": "TrainingError", "message": "too hot"}
    told = ending(tmp_path, [(0, 1), (1, 1)], {0: blaming("failed", 1), 1: own})
    assert told.startswith("rank 1 on node1: too hot\n")


def test_without_a_verdict_the_first_error_that_another_rank_may_have_caused_is_told(tmp_path: Path) -> None:
    lost: dict[str, object] = {"of_another_rank": True, "message": "Connection closed by peer"}
    told = ending(tmp_path, [(0, 1), (1, 1)], {0: lost, 1: lost})
    assert told == f"rank 0 on node0 lost another rank: Connection closed by peer\nlogs: {tmp_path / 'logs'}"


def test_an_exit_code_of_0_before_the_work_is_done_is_a_failure(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.logs.mkdir()
    assert supervise.ending(0, 0, run_dir, log_start=0).code == ExitCode.FAILED
    run_dir.ended.touch()
    assert supervise.ending(0, 0, run_dir, log_start=0).code == ExitCode.DONE


def test_the_table_of_exit_codes_in_the_documents_has_them_all() -> None:
    text = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == [code.value for code in ExitCode]


def test_the_codes_that_our_own_starter_wrote_count_before_torchrun_s_words(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.logs.mkdir()
    for node, exits in enumerate([[(0, 0), (1, -9)], [(3, 1), (2, 1)]]):
        written = {"exits": [{"rank": rank, "code": code} for rank, code in exits]}
        run_dir.exit_codes(node).write_text(json.dumps(written))
    run_dir.launcher_log.write_text(ENTRY.format(number=0, rank=7, code=-11))
    told = supervise.ending(1, 0, run_dir, log_start=0)
    assert told.message.startswith("rank 1 was killed by SIGKILL")
