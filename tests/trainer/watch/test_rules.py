"""Who is to blame, from beats and a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.trainer.watch import rules
from megabatch.trainer.watch.beats import Beat, Verdict, verdict_on


def beat(rank: int, step: int = 7, begun: int = 20, ended: int = 20, stack: tuple[str, ...] = ("x.py:1 in f",)) -> Beat:
    return Beat(
        rank, f"node{rank // 2}", f"boot {rank}/1{rank}/55", 3, step, "training", {"0": (begun, ended)}, stack=stack,
        collective=f"gloo:all_reduce number {begun} of Float [663]",
    )  # fmt: skip


def waiting(rank: int) -> Beat:
    return beat(rank, begun=21)


def test_beats_and_verdicts_come_back_as_they_were_written() -> None:
    one = replace(beat(1), waits=0.25, finished=True)
    assert Beat.from_json(one.to_json().encode()) == one
    verdict = verdict_on(one, "gone", "rank 1 is gone")
    assert Verdict.from_json(verdict.to_json().encode()) == verdict


@given(st.integers(1, 64), st.integers(1, 16))
def test_every_rank_is_watched_from_its_machine_and_every_machine_from_another(nodes: int, ranks_per_node: int) -> None:
    ranks = nodes * ranks_per_node
    watched = {rank: rules.watched_by(rank, ranks, ranks_per_node) for rank in range(ranks)}
    for rank in range(ranks):
        assert rank not in watched[rank]
        assert len(watched[rank]) <= 2
        watchers = {other // ranks_per_node for other in watched if rank in watched[other]}
        assert ranks_per_node == 1 or rank // ranks_per_node in watchers
    for node in range(nodes):
        seen_from = {other // ranks_per_node for other in watched if node * ranks_per_node in watched[other]}
        assert nodes == 1 or seen_from - {node}


@given(st.lists(st.tuples(st.floats(0, 500), st.booleans()), max_size=30))
def test_the_seconds_of_silence_never_exceed_those_that_passed_nor_two_intervals_a_look(
    looks: list[tuple[float, bool]],
) -> None:
    unchanged = rules.Unchanged(interval=1.0, now=100.0)
    now, since, value = 100.0, 0.0, 0
    unchanged.seconds(value, now)
    looks_since = 0
    for passed, changes in looks:
        now += passed
        value += changes
        since, looks_since = (0.0, 0) if changes else (since + passed, looks_since + 1)
        seconds = unchanged.seconds(value, now)
        assert seconds <= since + 1e-6
        assert seconds <= 2 * looks_since
        assert not changes or seconds == 0


def test_an_observer_that_was_stopped_with_the_rest_finds_nobody_silent() -> None:
    unchanged = rules.Unchanged(interval=1.0, now=0.0)
    assert unchanged.seconds(1, 1.0) == 0
    assert unchanged.seconds(1, 3601.0) == 2.0
    assert unchanged.seconds(2, 3602.0) == 0


@pytest.mark.parametrize(("silent", "ranks", "interval"), [(60, 2, 1), (60, 16_384, 4), (2, 2, 0.4), (5, 16_384, 1)])
def test_a_rank_is_looked_at_five_times_before_it_counts_as_silent(silent: int, ranks: int, interval: float) -> None:
    assert rules.interval_of(silent, ranks) == interval
    assert silent / interval >= 5


def test_the_rank_that_did_not_begin_the_collective_is_blamed_with_its_stack() -> None:
    stuck = replace(beat(2), stack=("loop.py:5 in train", "mine.py:9 in sleep"))
    verdict = rules.stuck([waiting(0), waiting(1), stuck, waiting(3)], 600)
    assert (verdict.kind, verdict.rank, verdict.host, verdict.step) == ("stuck", 2, "node1", 7)
    assert verdict.message == (
        "the ranks waited longer than cluster.limits.collective_timeout_seconds=600 for rank 2 on node1, which did not "
        "begin that collective; last seen after step 7, training\n"
        "rank 2 is at:\n"
        "  loop.py:5 in train\n"
        "  mine.py:9 in sleep\n"
        "the others wait in gloo:all_reduce number 21 of Float [663]; the last that rank 2 began: "
        "gloo:all_reduce number 20 of Float [663]\n"
        "logs/failure-rank-*.json have the stack of every rank"
    )


@pytest.mark.parametrize(
    ("culprits", "words"),
    [
        ({1: beat(1, stack=())}, "which gives no sign of life"),
        ({1: replace(beat(1, stack=()), finished=True)}, "which has ended"),
        ({1: beat(1, begun=19)}, "which did not begin that collective"),
        ({1: replace(beat(1, step=6), groups={})}, "which is steps behind"),
        ({1: beat(1, begun=21, ended=21)}, "which waits for nobody"),
        ({1: beat(1, begun=19), 3: beat(3, begun=20)}, "rank 1 on node0 and 1 more, which did not begin"),
    ],
)
def test_who_keeps_the_others_waiting_is_known_by(culprits: dict[int, Beat], words: str) -> None:
    verdict = rules.stuck([culprits.get(rank, waiting(rank)) for rank in range(4)], 600)
    assert verdict.rank == 1
    assert words in verdict.message
    assert verdict.kind == ("silent" if words == "which gives no sign of life" else "stuck")


def test_where_all_wait_in_the_same_collective_nobody_is_blamed() -> None:
    message = rules.stuck([waiting(rank) for rank in range(4)], 600).message
    assert "for every rank, and all of them are in the same collective: look at the network" in message


def test_a_slow_rank_is_one_that_the_others_wait_for() -> None:
    own, other = replace(beat(0), waits=0.8), replace(beat(1), waits=0.1)
    told = rules.slow(own, other)
    assert told is not None
    assert told.startswith("rank 1 on node0 is slow: rank 0 waits in collectives 80% of the time, rank 1 10%")
    assert rules.slow(other, own) is None
    assert rules.slow(own, own) is None
    assert rules.slow(own, replace(other, waits=None)) is None
