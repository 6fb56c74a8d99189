"""What went wrong or was saved: starts and their ends, samples left out, bad steps, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from megabatch.configs.durations import duration
from megabatch.configs.run_dir import CHECKPOINT_PREFIX
from megabatch.launcher.report import words
from megabatch.launcher.report.attempts import Attempt
from megabatch.launcher.report.metrics import number
from megabatch.launcher.report.run import Run
from megabatch.launcher.report.table import Table

_MOST_ROWS = 50


@dataclass(frozen=True)
class Part:
    """Something with a heading: a sentence, and perhaps a table."""

    title: str
    told: str
    table: Table | None = None


def trouble_of(run: Run) -> list[Part]:
    """Return what there is to tell; what did not happen is told in a sentence."""
    if run.run_dir.stages():
        return [Part("Starts and restarts", "Each stage has a page of its own, linked below.")]
    return [_starts(run), _data_errors(run), _bad_steps(run)]


def failure_of(run: Run) -> str:
    """Return why the run ended, if it did badly."""
    if run.state not in ("failed", "gone"):
        return ""
    causes = [attempt.cause for attempt in run.attempts if attempt.cause]
    return words.plain(causes[-1] if causes else run.state_detail)


def checkpoints_of(run: Run) -> Table | None:
    """Return what was saved and what is still there."""
    there = {folder.name for folder in run.run_dir.checkpoints.glob(f"{CHECKPOINT_PREFIX}*") if folder.is_dir()}
    best = run.result.get("best_step")
    rows = []
    for line in run.metrics.checkpoints[-_MOST_ROWS:]:
        step = int(line.get("step") or 0)
        kept = run.run_dir.checkpoint(step).name in there
        state = "best" if step == best and kept else "kept" if kept else "removed since"
        stalled, behind = (words.seconds(number(line.get(f"{what}_seconds"))) for what in ("stalled", "background"))
        rows.append((f"step {step:,}", state, words.moment(line.get("time")), stalled, behind))
    columns = ("Checkpoint", "State", "Written", "Training stood still", "In the background")
    return Table(columns, tuple(rows), texts=3) if rows else None


def _starts(run: Run) -> Part:
    title = "Starts and restarts"
    if not run.attempts:
        return Part(title, "The training has not begun.")
    if len(run.attempts) == 1 and not run.attempts[0].cause:
        return Part(title, "The run was started once, and never again.", _starts_table(run))
    return Part(title, f"The run was started {len(run.attempts)} times.", _starts_table(run))


def _starts_table(run: Run) -> Table:
    rows = [_start_row(attempt) for attempt in run.attempts]
    decisions = [(words.plain(line.get("decision") or ""), line.get("cause")) for line in run.slurm_attempts]
    rows += [(f"Slurm, job {number}", words.plain(cause), "", "", "", "", told) for number, (told, cause)
             in enumerate(decisions, start=1)]  # fmt: skip
    columns = ("Start", "Ended", "Began", "Steps", "Took", "On", "Why it ended")
    return Table(columns, tuple(rows[-_MOST_ROWS:]), texts=7)


def _start_row(attempt: Attempt) -> tuple[str, ...]:
    ranks = f"{attempt.num_ranks} ranks" if attempt.num_ranks else ""
    hosts = f" on {', '.join(attempt.hosts[:3])}{'…' if len(attempt.hosts) > 3 else ''}" if attempt.hosts else ""
    engine = f", {attempt.engine}" if attempt.engine else ""
    return (
        f"{attempt.number}", attempt.outcome, words.moment(attempt.started),
        f"{attempt.first_step:,} to {attempt.last_step:,}", duration(attempt.seconds),
        words.plain(f"{ranks}{hosts}{engine}".strip(", ")), words.plain(attempt.cause),
    )  # fmt: skip


def _data_errors(run: Run) -> Part:
    title = "Samples left out"
    found = run.left_out
    by_mask = f" A mask left out {found.masked:,} samples from the start." if found.masked else ""
    if not found.samples:
        return Part(title, f"Every sample could be read.{by_mask}")
    rows = tuple(
        (words.plain(group.reason), words.plain(group.shard), f"{group.samples:,}", words.plain(group.last_message))
        for group in found.groups[:_MOST_ROWS]
    )
    told = f"{found.samples:,} samples could not be used and counted with weight 0.{by_mask}"
    return Part(title, told, Table(("Reason", "Shard", "Samples", "The last of them"), rows, texts=4))


def _bad_steps(run: Run) -> Part:
    title = "Bad steps"
    if not run.bad_steps:
        return Part(title, "No step had a loss or gradient that was not finite or jumped.")
    rows = tuple(
        (
            f"{line.get('step')}", words.plain(line.get("reason") or ""), words.plain(line.get("then") or ""),
            _figure(line.get("loss")), _figure(line.get("gradient_norm")),
        )
        for line in run.bad_steps[:_MOST_ROWS]
    )  # fmt: skip
    columns = ("Step", "What was seen", "What was done", "Loss", "Gradient norm")
    return Part(title, f"{len(run.bad_steps):,} in all.", Table(columns, rows, texts=3))


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "not finite"
