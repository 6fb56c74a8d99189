"""Curves: no spike is lost when they are made short, and what they say in words is what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.launcher.report.charts import Chart, Series, axes, charts_of, most_points
from megabatch.launcher.report.points import bucket_means, extremes, short
from megabatch.launcher.report.run import Run, read_run
from support.report_runs import rich_run

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400).map(np.array)


@given(values, st.integers(4, 60))
def test_short_curves_keep_the_ends_the_highest_and_the_lowest(found: np.ndarray, most: int) -> None:
    kept = extremes(found, most)
    assert len(kept) <= most + 2
    assert np.all(np.diff(kept) > 0)
    assert {0, len(found) - 1} <= set(kept.tolist())
    assert (found[kept].min(), found[kept].max()) == (found.min(), found.max())


@given(values, st.integers(1, 20))
def test_means_of_buckets_have_the_mean_of_all(found: np.ndarray, buckets: int) -> None:
    repeated = np.repeat(found, buckets)  # a whole number of points for each
    x, y = bucket_means(np.arange(len(repeated), dtype=float), repeated, buckets)
    assert len(x) == len(y) == buckets
    assert np.mean(y) == pytest.approx(np.mean(found), abs=1e-6)


@given(st.floats(-1e12, 1e12))
def test_short_numbers_are_the_same_to_five_digits(value: float) -> None:
    assert short(value) == pytest.approx(value, rel=1e-4)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(rich_run(tmp_path_factory.mktemp("report") / "rich", 600))


def test_a_run_has_a_chart_for_everything_that_was_measured(rich: Run) -> None:
    keys = [chart.key for chart in charts_of(rich)]
    assert keys == [
        "loss", "top1", "top5", "learning_rate", "samples_per_second", "gradient_norm", "noise_scale",
        "data_wait_share", "memory_bytes", "gpu_memory_bytes", "waits_for_ranks",
    ]  # fmt: skip


def test_restarts_and_bad_steps_are_marked(rich: Run) -> None:
    loss = charts_of(rich)[0]
    assert sorted(loss.marks) == [(200.0, "bad step"), (300.0, "start 2")]
    assert [one.name for one in loss.series] == ["training, every step", "training, mean of 3", "validation", "test"]


def test_a_chart_is_told_in_words() -> None:
    steps = np.array([10.0, 20.0, 30.0])
    curves = (
        Series("validation", "line", steps, np.array([0.5, 0.9, 0.875])),
        Series("test", "dots", steps[:1], np.array([0.8])),
        Series("validation, every step", "faint", steps, steps),
        Series("constant", "line", steps, np.array([0.25, 0.25, 0.25])),
    )
    assert Chart("top1", "Top-1", "share", curves, better="highest").text == (
        "Validation: from 50.00% to 87.50%, highest 90.00% at step 20. Test: 80.00% at step 10. "
        "Constant: 25.00% throughout."
    )


def test_between_the_steps_that_a_page_knows_samples_and_hours_are_even(rich: Run) -> None:
    known = axes(rich)
    assert np.allclose(np.array(known["samples"]), 256 * np.array(known["step"]), rtol=1e-4)
    assert all(np.all(np.diff(known[name]) >= 0) for name in ("step", "samples", "hours"))


def test_many_curves_have_fewer_points_each() -> None:
    series = tuple(Series(f"{n}", "line", np.arange(5.0), np.arange(5.0)) for n in range(100))
    assert most_points([Chart("a", "a", "number", series)]) == 600
    assert most_points([Chart("a", "a", "number", series[:3])]) == 2000


def test_of_many_ranks_lowest_median_and_highest_are_drawn(tmp_path: Path) -> None:
    run_dir = rich_run(tmp_path / "many", 20)
    ranks = [{"rank": n, "host": "h", "waits_for_ranks": n / 100, "memory_bytes": 1 << 30} for n in range(32)]
    run_dir.rank_history.write_text(f'{{"attempt": 2, "step": 5, "ranks": {ranks}}}\n'.replace("'", '"'))
    chart = next(chart for chart in charts_of(read_run(run_dir)) if chart.key == "waits_for_ranks")
    assert [(one.name, float(one.values[0])) for one in chart.series] == [
        ("lowest", 0.0), ("median", pytest.approx(0.155)), ("highest", 0.31),
    ]  # fmt: skip
