"""A growing batch: every sample once an epoch, and every question to Steps has the answer of a plain walk."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.configs.load import load
from megabatch.data.rate import learning_rate_of
from megabatch.data.steps import Steps, steps_of


@st.composite
def ramps(draw: Any) -> Steps:
    samples, epochs = draw(st.integers(1, 60)), draw(st.integers(1, 5))
    starts = sorted(draw(st.sets(st.integers(1, samples * epochs), max_size=4)))
    ramp = tuple((start, draw(st.integers(1, 70))) for start in starts)
    return Steps(samples, epochs, draw(st.integers(1, 70)), draw(st.integers(1, 9)), "short", ramp)


def walk(steps: Steps) -> list[tuple[int, int, int]]:
    """Return (epoch, start, stop) of every step, by walking from one to the next."""
    found = []
    for epoch in range(steps.epochs):
        start = 0
        while start < steps.samples:
            seen = epoch * steps.samples + start
            batch = ([steps.global_batch] + [size for begin, size in steps.ramp if begin <= seen])[-1]
            found.append((epoch, start, min(start + batch, steps.samples)))
            start = found[-1][2]
    return found


@settings(deadline=None, max_examples=300)
@given(ramps(), st.integers(1, 6))
def test_every_question_has_the_answer_of_a_plain_walk(steps: Steps, num_ranks: int) -> None:
    walked = walk(steps)
    assert steps.total == len(walked)
    spans = [steps.at(step) for step in range(steps.total)]
    assert [(span.epoch, span.start, span.stop) for span in spans] == walked
    before = 0
    for step, (epoch, start, stop) in enumerate(walked):
        before = 0 if start == 0 else before
        assert spans[step].first_micro_batch == before
        before += -(-(stop - start) // steps.micro_batch)
        seen = epoch * steps.samples + start
        assert steps.samples_seen(step) == seen
        assert steps.step_at(seen) == step
        assert all(steps.step_at(seen + more) == step + 1 for more in range(1, stop - start + 1))
        assert steps.progress(step)[1] == (epoch if start == 0 else None)
        parts = [part for rank in range(num_ranks) for part in spans[step].of_rank(rank, num_ranks) if part.samples]
        assert sorted(i for part in parts for i in range(part.start, part.stop)) == list(range(start, stop))
    assert steps.progress(steps.total)[1] == steps.epochs
    assert steps.samples_seen(steps.total) == steps.samples * steps.epochs


@pytest.mark.parametrize(("mode", "expected"), [("follow", [0.1, 0.1, 0.2, 0.4]), ("constant", [0.1] * 4)])
def test_the_learning_rate_follows_the_batch_or_stays(mode: str, expected: list[float]) -> None:
    recipe = load("digits", "laptop", [
        "epochs=4", "batch={global_batch: 32, micro_batch: 8, ramp: [{epoch: 2, global_batch: 64}, "
        f"{{samples: 300, global_batch: 128}}], ramp_learning_rate: {mode}}}",
        "optimizer={name: sgd, base_learning_rate: 0.1, base_batch: 32}", "schedule={name: constant, warmup: 0}",
    ]).recipe  # fmt: skip
    steps = steps_of(recipe, 100)
    rate = learning_rate_of(recipe, steps)
    assert [rate.at(epoch) for epoch in range(4)] == pytest.approx(expected)
