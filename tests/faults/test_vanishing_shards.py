"""F17: a shard goes away in the middle of an epoch. An error that names it, or the same training; never a shorter epoch.

A shard that is open stays mapped: a removed file lives on until the last process lets go of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.data.errors import DataError
from megabatch.trainer import loop
from support.runs import Workplace, losses, trained_samples
from support.shards import dataset
from support.training import at_steps, training

SHARDS = 22  # of two samples each; an epoch of 11 steps takes one after the other
ORDER = (
    "batch={global_batch: 4, micro_batch: 4}", "data.shuffle={streams: 1, window_shards: 1, block_samples: 2}",
    "cluster.loader_threads=1",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    dataset(tmp_path, {"train": 2 * SHARDS}, samples_per_shard=2)
    place = Workplace(tmp_path)
    place.write()
    return place


def remove(shard: Path) -> None:
    shard.unlink()


def replace_by_a_folder(shard: Path) -> None:
    shard.unlink()
    shard.mkdir()


def cut(shard: Path) -> None:
    content = shard.read_bytes()
    shard.unlink()  # the mapping of an open one stays whole
    shard.write_bytes(content[: len(content) // 2])


def loop_of_links(shard: Path) -> None:
    shard.unlink()
    shard.symlink_to(shard)


def in_order(place: Workplace) -> list[Path]:
    """Return the shards of the first epoch in the order in which they are read."""
    with training(place, "first-epoch", *ORDER, "epochs=1") as parts:
        loop.train(parts)
        ids = [sample for step in trained_samples(parts.run_dir) for sample in step]
    return [place.folder / "data" / f"train-{sample // 2:06d}.tar" for sample in ids[::2]]


@pytest.mark.parametrize("harm", [remove, replace_by_a_folder, cut, loop_of_links])
def test_a_shard_not_opened_yet_ends_the_run_with_its_name_and_no_shorter_epoch(
    place: Workplace, harm: Callable[[Path], None]
) -> None:
    last = in_order(place)[-1]
    with training(place, "run", *ORDER, "epochs=1") as parts:
        at_steps(parts, {1: lambda: harm(last)})
        with pytest.raises(DataError, match=str(last)):
            loop.train(parts)
        assert 1 <= parts.state.step < 11
        assert len(losses(parts.run_dir)) == parts.state.step


def test_with_skip_its_samples_are_counted_and_the_epoch_keeps_its_steps(place: Workplace) -> None:
    last = in_order(place)[-1]
    with training(place, "run", *ORDER, "epochs=1", "data.on_error={name: skip, max_samples: 2}") as parts:
        at_steps(parts, {1: lambda: remove(last)})
        assert loop.train(parts) == "finished"
        assert parts.state.step == 11
        assert parts.step_parts.ledger.summary() == "shard: 2"


@pytest.mark.parametrize("harm", [remove, replace_by_a_folder, cut])
def test_an_open_shard_that_goes_away_is_read_to_the_end_and_missed_at_the_next_start(
    place: Workplace, harm: Callable[[Path], None]
) -> None:
    first = in_order(place)[0]
    with training(place, "alone", *ORDER, "epochs=2") as parts:
        loop.train(parts)
        reference = losses(parts.run_dir)
    with training(place, "run", *ORDER, "epochs=2", "checkpoint.every_steps=15") as parts:
        at_steps(parts, {11: lambda: harm(first)})
        loop.train(parts)
        assert losses(parts.run_dir) == reference
    with pytest.raises(ConfigError, match=str(first)), training(place, "again", *ORDER, "epochs=2"):
        pass
