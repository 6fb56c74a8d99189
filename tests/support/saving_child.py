"""Forks, for every line it reads, a child that saves checkpoints while strace looks on (tests/faults/test_crash_points.py).

Forked, because importing torch takes seconds and there are many crash points. A line is the run folder; the child tells
its number, waits for another line (strace is attached by then), saves the steps of SAVED, and leaves an empty file
done-STEP for each that was acknowledged: making one is none of the calls that are killed or fail.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from megabatch.configs.evaluation import Checkpoint
from megabatch.configs.run_dir import RunDir
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.saver import Saver
from megabatch.trainer.saving_ranks import Alone
from megabatch.trainer.state import TrainState
from megabatch.trainer.trackers.base import Trackers

BEFORE, SAVED = (1, 2), (3, 4)


def snapshot(step: int) -> Snapshot:
    return Snapshot(
        {"w": torch.full((7,), float(step))}, {"w/momentum": torch.full((7,), -float(step))},
        {"training": {"step": step, "best_step": None}},
    )  # fmt: skip


class _Failures:
    """Leaves a file for each save that was told to have failed."""

    def __init__(self, run_dir: RunDir):
        self._run_dir = run_dir

    def checkpoint(self, values: dict[str, object]) -> None:
        (self._run_dir.root / f"{'failed' if 'error' in values else 'done'}-{values['step']}").touch()

    def message(self, text: str) -> None:
        """Leave it."""


def save_all(run_dir: RunDir) -> None:
    saver = Saver(run_dir, Checkpoint(), Alone(), Trackers((_Failures(run_dir),)))  # type: ignore[arg-type]
    for step in SAVED:
        saver.save(TrainState(step=step), snapshot(step), lambda: set[int]())
        saver.wait()


def read_line() -> str:
    text = b""
    while not text.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            os._exit(0)
        text += byte
    return text.decode().strip()


def main() -> None:
    while True:
        run_dir = RunDir(Path(read_line()))
        child = os.fork()
        if child == 0:
            os.write(1, f"{os.getpid()}\n".encode())
            read_line()
            try:
                save_all(run_dir)
            except BaseException as error:
                (run_dir.root / f"raised-{type(error).__name__}").touch()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
