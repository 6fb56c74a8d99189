"""`python -m megabatch.trainer.node RUN_DIR/job.yaml`: starts the ranks of one node and stays until they have ended.

    python -m megabatch.trainer.node RUN_DIR/job.yaml
    python -m megabatch.trainer.node --nodes 2 --node-rank 0 --meet node1:29500 RUN_DIR/job.yaml   # and 1 on the other

The second form is started once on every node; the ranks meet at an address and port of the first. Where machines may
come and go, use torchrun. Ends with the exit code of the rank that failed first, or 0.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from megabatch.configs.cluster import Local
from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.parent import adopt_orphans, end_leftovers
from megabatch.configs.run_dir import RunDir
from megabatch.configs.streams import outlive_readers
from megabatch.trainer import __main__ as trainer
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.models.load import import_library
from megabatch.trainer.node.meeting import Meeting, meeting_at, meeting_on_this_machine
from megabatch.trainer.node.orders import wait_for_start
from megabatch.trainer.node.ranks import MISTAKE, Exit, Stopping, failure_of, run_ranks
from megabatch.trainer.process import exit_now, record_failure, write_json
from megabatch.trainer.starts import tell_end_of_killed


def main() -> int:
    """Start the ranks, anew where the cluster file says so, and return the exit code."""
    outlive_readers()
    parser = argparse.ArgumentParser(prog="python -m megabatch.trainer.node", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes start ranks")
    parser.add_argument("--node-rank", type=int, default=0, help="which of them this one is, from 0")
    parser.add_argument("--meet", metavar="HOST:PORT", help="with several nodes: an address and free port of node 0")
    parser.add_argument("--orders", type=int, metavar="PIPE", help=argparse.SUPPRESS)  # of `megabatch launch`
    parser.add_argument("job", type=Path, nargs="?", help="RUN_DIR/job.yaml; the run folder is where it lies")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="arguments of megabatch.trainer")
    arguments = parser.parse_args()
    if arguments.nodes > 1 and arguments.meet is None:
        parser.error("several nodes need --meet HOST:PORT")
    if arguments.orders is not None:
        start = wait_for_start(arguments.orders)
        if start is None:
            return 0
        arguments.job, arguments.rest = start
    if arguments.job is None:
        parser.error("name RUN_DIR/job.yaml")
    run_dir = RunDir(arguments.job.absolute().parent)
    stopping = Stopping()
    stopping.listen()
    adopt_orphans()
    first_rank = 0
    try:
        job = read_job(arguments.job)
        first_rank = arguments.node_rank * job.cluster.processes_per_node
        import_library(job.recipe.model)
        return _attempts(job, run_dir, arguments, stopping)
    except (ConfigError, TrainingError) as error:
        record_failure(run_dir, first_rank, error)
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else MISTAKE


def _attempts(job: Job, run_dir: RunDir, arguments: argparse.Namespace, stopping: Stopping) -> int:
    restarts, backend = 0, job.cluster.backend
    most = backend.max_restarts if isinstance(backend, Local) else 0  # one of several nodes cannot begin anew alone
    while True:
        began = time.time()
        exits = _attempt(job, arguments, stopping)
        failure = failure_of(exits)
        _write_exit_codes(run_dir, arguments.node_rank, exits)
        if failure is not None and arguments.node_rank == 0:  # rank 0 may have been unable to write its last word
            tell_end_of_killed(run_dir, began, failure.rank, how_it_ended(failure.code))
        if failure is None:
            return 0
        if failure.code == MISTAKE or stopping.asked or restarts == most:
            return failure.code if failure.code > 0 else 128 - failure.code
        restarts += 1
        again = f"all ranks are started anew ({restarts} of {most} times)"
        print(f"rank {failure.rank} {how_it_ended(failure.code)}: {again}", flush=True)


def _attempt(job: Job, arguments: argparse.Namespace, stopping: Stopping) -> list[Exit]:
    meeting = meeting_at(arguments.meet, arguments.node_rank == 0) if arguments.meet else meeting_on_this_machine()
    try:
        environments = _environments(job.cluster.processes_per_node, meeting, arguments)

        def work() -> int:
            sys.argv = ["megabatch.trainer", str(arguments.job), *arguments.rest]
            exit_now(trainer.main())

        return run_ranks(environments, work, stopping)
    finally:
        meeting.close()
        end_leftovers()  # such as a command whose output a killed rank was reading


def _environments(num_local: int, meeting: Meeting, arguments: argparse.Namespace) -> dict[int, dict[str, str]]:
    """Return the variables of every rank of this node, by the names that torchrun uses."""
    first = arguments.node_rank * num_local
    common = {"WORLD_SIZE": str(arguments.nodes * num_local), "LOCAL_WORLD_SIZE": str(num_local)}
    return {
        rank: {**common, "RANK": str(rank), "LOCAL_RANK": str(rank - first), **meeting.environment(rank)}
        for rank in range(first, first + num_local)
    }


def how_it_ended(code: int) -> str:
    """Return an exit code in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _write_exit_codes(run_dir: RunDir, node: int, exits: list[Exit]) -> None:
    with suppress(OSError):  # on a full disk what the ranks wrote has to do
        run_dir.logs.mkdir(parents=True, exist_ok=True)
        write_json(run_dir.exit_codes(node), {"exits": [ended._asdict() for ended in exits]})


if __name__ == "__main__":
    exit_now(main())
