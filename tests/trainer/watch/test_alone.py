"""A rank that is alone shows what many show of each other."""

from __future__ import annotations

import queue
from collections.abc import Sequence

import pytest
import torch

from megabatch.trainer.watch import alone, doing
from megabatch.trainer.watch.alone import Alone
from megabatch.trainer.watch.beats import Beat

WAIT = 30.0  # far more than any needs


def test_it_shows_its_step_its_memory_and_how_it_waits_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_INTERVAL_SECONDS", 0.001)
    looks = iter(range(10**9))
    monkeypatch.setattr(doing, "activity", lambda _: doing.WAITING_FOR_DATA if next(looks) % 3 == 0 else "training")
    shown: queue.Queue[Sequence[Beat]] = queue.Queue()
    watch = Alone("node0", torch.device("cpu"), shown.put)
    watch.follow(lambda: 7)
    watch.start()
    beats = [shown.get(timeout=WAIT)[0] for _ in range(10)]
    watch.finish()
    watch._thread.join(WAIT)
    assert not watch._thread.is_alive()
    assert [beat.number for beat in beats] == list(range(4, 44, 4))
    assert {(beat.rank, beat.host, beat.step, beat.waits, beat.gpu_memory_bytes) for beat in beats} == {
        (0, "node0", 7, None, None)
    }
    assert all(beat.memory_bytes > 1 << 20 for beat in beats)
    assert [beat.waits_for_data for beat in beats[:7]] == [None] * 7  # not yet half a minute
    assert beats[-1].waits_for_data == pytest.approx(1 / 3)
