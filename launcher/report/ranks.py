"""Which rank the others wait for, told by what each waits for: an all-reduce makes the time of a step the same for all.

All ranks leave a collective together. A straggler is one that waits little for the others while they wait for it; the
time it waits for its own data says whether its input is why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from megabatch.configs.sizes import size
from megabatch.launcher.report import words
from megabatch.launcher.report.metrics import number
from megabatch.launcher.report.run import Run
from megabatch.launcher.report.table import Table

_MOST_ROWS = 64
_LAGS = 0.10  # of the time the others wait longer than a straggler does
_OF_INPUT = 0.5  # of that must be the wait for its own data, or its input is not why


@dataclass(frozen=True)
class RankMeans:
    """What a rank did over the last start: shares of the time, most bytes."""

    rank: int
    host: str
    waits_for_ranks: float | None
    waits_for_data: float | None
    memory_bytes: float | None
    gpu_memory_bytes: float | None


@dataclass(frozen=True)
class Ranks:
    """The sentence and the table of the section."""

    told: str
    table: Table


def ranks_of(run: Run) -> Ranks | None:
    """Return how the ranks of the last start compare; None where nothing was written about them."""
    newest = max((int(line.get("attempt") or 0) for line in run.rank_history), default=0)
    found = _means([line for line in run.rank_history if int(line.get("attempt") or 0) == newest])
    if not found:
        return None
    slow = stragglers(found)
    rows = tuple(_row(one, one.rank in slow) for one in sorted(found, key=_by_wait)[:_MOST_ROWS])
    columns = ("Rank", "Host", "Waits for others", "Waits for data", "Memory", "GPU memory", "")
    return Ranks(_told(found, slow), Table(columns, rows, texts=2))


def stragglers(found: Sequence[RankMeans]) -> dict[int, str]:
    """Return the ranks that the others wait for, and what holds each of them up."""
    waits = {one.rank: one.waits_for_ranks for one in found if one.waits_for_ranks is not None}
    if len(waits) < 2:
        return {}
    slow = {}
    for one in found:
        others = [wait for rank, wait in waits.items() if rank != one.rank]
        if one.rank in waits and median(others) - waits[one.rank] > _LAGS:
            lag = median(others) - waits[one.rank]
            of_input = (one.waits_for_data or 0.0) > _OF_INPUT * lag
            slow[one.rank] = "its input" if of_input else "its computing"
    return slow if len(slow) <= len(waits) // 2 else {}


def _means(lines: Sequence[dict[str, object]]) -> list[RankMeans]:
    seen: dict[int, list[dict[str, object]]] = defaultdict(list)
    for line in lines:
        ranks = line.get("ranks")
        for entry in ranks if isinstance(ranks, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("rank"), int):
                seen[entry["rank"]].append(entry)
    return [_mean_of(rank, entries) for rank, entries in sorted(seen.items())]


def _mean_of(rank: int, entries: Sequence[dict[str, object]]) -> RankMeans:
    def known(name: str) -> list[float]:
        return [value for entry in entries if (value := number(entry.get(name))) == value]  # nan is not itself

    shares = [mean(values) if (values := known(name)) else None for name in ("waits_for_ranks", "waits_for_data")]
    most = [max(values) if (values := known(name)) else None for name in ("memory_bytes", "gpu_memory_bytes")]
    return RankMeans(rank, str(entries[-1].get("host") or ""), shares[0], shares[1], most[0], most[1])


def _told(found: Sequence[RankMeans], slow: dict[int, str]) -> str:
    if len(found) == 1:
        return "There is one rank, which waits for nobody."
    if sum(one.waits_for_ranks is not None for one in found) < 2:
        return "The start was too short to tell which rank the others wait for."
    if not slow:
        return "No rank holds the others up."
    hosts = {one.rank: one.host for one in found}
    named = [f"rank {rank} on {words.plain(hosts[rank])} ({why})" for rank, why in list(slow.items())[:5]]
    more = f" and {len(slow) - 5} more" if len(slow) > 5 else ""
    return f"The others wait for {', '.join(named)}{more}."


def _row(one: RankMeans, is_slow: bool) -> tuple[str, ...]:
    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.1%}"

    def memory(value: float | None) -> str:
        return "" if value is None else size(value)

    return (
        f"{one.rank}", words.plain(one.host), share(one.waits_for_ranks), share(one.waits_for_data),
        memory(one.memory_bytes), memory(one.gpu_memory_bytes), "straggler" if is_slow else "",
    )  # fmt: skip


def _by_wait(one: RankMeans) -> float:
    return one.waits_for_ranks if one.waits_for_ranks is not None else 1.0
