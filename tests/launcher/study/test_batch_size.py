"""Which sizes are tried, where the rate saturates, what the machine has left, and how sizes are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from megabatch.launcher.study.batch_size import Probe, between, doubling, saturation
from megabatch.launcher.study.memory import available_bytes
from megabatch.launcher.tune_commands import _bytes


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_doubling_and_bisection_find_the_largest_size_that_fits(most: int, capacity: int) -> None:
    tried = []
    for size in doubling(most):
        tried.append(size)
        if size > capacity:
            break
    largest = max(size for size in tried if size <= capacity)
    too_large = next((size for size in tried if size > capacity), None)
    while too_large is not None and (middle := between(largest, too_large)) is not None:
        largest, too_large = (middle, too_large) if middle <= capacity else (largest, middle)
    expected = min(most, capacity)
    assert expected - max(0, expected // 32) <= largest <= expected


def test_saturation_is_the_smallest_size_with_95_percent_of_the_best_rate() -> None:
    rates = {1: 10.0, 2: 50.0, 4: 94.9, 8: 95.0, 16: 100.0, 32: 99.0}
    probes = [Probe(size, True, rate, 1) for size, rate in rates.items()] + [Probe(64, False, None, None)]
    assert saturation(probes) == 8


def test_the_least_of_machine_and_control_groups_is_what_is_left(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert available_bytes(tmp_path) == 8000 * 1024
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", "1000\n")
    assert available_bytes(tmp_path) == 8000 * 1024
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000000\n")
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n")
    assert available_bytes(tmp_path) == 4_000_000
    write("proc/self/cgroup", "0::/user/job\n")
    write("sys/fs/cgroup/user/job/memory.max", "3000000\n")
    write("sys/fs/cgroup/user/job/memory.current", "500000\n")
    assert available_bytes(tmp_path) == 2_500_000


@pytest.mark.parametrize(("text", "expected"), [("500", 500), ("2K", 2048), ("3m", 3 << 20), ("8G", 8 << 30)])
def test_sizes_are_read(text: str, expected: int) -> None:
    assert _bytes(text) == expected


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-3M", "0", "3T", "1 G"])
def test_what_is_no_size_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        _bytes(text)
    assert "write a number of bytes" in capsys.readouterr().err
