"""How the status of a run looks on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from megabatch.launcher.status import RUNNING, WAITING, Status

_MEBIBYTE = 1 << 20
_REFRESH_SECONDS = 2.0


def status_table(status: Status, total_steps: int | None) -> Group:
    """Return the run in a few lines, and a line for each rank while it runs."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(status, total_steps):
        table.add_row(name, value)
    return Group(table, "", _ranks(status)) if status.ranks else Group(table)


def _rows(status: Status, total_steps: int | None) -> list[tuple[str, str]]:
    rows = [
        ("run folder", status.run_dir),
        ("state", f"{status.state}, {status.detail}" if status.detail else status.state),
    ]
    if status.slurm_job is not None:
        rows.append(("Slurm job", status.slurm_job))
    if status.step is not None:
        of = f" of {total_steps:,}" if total_steps is not None else ""
        loss = "" if status.loss is None else f", loss {status.loss:.4f}"
        rows.append(("step", f"{status.step:,}{of}, attempt {status.attempt}{loss}"))
    if status.samples_per_second is not None:
        rows.append(("speed", f"{status.samples_per_second:,.0f} samples/s{_share(status.data_wait_share)}"))
    if status.checkpoint_step:
        rows.append(("checkpoint", f"step {status.checkpoint_step:,}"))
    if status.seconds_since_sign is not None:
        rows.append(("last sign of life", f"{status.seconds_since_sign:.0f} s ago"))
    return rows


def _share(share: float | None) -> str:
    return "" if share is None else f", {share:.0%} of the time waits for data"


def _ranks(status: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("rank", "host", "step", "memory", "GPU memory", "waits for data", "waits for ranks", "doing"):
        table.add_column(title, justify="left" if title in ("host", "doing") else "right", overflow="fold")
    for rank in status.ranks:
        table.add_row(
            str(rank["rank"]), rank["host"], str(rank["step"]), _mebibytes(rank["memory_bytes"]),
            _mebibytes(rank["gpu_memory_bytes"]), _percent(rank["waits_for_data"]), _percent(rank["waits_for_ranks"]),
            rank["doing"],
        )  # fmt: skip
    return table


def _mebibytes(number: int | None) -> str:
    return "" if number is None else f"{number / _MEBIBYTE:,.0f} MiB"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def show(look: Callable[[], Status], total_steps: int | None, follow: bool) -> Status:
    """Print one look, or with `follow` look again and again until the run has ended; return the last look."""
    console = Console(highlight=False)
    status = look()
    if not follow:
        console.print(status_table(status, total_steps))
        return status
    with Live(status_table(status, total_steps), console=console, auto_refresh=False) as live:
        while status.state in (RUNNING, WAITING):
            time.sleep(_REFRESH_SECONDS)
            status = look()
            live.update(status_table(status, total_steps), refresh=True)
    return status
