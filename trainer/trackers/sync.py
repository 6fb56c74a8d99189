"""`python -m megabatch.trainer.trackers.sync RUN_DIR...`: one clean run at Weights & Biases out of metrics.jsonl.

The rows are sent in the order of the steps, the last attempt of each; those that the server has are not sent again. It
counts them: as long as they are the first ones, the rest is appended to them (docs/decisions/0013-replay.md).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.configs.load import read_job
from megabatch.configs.metrics import read_lines, read_rows
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import RunFolderError, require_free
from megabatch.configs.tracking import Wandb
from megabatch.trainer import checkpoint
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.trackers.lines import Line
from megabatch.trainer.trackers.summary import summary
from megabatch.trainer.trackers.wandb_tracker import begin, chosen_mode, log, new_id, reachable, server

if TYPE_CHECKING:
    import wandb


@dataclass(frozen=True)
class Replay:
    """What would be sent of a run, and where to."""

    job: Job
    run_dir: RunDir
    settings: Wandb
    rows: list[Line]
    identity: str
    is_known: bool

    @override
    def __str__(self) -> str:
        """Return it as one line."""
        counts = {kind: sum(row["kind"] == kind for row in self.rows) for kind in ("step", "evaluation")}
        lines = sum(line.get("kind") in ("step", "evaluation") for line in read_lines(self.run_dir.metrics))
        again = lines - sum(counts.values())
        told = f", without {again:,} that were trained again" if again else ""
        return (
            f"{self.run_dir.root}: {counts['step']:,} steps and {counts['evaluation']:,} evaluations{told} -> "
            f"{f'{self.settings.entity}/' if self.settings.entity else ''}{self.settings.project}, "
            f"{f'run {self.identity}' if self.is_known else 'a new run'}"
        )


def main(arguments_given: Sequence[str]) -> int:
    """Send the runs; return 0, 2 for a mistake of the user's, and 1 where a run could not be sent."""
    parser = argparse.ArgumentParser(prog="python -m megabatch.trainer.trackers.sync")
    parser.add_argument("run_dirs", nargs="+", type=Path)
    parser.add_argument("--project")
    parser.add_argument("--entity")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--new", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args(arguments_given)
    code = 0
    for folder in arguments.run_dirs:
        try:
            replay = planned(RunDir(folder), arguments.project, arguments.entity, arguments.new)
            print(replay, flush=True)
            if arguments.dry_run:
                continue
            if arguments.offline:
                write_offline(replay)
            else:
                send(replay)
        except ConfigError as error:
            code = 2
            print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        except Exception as error:  # whatever happens there, the other runs are sent
            code = code or 1
            cause = error if isinstance(error, TrainingError) else f"{type(error).__name__} {error}"
            print(f"error: {folder}: {cause}", file=sys.stderr)
    return code


def planned(run_dir: RunDir, project: str | None, entity: str | None, new: bool) -> Replay:
    """Read a run; change nothing. Raises ConfigError for one that has nothing, or names no project."""
    job = read_job(run_dir.job)
    settings = job.recipe.tracking.wandb
    if settings is None and project is None:
        seen = "its recipe has no tracking.wandb"
        raise ConfigError([Problem(str(run_dir.root), f"{seen}: name a project with --project")])
    settings = settings or Wandb(project=project or "")
    wished = {"project": project, "entity": entity}
    settings = settings.model_copy(update={key: value for key, value in wished.items() if value is not None})
    rows = read_rows(run_dir.metrics) if run_dir.metrics.exists() else []
    if not rows:
        raise ConfigError([Problem(str(run_dir.metrics), "has no step yet: send it when it has trained")])
    known = run_dir.wandb_id.read_text(encoding="utf-8").strip() if run_dir.wandb_id.exists() and not new else None
    return Replay(job, run_dir, settings, rows, known or new_id(), known is not None)


def write_offline(replay: Replay) -> None:
    """Write the whole run into RUN_DIR/wandb-replay, from where `wandb sync` sends it; what lay there is gone."""
    folder = replay.run_dir.wandb_replay
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    replay.run_dir.wandb_id.write_text(replay.identity, encoding="utf-8")
    with _begun(replay, "offline") as run:
        _complete(replay, run, replay.rows)
    _end_service()
    (written,) = folder.glob("wandb/offline-run-*")
    print(f"written: {written}\nsend it with: wandb sync {written}")


