"""`data.normalize: auto` becomes numbers, or says which command makes them."""

from __future__ import annotations

from typing import Any

import pytest

from megabatch.configs.normalization import Auto, Fixed, MinMax, PerImage, resolved

RGB = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.1, 0.3], "samples": 7}
STATS = {"format": "megabatch-stats-1", "train": RGB, "test": {"mean": [0, 0, 0], "std": [1, 1, 1]}}


def test_auto_takes_the_numbers_of_the_training_split() -> None:
    fixed = Fixed(mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.3))
    assert resolved(Auto(), STATS, "train", "data/x") == fixed


@pytest.mark.parametrize("chosen", [Fixed(), PerImage(), MinMax()])
def test_what_is_not_auto_stays(chosen: Fixed | PerImage | MinMax) -> None:
    assert resolved(chosen, None, "train", "data/x") is chosen


@pytest.mark.parametrize(
    ("stats", "seen"),
    [
        (None, "data/x has no stats.json"),
        ("no JSON", "data/x/stats.json is not of format 'megabatch-stats-1'"),
        ({**STATS, "format": "megabatch-stats-2"}, "data/x/stats.json is not of format 'megabatch-stats-1'"),
        ({"format": "megabatch-stats-1"}, "no mean and std above 0 of three channels for the split 'train'"),
        ({**STATS, "train": [1]}, "no mean and std above 0"),
        ({**STATS, "train": {**RGB, "std": [0.1, 0.0, 0.1]}}, "no mean and std above 0"),
        ({**STATS, "train": {**RGB, "mean": [0.5]}}, "no mean and std above 0"),
        ({**STATS, "train": {**RGB, "mean": 0.5}}, "no mean and std above 0"),
        ({**STATS, "train": {**RGB, "mean": [0.5, None, 0.5]}}, "no mean and std above 0"),
    ],
)
def test_unusable_statistics_are_refused_with_the_command_that_makes_them(stats: Any, seen: str) -> None:
    with pytest.raises(ValueError, match="normalize is auto, but") as caught:
        resolved(Auto(), stats, "train", "data/x")
    assert seen in str(caught.value)
    assert "Run `megabatch data stats data/x`" in str(caught.value)
