"""`megabatch status`, `logs` and `cancel` over run folders as trainings leave them; no rank runs here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from megabatch.configs.run_dir import RunDir
from megabatch.launcher import slurm_queue
from megabatch.launcher.cli import app
from megabatch.launcher.run_logs import Reader, log_files
from megabatch.launcher.status import look
from megabatch.trainer.watch.beats import Beat
from megabatch.trainer.watch.shown import RanksFile, ranks_json


def megabatch(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160", "NO_COLOR": "1"})


def step(number: int, attempt: int = 1, **values: Any) -> str:
    line = {"kind": "step", "attempt": attempt, "step": number, "samples_seen": 20 * number, "loss": 1 / number}
    return json.dumps({**line, "samples_per_second": 100.0, "data_wait_share": 0.25, **values}) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that has trained three steps."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.logs.mkdir(parents=True)
    run_dir.job.write_text("")
    run_dir.metrics.write_text(step(1) + step(2) + '{"kind": "message"}\n' + step(3) + '{"kind": "st')
    run_dir.checkpoint(2).mkdir(parents=True)
    return run_dir


def locked_by(run_dir: RunDir, pid: int, host: str) -> None:
    run_dir.lock.write_text(f"process {pid} on {host}")


@pytest.fixture
def rank(run: RunDir) -> Any:
    """A process of this machine that has the run folder, as rank 0 has."""
    code = (
        "import sys; from pathlib import Path; from megabatch.configs.run_lock import take\n"
        "lock = take(Path(sys.argv[1])); print(1, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(run.lock)], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_run_of_this_machine_is_running_while_its_rank_0_lives(run: RunDir, rank: Any) -> None:
    beats = [Beat(r, f"node{r}", "x/1/2", 9, 3, "training", {}, 1 << 20, None, 0.5, 0.25) for r in range(2)]
    run.ranks.write_text(ranks_json(beats))
    status = look(run)
    assert (status.state, status.step, status.attempt, status.checkpoint_step) == ("running", 3, 1, 2)
    assert (status.samples_per_second, status.data_wait_share, status.loss) == (100.0, 0.25, 1 / 3)
    assert [(one["host"], one["waits_for_ranks"], one["waits_for_data"]) for one in status.ranks] == [
        ("node0", 0.5, 0.25), ("node1", 0.5, 0.25),
    ]  # fmt: skip
    rank.kill()
    rank.wait()
    assert look(run).state == "gone"
    assert look(run).ranks == ()


def test_a_process_that_got_the_number_of_a_dead_rank_is_not_taken_for_it(run: RunDir) -> None:
    locked_by(run, os.getpid(), socket.gethostname())
    assert look(run).state == "gone"


def test_a_run_of_another_machine_lives_as_long_as_it_writes(run: RunDir) -> None:
    locked_by(run, 7, "elsewhere")
    assert look(run).state == "running"
    os.utime(run.metrics, (1, 1))
    status = look(run)
    assert status.state == "gone"
    assert "it was on elsewhere" in status.detail


@pytest.mark.parametrize("outcome", ["finished", "stopped"])
def test_how_a_run_ended_is_what_it_left(run: RunDir, outcome: str) -> None:
    locked_by(run, 7, "elsewhere")
    run.result.write_text(json.dumps({"outcome": outcome}))
    assert look(run).state == outcome


def test_a_failure_is_told_in_one_line(run: RunDir) -> None:
    for number, of_another in ((0, True), (1, False)):
        failure = {
            "rank": number,
            "host": "node9",
            "time": number,
            "message": "it broke\nhere",
            "of_another_rank": of_another,
        }
        run.failure(number).write_text(json.dumps(failure))
    status = look(run)
    assert (status.state, status.detail) == ("failed", "rank 1 on node9: it broke")


def test_a_folder_that_only_has_a_job_was_not_started(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.job.write_text("")
    status = look(run_dir)
    assert (status.state, status.step, status.seconds_since_sign) == ("not started", None, None)


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, squeue: str) -> None:
    for name, content in {"squeue": squeue, "scancel": f'echo "$@" > {folder}/cancelled'}.items():
        (folder / name).write_text(f"#!/bin/bash\n{content}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("squeue", "state", "detail"),
    [
        ("echo 'PENDING|Priority|'", "waiting", "in Slurm's queue: Priority"),
        ("echo 'RUNNING|None|node[1-2]'", "running", "running on node[1-2]"),
        ("echo 'COMPLETING|None|node1'", "running", "completing on node1"),
        ("echo 'NODE_FAIL|None|node1'", "failed", "Slurm says NODE_FAIL"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "failed", "Slurm does not know the job"),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", "running", "on elsewhere"),
    ],
)
def test_of_a_job_of_slurm_its_queue_is_asked_first(
    squeue: str, state: str, detail: str, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked_by(run, 7, "elsewhere")
    fake_slurm(tmp_path, monkeypatch, squeue)
    slurm_queue.remember(run, "77")
    status = look(run)
    assert (status.state, status.slurm_job) == (state, "77")
    assert status.detail.startswith(detail)


def test_cancel_hands_a_job_of_slurm_to_scancel(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm(tmp_path, monkeypatch, "echo 'RUNNING|None|node1'")
    slurm_queue.remember(run, "77_2")
    done = megabatch("cancel", str(run.root))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "cancelled").read_text() == "77_2\n"


def test_cancel_sends_the_signal_of_ctrl_c_to_rank_0(run: RunDir, rank: Any) -> None:
    done = megabatch("cancel", str(run.root))
    assert "a checkpoint is saved at the end of this step" in done.stdout
    assert rank.wait(10) == -15


@pytest.mark.parametrize(
    ("owner", "told"),
    [("elsewhere", "is on elsewhere: write the same command there"), ("", "does not run: not started")],
)
def test_cancel_refuses_what_it_cannot_reach(owner: str, told: str, run: RunDir) -> None:
    if owner:
        locked_by(run, 7, owner)
    done = megabatch("cancel", str(run.root))
    assert done.exit_code == 2
    assert told in done.stderr


def test_the_table_and_the_json_say_the_same(run: RunDir, rank: Any) -> None:
    shown = megabatch("status", str(run.root)).stdout
    values = json.loads(megabatch("status", str(run.root), "--json").stdout)
    assert "step 2" in shown
    assert f"rank 0 is process {rank.pid}" in shown
    assert "100 samples/s, 25% of the time waits for data" in shown
    assert (values["state"], values["step"]) == ("running", 3)


def test_status_imports_no_torch(run: RunDir) -> None:
    code = (
        "import sys; from megabatch.launcher.cli import app\n"
        f"try: app(['status', {str(run.root)!r}])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_logs_are_those_of_the_job_and_of_every_rank_with_its_number(run: RunDir) -> None:
    (run.logs / "slurm-7.log").write_text("step 1/6\n")
    for number in (3, 10):
        run.rank_log(number).write_text(f"I am {number}\n")
    assert megabatch("logs", str(run.root)).stdout.splitlines() == ["step 1/6", "[ 3] I am 3", "[10] I am 10"]
    assert megabatch("logs", str(run.root), "--rank", "10").stdout.splitlines() == ["I am 10"]


def test_followed_logs_give_each_line_once_and_whole(run: RunDir) -> None:
    reader = Reader(lambda: log_files(run))
    log = run.rank_log(0)
    log.write_text("one\ntw")
    assert list(reader.new_lines()) == ["[0] one"]
    with log.open("a") as opened:
        opened.write("o\nthree")
    assert list(reader.new_lines()) == ["[0] two"]
    assert list(reader.new_lines(also_unfinished=True)) == ["[0] three"]
    assert list(reader.new_lines(also_unfinished=True)) == []


def test_a_ranks_file_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    write = RanksFile(tmp_path / "missing" / "ranks.json")
    write([])
    write._aside.wait(10)
    assert write._aside._thread is None
