"""The process that starts the ranks of a node: with it end its ranks, and two of them train as one does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.launch import read_result
from support.runs import Workplace, environment, finish, losses, trained_samples, wait_for_step

pytestmark = pytest.mark.processes
LONG = ("epochs=150", "checkpoint.every_epochs=150", "checkpoint.every_steps=4")


def wait_until_gone(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(runs, pids)):
        assert time.monotonic() < deadline, f"{pids} are left"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Return whether a process is there and has not ended; nobody may be about to collect an ended one."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def listening(pid: int) -> set[str]:
    """Return the addresses, as the kernel writes them, at which a process accepts connections."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(str(entry.readlink()))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].split(":")[0])
    return found


@pytest.fixture(scope="module")
def alone(workplace: Workplace) -> RunDir:
    return workplace.train("alone", 2, *LONG)


def test_ranks_save_and_end_when_the_launcher_is_killed_and_all_listen_on_loopback_alone(
    workplace: Workplace, alone: RunDir
) -> None:
    run_dir = RunDir(workplace.folder / "launcher-killed")
    process = workplace.popen("launch", "recipe.yaml", *LONG, "--run-dir", run_dir.root.name)
    wait_for_step(run_dir, 20, process)
    below = descendants(process.pid)
    assert len(below) == 3
    assert set().union(*map(listening, below)) == {"0100007F"}  # 127.0.0.1
    process.kill()
    process.wait()
    wait_until_gone(below, 60)
    result = read_result(run_dir.result)
    assert result["outcome"] == "stopped"
    assert run_dir.checkpoint(result["step"]).exists()
    assert losses(run_dir) == losses(alone)[: result["step"]]


def test_ranks_end_with_the_process_that_started_them_and_the_run_goes_on_exactly(
    workplace: Workplace, alone: RunDir
) -> None:
    run_dir = workplace.job("starter-killed", 2, *LONG)
    process = workplace.popen("launch", "--resume", "starter-killed")
    wait_for_step(run_dir, 20, process)
    (starter, *ranks) = descendants(process.pid)
    os.kill(starter, signal.SIGKILL)
    wait_until_gone(ranks, 3)
    assert process.wait(timeout=60) == 1
    finish(workplace.start(run_dir), run_dir)
    assert losses(run_dir) == losses(alone)
    assert trained_samples(run_dir) == trained_samples(alone)


def test_two_nodes_train_as_two_ranks_of_one(workplace: Workplace, alone: RunDir) -> None:
    nodes = ("cluster.nodes=2", "cluster.backend={name: slurm}")
    run_dir = workplace.job("two-nodes", 1, *LONG, *nodes)

    def node(number: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "megabatch.trainer.node", "--nodes", "2", "--node-rank", str(number),
            "--meet", "localhost:29747", str(run_dir.job),
        ]  # fmt: skip
        return subprocess.Popen(command, cwd=workplace.folder, env=environment(), stdout=subprocess.DEVNULL)

    second, first = node(1), node(0)
    finish(first, run_dir)
    assert second.wait(timeout=60) == 0
    assert losses(run_dir) == losses(alone)
    assert trained_samples(run_dir) == trained_samples(alone)


def test_what_a_rank_started_does_not_outlive_the_node(workplace: Workplace) -> None:
    (workplace.folder / "with_child.py").write_text(
        "import subprocess\nfrom pathlib import Path\nfrom network import small\n\n"
        "def network(num_classes):\n"
        "    child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    Path('child.pid').write_text(str(child.pid))\n"
        "    return small(num_classes)\n"
    )
    run_dir = workplace.job("with-child", 1, "epochs=1", "schedule.warmup=0", "model.name='with_child:network'")
    finish(workplace.start(run_dir), run_dir)
    wait_until_gone([int((workplace.folder / "child.pid").read_text())], 5)


def test_a_mistake_is_not_repeated_by_a_restart(workplace: Workplace) -> None:
    run_dir = workplace.job("mistake", 1, "cluster.backend={name: local, max_restarts: 3}")
    run_dir.job.write_text(re.sub(r"data_fingerprint: .*", "data_fingerprint: other", run_dir.job.read_text()))
    done = workplace.megabatch("eval", "mistake", "--split", "test")
    assert done.returncode == 2
    assert "anew" not in done.stdout
    assert run_dir.failures()  # it was a rank that found it, not the launcher


@pytest.mark.parametrize("module", ["megabatch.trainer.node", "megabatch.trainer"])
def test_a_job_file_that_is_not_there_is_told_and_no_folder_is_made_for_it(tmp_path: Path, module: str) -> None:
    command = [sys.executable, "-m", module, "typo/job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: typo/job.yaml: no such file: a run folder has a job.yaml (megabatch launch writes it)"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_that_is_killed_or_refuses_leaves_no_process_that_waits_for_its_orders(workplace: Workplace) -> None:
    process = workplace.popen("launch", "recipe.yaml", *LONG, "--run-dir", "never-begun")
    deadline = time.monotonic() + 60
    while not (waiting := descendants(process.pid)):
        assert time.monotonic() < deadline
    process.kill()
    process.wait()
    wait_until_gone(waiting, 30)
    assert not (workplace.folder / "never-begun").exists()
    refused = workplace.megabatch("launch", "recipe.yaml", "model={name: 'network:nothing'}")
    assert refused.returncode == 2
    assert "network has no 'nothing'" in refused.stderr
    ours = str(workplace.folder)
    assert not [pid for pid in orders_waited_for() if str(Path(f"/proc/{pid}/cwd").resolve()) == ours]


def orders_waited_for() -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"--orders" in file.read_bytes():
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found