def send(replay: Replay) -> None:
    """Send what the server does not have. Raises ConfigError or TrainingError where that cannot be done."""
    _require_not_sending(replay.run_dir)
    if chosen_mode(replay.settings.model_copy(update={"mode": "auto"})) != "online":
        raise ConfigError([Problem("", "no key for Weights & Biases here: `wandb login`, or write it with --offline")])
    if not reachable(server()):
        raise TrainingError(f"{server()} cannot be reached: try again, or write the run with --offline")
    replay.run_dir.wandb_id.write_text(replay.identity, encoding="utf-8")
    replay.run_dir.wandb_replay.mkdir(exist_ok=True)
    with _begun(replay, "online") as run:
        known = run.starting_step if run.resumed else 0
        rows = open_rows(replay.rows, known, dict(run.summary).get("step"))
        if rows is not None:
            _complete(replay, run, rows)
            url = run.url
    _end_service()
    if rows is None:
        seen = f"run {replay.identity} has {known:,} rows at Weights & Biases which are not the first of this run"
        remedy = "`megabatch sync --new` makes a clean run; then delete that one there"
        raise ConfigError([Problem(str(replay.run_dir.root), f"{seen}: {remedy}")])
    print(f"sent {len(rows):,} rows, {known:,} were there: {url}")


def open_rows(rows: list[Line], known: int, last_step: int | None) -> list[Line] | None:
    """Return the rows behind the `known` ones; None if those, which end with `last_step`, are not the first.

    >>> rows = [{"step": 1}, {"step": 2}, {"step": 2, "split": "validation"}, {"step": 3}]
    >>> open_rows(rows, 2, 2)
    [{'step': 2, 'split': 'validation'}, {'step': 3}]
    >>> open_rows(rows, 4, 3)
    []
    >>> open_rows(rows, 2, 3) is None
    True
    """
    if known > len(rows) or (known and rows[known - 1]["step"] != last_step):
        return None
    return rows[known:]


def _require_not_sending(run_dir: RunDir) -> None:
    """Raise ConfigError if the run goes on and sends its rows itself: wandb calls folders of such runs run-*."""
    if not any(run_dir.root.glob("wandb/run-*")):
        return
    try:
        require_free(run_dir.lock)
    except RunFolderError as error:
        raise ConfigError([Problem("", f"{error}, and sends its rows itself. Sync it when it has ended")]) from None


@contextmanager
def _begun(replay: Replay, mode: Literal["online", "offline"]) -> Iterator[wandb.Run]:
    """Yield the run and finish it; wandb's own context manager prints the traceback of what is told in a line here."""
    run = begin(
        replay.settings, replay.job, replay.run_dir, mode, replay.identity, replay.run_dir.wandb_replay, measures=False
    )
    try:
        yield run
    finally:
        run.finish()


def _complete(replay: Replay, run: wandb.Run, rows: Sequence[Line]) -> None:
    for row in rows:
        log(run, row)
    run.summary.update(summary(replay.job, replay.run_dir))
    if replay.settings.log_report:
        _log_report(replay.run_dir, run)
    if replay.settings.log_checkpoint:
        _log_checkpoint(replay.run_dir, run)


def _log_report(run_dir: RunDir, run: wandb.Run) -> None:
    import wandb

    if not run_dir.report.exists():
        print(f"no report sent: {run_dir.report} is not there")
        return
    artifact = wandb.Artifact(f"report-{run.id}", type="report")
    artifact.add_file(str(run_dir.report), policy="immutable")  # not copied first
    run.log_artifact(artifact)


def _log_checkpoint(run_dir: RunDir, run: wandb.Run) -> None:
    import wandb

    folder = checkpoint.chosen(run_dir, "best")
    artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model")
    artifact.add_dir(str(folder), policy="immutable")
    run.log_artifact(artifact, aliases=["best", folder.name])


def _end_service() -> None:
    """Wait until wandb's service has written the last records."""
    import wandb

    wandb.teardown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
