"""Ranks that stay: many trainings one after another in one process group, each with a run folder as if it had run alone.

Starting ranks takes seconds, a small training a fraction of one. So torchrun starts them once for each number of ranks,
and each reads from a pipe of its own what to train: `RUN_DIR/job.yaml` or `RUN_DIR/job.yaml@CHECKPOINT`, which goes on
from a copy of a checkpoint that an earlier training may have written. The end of the pipe is the end of the ranks. A
training that ends with a TrainingError leaves its message in the run folder; any other error ends the ranks, and new
ones are started for the next training.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megabatch.configs.run_dir import RunDir

FINISHED, FAILED = "training-finished", "training-failed"
_PATIENCE = 300.0  # seconds; far more than any needs


def train_together(run_dirs: Sequence[RunDir], num_ranks: int, begin_with: Mapping[RunDir, Path] | None = None) -> str:
    """Train the jobs of the run folders; return what went wrong, and in which of them, or ""."""
    return _train_all(_ranks_of(num_ranks), run_dirs, begin_with or {})


def train_in_new_ranks(run_dirs: Sequence[RunDir], num_ranks: int, inside: Sequence[str] = ()) -> str:
    """Do the same with ranks that are started for it and end with it; `inside` is a command that starts torchrun."""
    ranks = _Ranks(num_ranks, inside)
    try:
        return _train_all(ranks, run_dirs, {})
    finally:
        if not ranks.ended:
            ranks.end()


def _train_all(ranks: _Ranks, run_dirs: Sequence[RunDir], begin_with: Mapping[RunDir, Path]) -> str:
    for run_dir in run_dirs:
        checkpoint = begin_with.get(run_dir)
        if not ranks.train(f"{run_dir.job}{f'@{checkpoint}' if checkpoint else ''}"):
            return f"the ranks failed in {run_dir.root.name}\n{ranks.end()[-6000:]}"
    return "\n".join(file.read_text() for run in run_dirs if (file := run.root / FAILED).exists())


class _Ranks:
    """The ranks of one torchrun, and the folder with their pipes."""

    def __init__(self, num_ranks: int, inside: Sequence[str] = ()):
        from support.runs import environment

        self.ended = False
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        self._done = self._folder / "done"
        for rank in range(num_ranks):
            os.mkfifo(_pipe(self._folder, rank))
        # opened for reading too, so that it does not wait for the ranks; they see the end if this process dies
        self._pipes = [os.open(_pipe(self._folder, rank), os.O_RDWR | os.O_CLOEXEC) for rank in range(num_ranks)]
        command = [
            *inside, sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks),
            __file__, str(self._folder), str(num_ranks),
        ]  # fmt: skip
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=output)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def train(self, text: str) -> bool:
        """Let the ranks train what an order says; return whether they are still there afterwards."""
        self._done.unlink(missing_ok=True)
        for pipe in self._pipes:
            os.write(pipe, f"{text}\n".encode())
        deadline = time.monotonic() + _PATIENCE
        while not self._done.exists() and self.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._done.exists()

    def end(self) -> str:
        """End the ranks; return what they said on standard error."""
        for pipe in self._pipes:
            os.close(pipe)
        try:
            self._process.wait(30 if self.alive else 0)
        except subprocess.TimeoutExpired:
            self._process.terminate()  # torchrun then kills the ranks
            self._process.wait()
        output = (self._folder / "output").read_text(errors="replace")
        shutil.rmtree(self._folder)
        self.ended = True
        return output


def _pipe(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}"


_started: dict[int, _Ranks] = {}


def _ranks_of(num_ranks: int) -> _Ranks:
    """Return the ranks that are there already, or new ones."""
    if num_ranks in _started and not _started[num_ranks].alive:
        _end(num_ranks)
    if num_ranks not in _started:
        _started[num_ranks] = _Ranks(num_ranks)
    return _started[num_ranks]


def _end(num_ranks: int) -> None:
    ranks = _started.pop(num_ranks)
    if not ranks.ended:
        ranks.end()


@atexit.register
def _end_all() -> None:
    for num_ranks in list(_started):
        _end(num_ranks)


def main(folder: Path, num_ranks: int) -> int:
    """Train every job that is named in this rank's pipe."""
    import torch.distributed as dist

    from megabatch.configs.cluster import Cluster
    from megabatch.trainer.world import join, leave, read_world

    _fill_empty_tensors()
    cluster = Cluster(name="tests", processes_per_node=num_ranks)
    world = read_world(cluster, os.environ)
    join(world, cluster)
    try:
        for line in _pipe(folder, world.rank).open():
            file, _, begin_with = line.rstrip("\n").partition("@")
            _train(Path(file), Path(begin_with) if begin_with else None)
            gc.collect()  # DistributedDataParallel is held by a circle of references
            dist.barrier()
            if world.is_main:
                (folder / "done").touch()
    except Exception:
        traceback.print_exc()
        return 1
    leave()
    return 0


def _fill_empty_tensors() -> None:
    """Let torch.empty give huge numbers: a library that reads what nobody wrote fails always, not now and then."""
    import torch

    empty = torch.empty

    def filled(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor: torch.Tensor = empty(*args, **kwargs)
        small = tensor.numel() < 100_000  # DeepSpeed asks for gigabytes that it never touches
        return tensor.fill_(1e30) if small and tensor.is_floating_point() and tensor.dtype.itemsize >= 4 else tensor

    torch.empty = filled  # type: ignore[assignment]


@contextmanager
def _at_work_in(folder: str) -> Iterator[None]:
    """Be in a folder as `python -m` is: users' networks lie there. Its modules are not known afterwards."""
    os.chdir(folder)
    sys.path[0] = folder
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(f"{folder}/"):
                del sys.modules[name]


def _train(file: Path, begin_with: Path | None) -> None:
    import torch.distributed as dist

    from megabatch.configs.load import read_job
    from megabatch.configs.run_dir import RunDir
    from megabatch.trainer.__main__ import train
    from megabatch.trainer.build import build
    from megabatch.trainer.errors import TrainingError
    from megabatch.trainer.world import read_world

    job, run_dir = read_job(file), RunDir(file.parent)
    world = read_world(job.cluster, os.environ)
    if begin_with is not None and world.is_main:
        shutil.copytree(begin_with, run_dir.checkpoints / begin_with.name)
    dist.barrier()
    try:
        with _at_work_in(job.working_folder):
            parts = build(job, world, run_dir, lambda: False)
            try:
                train(parts)
            finally:
                parts.close()
    except TrainingError as error:
        (run_dir.root / FAILED).write_text(f"{run_dir.root.name}: {error}")
        return
    (run_dir.root / FINISHED).touch()


if __name__ == "__main__":
    from megabatch.trainer.process import exit_now

    exit_now(main(Path(sys.argv[1]), int(sys.argv[2])))
