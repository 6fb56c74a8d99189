"""Who is to blame? Functions of beats and of the observer's own clock; no thread, no store.

Clocks of two machines are never compared, and time in which the observer itself stood still does not count: it may have
been stopped together with the one that it looks at.
"""

from __future__ import annotations

from collections.abc import Sequence

from megabatch.trainer.watch.beats import Beat, Verdict, verdict_on

_SHOWN_FRAMES = 6
SLOW_WAITS, OTHERS_WAIT = 0.2, 0.5  # a slow rank hardly ever waits in a collective, the others half of the time or more


def interval_of(silent_seconds: float, num_ranks: int) -> float:
    """Return the seconds between two looks: five or more until somebody counts as silent.

    From 4,096 ranks on it grows with them, so that the store has 8,192 requests a second to answer at most.
    """
    return min(max(1.0, num_ranks / 4096), silent_seconds / 5)


def watched_by(rank: int, num_ranks: int, ranks_per_node: int) -> list[int]:
    """Return whom a rank looks at: the next one, and the next one on its machine, where a death is seen at once."""
    first = rank - rank % ranks_per_node
    on_machine = first + (rank - first + 1) % min(ranks_per_node, num_ranks - first)
    return sorted({(rank + 1) % num_ranks, on_machine} - {rank})


class Unchanged:
    """For how many seconds something has not changed, seen in looks about `interval` seconds apart."""

    def __init__(self, interval: float, now: float):
        self._interval = interval
        self._looked = now
        self._value: object = None
        self._seconds = 0.0

    def seconds(self, value: object, now: float) -> float:
        """Look at it; `now` is the observer's own monotonic clock."""
        passed = min(now - self._looked, 2 * self._interval)
        self._looked = now
        self._seconds = self._seconds + passed if value == self._value else 0.0
        self._value = value
        return self._seconds


def gone(beat: Beat, own: Beat) -> Verdict:
    """Return the verdict on a rank whose process has ended without leaving in order."""
    message = (
        f"rank {beat.rank} on {beat.host} ended before its time, without a word; {_last_seen(beat, own)}. It was "
        "killed (out of memory?), crashed, or something in it called exit: its log and the machine's tell more. Go on "
        "with --resume"
    )
    return verdict_on(beat, "gone", message)


def silent(beat: Beat, own: Beat, seconds: float, limit: float) -> Verdict:
    """Return the verdict on a rank that gives no sign of life."""
    message = (
        f"rank {beat.rank} on {beat.host} has been silent for {seconds:.0f} s "
        f"(cluster.limits.silent_seconds={limit:g}), {_last_seen(beat, own)}. Its process or its machine "
        "is stopped, or the network to it is down. Look there, then go on with --resume"
    )
    return verdict_on(beat, "silent", message)


def _last_seen(beat: Beat, own: Beat) -> str:
    """Return where a rank was when it was heard of last, and how far the one that tells it has come since."""
    return f"last seen {beat.seen} (rank {own.rank} has finished step {own.step})"


def no_store(own: Beat, seconds: float, limit: float) -> Verdict:
    """Return the verdict of a rank, the one of beat `own`, that gets no answer from the store."""
    message = (
        f"the store in which the ranks meet has given rank {own.rank} on {own.host} no answer for {seconds:.0f} s "
        f"(cluster.limits.silent_seconds={limit:g}), {own.seen}. It is in torchrun's process on the "
        "first machine, or in rank 0 without torchrun: that process or its machine is stopped or gone, or the network "
        "to it is down. Look there, then go on with --resume"
    )
    return verdict_on(own, "store", message)


def stuck(beats: Sequence[Beat], limit: float) -> Verdict:
    """Return the verdict after a collective that did not end in time, from the beats of all ranks after the alarm."""
    blamed, why = _keepers(beats)
    first, others = blamed[0], [beat for beat in beats if beat not in blamed]
    named = _named(blamed) if others else "every rank"
    waited = next((beat.collective for beat in others if beat.collective is not None), None)
    lines = [
        f"the ranks waited longer than cluster.limits.collective_timeout_seconds={limit:g} for {named}, {why}; last "
        f"seen {first.seen}"
    ]
    if first.stack:
        lines += [f"rank {first.rank} is at:", *(f"  {line}" for line in first.stack[-_SHOWN_FRAMES:])]
    if waited is not None:
        own = f"; the last that rank {first.rank} began: {first.collective}" if first.collective is not None else ""
        lines.append(f"the others wait in {waited}{own}")
    lines.append("logs/failure-rank-*.json have the stack of every rank")
    return verdict_on(first, "silent" if is_mute(first) else "stuck", "\n".join(lines))


def is_mute(beat: Beat) -> bool:
    """Return whether a rank has not answered an alarm."""
    return not (beat.stack or beat.finished)


def _keepers(beats: Sequence[Beat]) -> tuple[list[Beat], str]:
    """Return the ranks that keep the others waiting, and by what they are known."""
    if mute := [beat for beat in beats if is_mute(beat)]:
        return mute, "which gives no sign of life"
    if ended := [beat for beat in beats if beat.finished]:
        return ended, "which has ended"
    groups = set.intersection(*(set(beat.groups) for beat in beats))
    for group in sorted(groups, key=lambda name: (len(name), name)):
        most = max(beat.groups[group][0] for beat in beats)
        if behind := [beat for beat in beats if beat.groups[group][0] < most]:
            return behind, "which did not begin that collective"
    last = max(beat.step for beat in beats)
    if behind := [beat for beat in beats if beat.step < last]:
        return behind, "which is steps behind"
    if idle := [beat for beat in beats if beat.groups and not beat.is_waiting]:
        return idle, "which waits for nobody"
    return list(beats), "and all of them are in the same collective: look at the network between them"


def _named(beats: Sequence[Beat]) -> str:
    """Return "rank 3 on node7", or the first of several."""
    first = f"rank {beats[0].rank} on {beats[0].host}"
    return first if len(beats) == 1 else f"{first} and {len(beats) - 1} more"


def slow(own: Beat, other: Beat) -> str | None:
    """Return what to say if this rank waits for the others most of the time, and the other one hardly ever does."""
    if own.waits is None or other.waits is None or own.waits < OTHERS_WAIT or other.waits > SLOW_WAITS:
        return None
    return (
        f"rank {other.rank} on {other.host} is slow: rank {own.rank} waits in collectives {own.waits:.0%} of the time, "
        f"rank {other.rank} {other.waits:.0%}; seen {other.seen}"
    )
