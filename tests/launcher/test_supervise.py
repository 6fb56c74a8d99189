"""Why a job ended, from what torchrun and the ranks left behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.launcher.supervise import ExitCode, _without_cause

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
        ([], "torchrun ended before the ranks did"),
    ],
)
def test_the_killed_rank_is_named_whoever_torchrun_saw_first(
    tmp_path: Path, ended: list[tuple[int, int]], message: str
) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.logs.mkdir()
    entries = [ENTRY.format(number=n, rank=rank, code=code) for n, (rank, code) in enumerate(ended)]
    run_dir.launcher_log.write_text("Failures:" + "".join(entries[:-1]) + "Root Cause" + "".join(entries[-1:]))
    assert _without_cause(run_dir, log_start=0).startswith(message)


def test_the_table_of_exit_codes_in_the_documents_has_them_all() -> None:
    text = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == [code.value for code in ExitCode]
