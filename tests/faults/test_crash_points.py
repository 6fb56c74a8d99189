"""F9 and F10: saving is killed at, or has an error from, every single call by which it changes the disk.

I5: after every crash point a verified checkpoint exists that is no older than the last acknowledged one. I6: there are
never fewer than two verified ones. The calls are killed and made to fail by strace, one after the other until a run
gets through without meeting the n-th.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from support import saving_child
from support.runs import environment
from support.saving_child import BEFORE, SAVED, snapshot

STRACE = shutil.which("strace")
pytestmark = pytest.mark.skipif(STRACE is None, reason="kills at system calls need strace (Debian: apt install strace)")
# By all names under which a processor may have them; strace skips those marked "?" that are not there.
WRITING = {
    "mkdir": "?mkdir,?mkdirat", "write": "write,?writev,?pwrite64", "fsync": "fsync,?fdatasync",
    "rename": "?rename,?renameat,?renameat2", "unlink": "?unlink,?unlinkat,?rmdir",
}  # fmt: skip


class Forker:
    """Runs saves in children, each under strace."""

    def __init__(self) -> None:
        command = [sys.executable, saving_child.__file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**environment(), "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip

    def run(self, run_dir: RunDir, injection: str) -> int:
        """Save with this injection of strace; return the exit code, -9 if it was killed."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{run_dir.root}\n")
        child = self._process.stdout.readline().strip()
        strace = subprocess.Popen(
            [str(STRACE), "-f", "-o", "/dev/null", "-e", f"inject={injection}", "-p", child],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert strace.stderr
        assert "attached" in strace.stderr.readline()
        self._process.stdin.write("go\n")
        code = int(self._process.stdout.readline())
        strace.communicate(timeout=60)
        return code

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.close()


def prepared(folder: Path) -> RunDir:
    """A run that has two checkpoints."""
    run_dir = RunDir(folder)
    for step in BEFORE:
        checkpoint.save(run_dir, step, snapshot(step))
    return run_dir


def told(run_dir: RunDir, word: str) -> list[int]:
    return sorted(int(file.name.rpartition("-")[2]) for file in run_dir.root.glob(f"{word}-*"))


def whole(run_dir: RunDir) -> list[int]:
    """The steps of the verified checkpoints; what is in them is as it was saved."""
    steps = [s for s in checkpoint.steps_saved(run_dir) if checkpoint.damage(run_dir.checkpoint(s)) is None]
    for step in steps:
        found = checkpoint.load(run_dir.checkpoint(step))
        assert torch.equal(found.network["w"], snapshot(step).network["w"])
        assert found.state == snapshot(step).state
    return steps


@pytest.mark.parametrize("call", WRITING)
def test_killed_at_any_call_that_changes_the_disk_a_good_checkpoint_remains(
    call: str, forker: Forker, tmp_path: Path
) -> None:
    for number in range(1, 100):
        run_dir = prepared(tmp_path / str(number))
        code = forker.run(run_dir, f"{WRITING[call]}:signal=KILL:when={number}")
        assert code in (0, -signal.SIGKILL), sorted(run_dir.root.iterdir())
        steps = whole(run_dir)
        assert max(steps) >= max([BEFORE[-1], *told(run_dir, "done")])
        assert len(steps) >= 2
        assert steps == checkpoint.steps_saved(run_dir)  # nothing half written or half deleted under its name
        checkpoint.clear_hidden(run_dir)
        checkpoint.save(run_dir, 5, snapshot(5))
        assert max(whole(run_dir)) == 5
        if code == 0:
            assert number > len(SAVED), "the run met no such call"
            return
    raise AssertionError("no end of calls")


@pytest.mark.parametrize(
    ("call", "error"), [("mkdir", "ENOSPC"), ("write", "ENOSPC"), ("write", "EDQUOT"), ("write", "EIO"), ("fsync", "EIO"), ("rename", "ENOSPC")]
)  # fmt: skip
def test_an_error_of_any_call_leaves_the_older_checkpoints_and_the_next_save_works(
    call: str, error: str, forker: Forker, tmp_path: Path
) -> None:
    failures = 0
    for number in range(1, 100):
        run_dir = prepared(tmp_path / str(number))
        assert forker.run(run_dir, f"{WRITING[call]}:error={error}:when={number}") == 0, sorted(run_dir.root.iterdir())
        failed, done = told(run_dir, "failed"), told(run_dir, "done")
        assert sorted([*failed, *done]) == list(SAVED)
        assert set(done) <= set(whole(run_dir))
        assert len(whole(run_dir)) >= 2
        assert not list(run_dir.checkpoints.glob(".*.saving"))
        failures += len(failed)
        if not failed and number > 2 * len(SAVED):
            assert failures >= len(SAVED)
            return
    raise AssertionError("no end of calls")
