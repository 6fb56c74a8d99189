"""The thread, over a store in memory: several ranks in one process, and what real faults of processes do not reach."""

from __future__ import annotations

import json
import queue
import time

import pytest
import torch
import torch.distributed as dist

from megabatch.configs.cluster import Limits
from megabatch.trainer.watch import doing, watch
from megabatch.trainer.watch.beats import Beat, PeerLostError, Verdict
from megabatch.trainer.watch.watch import Place, Watch

LIMITS = Limits(collective_timeout_seconds=1, silent_seconds=1)
WAIT = 30.0  # far more than any needs


class Ranks:
    """The watches of some ranks that share a store, what they told, and the verdicts on which they would have ended."""

    def __init__(self, count: int, device: str):
        self.ended: queue.Queue[Verdict] = queue.Queue()
        self.told: queue.Queue[str] = queue.Queue()
        self.store = dist.HashStore()  # type: ignore[attr-defined]
        self.watches = [
            Watch(
                Place(rank, count, f"node{rank}", torch.device(device), ((rank + 1) % count,)), lambda: self.store, LIMITS,
                self.ended.put, self.told.put,
            )
            for rank in range(count)
        ]  # fmt: skip

    def start(self) -> None:
        for one in self.watches:
            one.follow(lambda: 5)
            one.start()


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_GRACE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_grace")
def test_a_collective_on_a_gpu_that_takes_too_long_ends_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doing, "collectives", lambda _: {"0": (3, 2)})
    monkeypatch.setattr(doing, "last_collective", lambda _: "nccl:all_reduce number 3 of Float [8]")
    ranks = Ranks(3, "cuda")
    ranks.start()
    verdicts = [ranks.ended.get(timeout=WAIT) for _ in range(3)]
    assert {verdict.kind for verdict in verdicts} == {"stuck"}
    assert "collective_timeout_seconds=1 for every rank" in verdicts[0].message


def test_collectives_that_follow_each_other_are_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(1, 10**9))
    monkeypatch.setattr(doing, "collectives", lambda _: {"0": (number := next(numbers), number - 1)})
    ranks = Ranks(2, "cuda")
    ranks.start()
    with pytest.raises(queue.Empty):
        ranks.ended.get(timeout=2.5 * LIMITS.collective_timeout_seconds)
    for one in ranks.watches:
        one.finish()
    assert all(Beat.from_json(ranks.store.get(f"beat/{rank}")).finished for rank in range(2))


def test_an_error_that_another_rank_caused_becomes_its_verdict_and_one_of_its_own_stays() -> None:
    ranks = Ranks(2, "cpu")
    ranks.start()
    first, second = ranks.watches
    own = ValueError("a mistake")
    assert first.explain(own) is own
    first.finish()
    told = second.explain(RuntimeError("... Connection closed by peer [127.0.0.1]:1"))
    assert isinstance(told, PeerLostError)
    assert (told.verdict.kind, told.verdict.rank) == ("failed", 0)
    assert str(told) == "rank 0 on node0 failed: ValueError: a mistake"
    second.finish()
    assert ranks.ended.empty(), "the main thread ended by itself"


def test_a_connection_that_breaks_is_made_again() -> None:
    class Broken(dist.HashStore):  # type: ignore[misc, name-defined]
        def multi_get(self, keys: list[str]) -> list[bytes]:
            raise RuntimeError("Connection reset by peer")

    good = dist.HashStore()  # type: ignore[attr-defined]
    stores = iter([Broken()])
    place = Place(0, 2, "node0", torch.device("cpu"), ())
    one = Watch(place, lambda: next(stores, good), LIMITS, lambda _: None, lambda _: None)
    for key in ("word", "slow"):
        good.set(key, watch.QUIET)
    one.start()
    while one._answered < 3:
        time.sleep(0.01)
    one.finish()
    assert Beat.from_json(good.get("beat/0")).finished
    assert one.verdict is None


@pytest.mark.usefixtures("no_grace")
def test_a_rank_that_gave_an_alarm_and_then_fell_silent_is_the_one_that_is_named() -> None:
    ranks = Ranks(2, "cpu")
    ranks.store.set("word", json.dumps({"alarm": 1}))
    ranks.watches[0].follow(lambda: 5)
    ranks.watches[0].start()  # and not the other
    verdict = ranks.ended.get(timeout=WAIT)
    assert (verdict.kind, verdict.rank) == ("silent", 1)


def test_a_slow_rank_is_told_once_by_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(3, "cpu")
    waits = {0: 0.9, 1: 0.9, 2: 0.05}
    beat = Watch._beat

    def with_waits(self: Watch) -> Beat:
        one = beat(self)
        return Beat(**{**vars(one), "waits": waits[one.rank]})

    monkeypatch.setattr(Watch, "_beat", with_waits)
    ranks.start()
    assert ranks.told.get(timeout=WAIT).startswith("warning: rank 2 on node2 is slow: rank 1 waits in collectives 90%")
    with pytest.raises(queue.Empty):
        ranks.told.get(timeout=1)
    for one in ranks.watches:
        one.finish()
