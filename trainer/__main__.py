"""What runs in every rank: `megabatch.trainer.node` forks it, `torchrun ... -m megabatch.trainer RUN_DIR/job.yaml` too.

Ends with 0 when all samples were trained on or a checkpoint was saved on request, 2 for a mistake in job or data,
1 for everything else. The cause is in RUN_DIR/logs/failure-rank-N.json, once for each rank that failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.load import read_job
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import RunFolderError
from megabatch.configs.streams import outlive_readers
from megabatch.configs.torch_version import too_old
from megabatch.data.errors import DataError, OwnPartError
from megabatch.trainer import check_ranks, checkpoint, loop, study
from megabatch.trainer.agreed import agreed, wait_until_seen
from megabatch.trainer.build import Parts, build
from megabatch.trainer.causes import explained
from megabatch.trainer.details.write import Details
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.evaluate import EvaluationStoppedError
from megabatch.trainer.process import (
    StopSignal,
    allow_open_files,
    exit_now,
    hold_lock,
    record_failure,
    write_json,
)
from megabatch.trainer.rank_log import redirect_output
from megabatch.trainer.srun import srun_variables
from megabatch.trainer.start_check import require_fit_nodes
from megabatch.trainer.starts import tell_end, tell_failure, tell_start
from megabatch.trainer.watch.watching import watching
from megabatch.trainer.world import join, leave, read_world, refuse_contradictions


def main() -> int:
    """Run one rank and return its exit code."""
    outlive_readers()
    parser = argparse.ArgumentParser(prog="python -m megabatch.trainer", description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, help="RUN_DIR/job.yaml; the run folder is where it lies")
    parser.add_argument("--evaluate", metavar="SPLIT", help="evaluate a split instead of training")
    parser.add_argument("--checkpoint", default="best", help="with --evaluate: best, last or a step (default best)")
    parser.add_argument(
        "--weights", choices=["averaged", "raw"], default="averaged", help="with --evaluate, where both were saved"
    )
    parser.add_argument("--study", type=Path, help="do what this file asks for (tune, soup) instead of training")
    parser.add_argument("--check", type=Path, help="look around on every node instead of training")
    arguments = parser.parse_args()
    run_dir = RunDir(arguments.job.absolute().parent)
    os.environ.update(srun_variables(os.environ))
    rank = _number(os.environ.get("RANK", "0"))
    try:
        _run(arguments, run_dir)
        if rank == 0:
            run_dir.ended.touch()
    except (ConfigError, DataError, OwnPartError, TrainingError) as error:
        record_failure(run_dir, rank, error)
        tell_failure(rank, error)
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, OwnPartError | TrainingError) else 2
    except RunFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        told = explained(error)
        record_failure(run_dir, rank, told or error)
        tell_failure(rank, told or error)
        traceback.print_exc()
        if told is not None:
            print(f"error: {told}", file=sys.stderr)
        return 1
    return 0


def _number(text: str) -> int:
    """Return the number for the file of a failure; what is none is told by read_world."""
    return int(text) if text.isdecimal() else 0


def _run(arguments: argparse.Namespace, run_dir: RunDir) -> None:
    job = read_job(arguments.job)
    if old := too_old():
        raise ConfigError([Problem("", old)])
    refuse_contradictions(job, os.environ)
    world = read_world(job.cluster, os.environ)
    if world.is_main:
        hold_lock(run_dir.lock)  # before anything is written: the logs may be another job's
    run_dir.failure(world.rank).unlink(missing_ok=True)
    trains = arguments.study is None and arguments.check is None
    redirect_output(run_dir.rank_log(world.rank), terminal=world.is_main and trains)
    allow_open_files()
    stop = StopSignal()
    join(world, job.cluster)
    with ExitStack() as at_the_end:
        at_the_end.callback(leave)
        with watching(world, job.cluster, run_dir) as follow:
            if arguments.check:
                check_ranks.tell(job, world, run_dir, arguments.check)
                return
            require_fit_nodes(world, job.cluster, run_dir)
            parts = build(job, world, run_dir, stop.requested)
            at_the_end.callback(parts.close)
            follow(lambda: parts.state.step)
            if arguments.study:
                study.run(parts, arguments.study)
            elif arguments.evaluate:
                _evaluate(parts, arguments.evaluate, arguments.checkpoint, arguments.weights == "averaged")
            else:
                train(parts)


def train(parts: Parts) -> None:
    """Train to the end or until a rank is asked to stop, test, and write the result."""
    started = time.monotonic()
    if parts.world.is_main:
        parts.run_dir.result.unlink(missing_ok=True)
        checkpoint.clear_hidden(parts.run_dir)
    begin_with = loop.restore(parts)
    tell_start(parts.run_dir, parts.world, parts.job, lambda: parts.state, begin_with)
    outcome = loop.train(parts)
    result: dict[str, object] = {"total_steps": parts.steps.total}
    if outcome == "finished" and parts.job.recipe.data.test_split is not None:
        try:
            result["test"] = _evaluate_test(parts, parts.job.recipe.data.test_split)
        except EvaluationStoppedError:
            outcome = "stopped"
    result["outcome"] = outcome
    masked, skipped = parts.step_parts.ledger.masked_summary(), parts.step_parts.ledger.summary()
    if masked:
        result["masked_samples"] = masked
    if skipped:
        result["skipped_samples"] = skipped
        parts.trackers.message(f"samples that could not be used: {skipped}; see {parts.run_dir.data_errors}")
    if parts.world.is_main:
        write_json(parts.run_dir.result, {**result, **parts.state.to_json(), "seconds": time.monotonic() - started})
    tell_end(outcome)


def _evaluate_test(parts: Parts, split: str) -> dict[str, object]:
    """Evaluate the best checkpoint, or the network as it is where there was no validation."""
    step = parts.state.best_step or parts.state.step
    if step != parts.state.step and not loop.is_there(parts, step):
        parts.trackers.message(
            f"warning: the best checkpoint, of step {step}, could not be written: the test is that of the last step"
        )
        step = parts.state.step
    if step != parts.state.step:
        wait_until_seen(parts.run_dir.checkpoint(step))
        engine = parts.step_parts.engine
        like = dict(engine.network.state_dict())
        engine.load_network(checkpoint.load_network(parts.run_dir.checkpoint(step), like=like))
        if parts.step_parts.average is not None:
            parts.step_parts.average.forget()
    details = Details(parts)
    result = parts.evaluate_split(split, also=details.begin)
    details.write(result, "best" if step == parts.state.best_step else "last", step)
    parts.trackers.evaluation(result, parts.state)
    return {**result.to_json(), "checkpoint_step": step}


def _evaluate(parts: Parts, split: str, which: str, averaged: bool) -> None:
    folder = agreed(parts, checkpoint.chosen(parts.run_dir, which) if parts.world.is_main else None)
    assert folder is not None
    engine = parts.step_parts.engine
    engine.load_network(checkpoint.load_network(folder, averaged, dict(engine.network.state_dict())))
    details = Details(parts)
    result = parts.evaluate_split(split, also=details.begin)
    details.write(result, which, checkpoint.step_of(folder))
    if parts.world.is_main:
        write_json(parts.run_dir.evaluation(split, which), {**result.to_json(), "checkpoint": folder.name})


if __name__ == "__main__":
    exit_now(main())
