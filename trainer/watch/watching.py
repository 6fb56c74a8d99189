"""Puts a watch around what a rank does, and makes one error of whatever ends it."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from megabatch.configs.cluster import Cluster
from megabatch.configs.run_dir import RunDir
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.process import record_failure
from megabatch.trainer.starts import attempt_now, tell_failure
from megabatch.trainer.watch import doing, rules
from megabatch.trainer.watch.alone import Alone
from megabatch.trainer.watch.beats import Beat, PeerLostError, Verdict
from megabatch.trainer.watch.history import RankHistory
from megabatch.trainer.watch.shown import RanksFile
from megabatch.trainer.watch.watch import Place, Watch
from megabatch.trainer.world import World

Follow = Callable[[Callable[[], int]], None]
_WRITE_SECONDS = 5.0


@contextmanager
def watching(world: World, cluster: Cluster, run_dir: RunDir) -> Iterator[Follow]:
    """Watch the other ranks while this one works; yields what is to be told how to learn the number of finished steps.

    Raises PeerLostError instead of an error that another rank has caused, and TrainingError if something calls
    `sys.exit`: that is not the end of the training. Every rank must come in here together.
    """
    faulthandler.enable()  # a crash in C++ leaves the Python stack in the rank's log
    watch = _start(world, cluster, run_dir) if world.num_ranks > 1 else _start_alone(world, run_dir)
    try:
        yield watch.follow
    except (Exception, SystemExit) as error:
        told = _exited(error, world) if isinstance(error, SystemExit) else error
        told = watch.explain(told)
        if told is error:
            raise
        raise told from error
    finally:
        watch.finish()


def _start(world: World, cluster: Cluster, run_dir: RunDir) -> Watch:
    """Return the watch of this rank, once every rank has one."""
    number = torch.frombuffer(bytearray(os.urandom(8)), dtype=torch.int64)  # tells this start from an earlier one
    dist.broadcast(number, 0)
    everybodys = dist.distributed_c10d._get_default_store()
    name = f"megabatch/{number.item():x}"

    def connect() -> dist.Store:  # type: ignore[name-defined]  # public, but not in __all__
        return dist.PrefixStore(name, everybodys.clone())  # type: ignore[attr-defined]

    watched = rules.watched_by(world.rank, world.num_ranks, cluster.processes_per_node)
    place = Place(world.rank, world.num_ranks, world.host, world.device, tuple(watched))
    show = _shown_in(run_dir) if world.is_main else None
    watch = Watch(place, connect, cluster.limits, lambda verdict: _end(verdict, world, run_dir), _tell, show)
    dist.all_reduce(number)
    watch.start()
    return watch


def _start_alone(world: World, run_dir: RunDir) -> Alone:
    alone = Alone(world.host, world.device, _shown_in(run_dir))
    alone.start()
    return alone


def _shown_in(run_dir: RunDir) -> Callable[[Sequence[Beat]], None]:
    """Return what gets the beats of all ranks every few seconds."""
    files = (RanksFile(run_dir.ranks), RankHistory(run_dir.rank_history, attempt_now))

    def show(beats: Sequence[Beat]) -> None:
        for write in files:
            write(beats)

    return show


def _end(verdict: Verdict, world: World, run_dir: RunDir) -> None:
    """End this process, whose main thread hangs; write down what it hangs in, unless the disk hangs too."""

    def write() -> None:
        stack, collective = doing.stack(doing.main_frame()), doing.last_collective(world.device)
        record_failure(run_dir, world.rank, PeerLostError(verdict), stack, collective)
        os.write(2, f"error: {verdict.message}\n".encode())  # a lock of sys.stderr may be what the main thread holds
        faulthandler.dump_traceback(all_threads=True)
        tell_failure(world.rank, PeerLostError(verdict))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(_WRITE_SECONDS)
    os._exit(1)


def _exited(error: SystemExit, world: World) -> TrainingError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return TrainingError(
        f"rank {world.rank} on {world.host}: {place.filename}, line {place.lineno}, ended the process with "
        f"sys.exit({error.code!r}) in the middle of its work. Raise an exception that says why, or take the call out"
    )


def _tell(text: str) -> None:
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)  # the log of the rank
