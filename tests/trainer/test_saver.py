"""Saving in the background: the values of the call, one save at a time, and every error in the loop's own thread."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load

from megabatch.configs.evaluation import Checkpoint
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.saver import Saver
from megabatch.trainer.saving_ranks import Alone
from megabatch.trainer.state import TrainState
from megabatch.trainer.tensor_files import _NAMES, describe_file, tensor_pieces
from megabatch.trainer.trackers.base import Trackers


class Told:
    """A tracker that remembers what it is told."""

    def __init__(self) -> None:
        self.checkpoints: list[dict[str, Any]] = []
        self.messages: list[str] = []

    def checkpoint(self, values: dict[str, Any]) -> None:
        self.checkpoints.append(values)

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def saver(tmp_path: Path, told: Told) -> Iterator[Saver]:
    saver = Saver(RunDir(tmp_path / "run"), Checkpoint(), Alone(), Trackers((told,)))  # type: ignore[arg-type]
    yield saver
    saver.close()


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.BatchNorm2d(64), torch.nn.Conv2d(64, 64, 3)).to(
        memory_format=torch.channels_last
    )


def nothing_more() -> set[int]:
    return set()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_is_saved_is_the_value_at_the_call_though_the_optimizer_steps_right_after(
    saver: Saver, tmp_path: Path
) -> None:
    """F13, after pytorch#144657: the bytes of a synchronous save, 100 of 100 times."""
    model, state = network(), TrainState()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(1, 101):
        state.step = step
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        momenta = {str(n): optimizer.state[p]["momentum_buffer"] for n, p in enumerate(model.parameters())}
        snapshot = Snapshot(dict(model.state_dict()), momenta, {"training": state.to_json()}, {"copy": model[0].weight})
        expected = checkpoint.save(RunDir(tmp_path / "synchronous"), step, snapshot)
        saver.save(state, snapshot, nothing_more)
        optimizer.step()
        state.step = 0
        saver.wait()
        assert bytes_of(tmp_path / "run" / "checkpoints" / expected.name) == bytes_of(expected)


def test_the_memory_of_the_copy_is_used_again(saver: Saver) -> None:
    tensors = {"a": torch.zeros(3), "b": torch.zeros(2)}
    first, _ = saver._copy.take(Snapshot(tensors, {}, {}))
    second, _ = saver._copy.take(Snapshot({**tensors, "b": torch.zeros(4)}, {}, {}))
    assert second.network["a"].data_ptr() == first.network["a"].data_ptr() != tensors["a"].data_ptr()
    assert second.network["b"].shape == (4,)


def test_a_save_waits_for_the_one_before_and_says_how_long(
    saver: Saver, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []
    running = 0
    go_on = threading.Event()

    def slow(run_dir: RunDir, step: int, snapshot: Snapshot, *rest: object) -> None:
        nonlocal running
        running += 1
        at_once.append(running)
        assert go_on.wait(60)
        running -= 1

    monkeypatch.setattr(checkpoint, "save", slow)
    saver.save(TrainState(step=1), Snapshot({}, {}, {}), nothing_more)
    saver.tell()
    assert told.checkpoints == []  # it is still being written, and `tell` does not wait
    threading.Timer(0.3, go_on.set).start()
    saver.save(TrainState(step=2), Snapshot({}, {}, {}), nothing_more)
    saver.wait()
    assert at_once == [1, 1]
    first, second = told.checkpoints
    assert (first["step"], second["step"]) == (1, 2)
    assert first["waited_seconds"] <= first["stalled_seconds"] < first["background_seconds"]
    assert 0.1 < second["waited_seconds"] <= second["stalled_seconds"]


def test_an_error_of_the_thread_reaches_the_loop(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(checkpoint, "save", broken)
    saver.save(TrainState(step=1), Snapshot({}, {}, {}), nothing_more)
    with pytest.raises(ValueError, match="a mistake of ours"):
        saver.wait()


def test_a_save_that_was_begun_is_there_after_closing(saver: Saver, tmp_path: Path) -> None:
    saver.save(TrainState(step=1), Snapshot({"w": torch.ones(1000)}, {}, {}), nothing_more)
    saver.close()
    assert checkpoint.damage(RunDir(tmp_path / "run").checkpoint(1)) is None


def test_a_type_without_a_name_in_the_format_is_told_with_the_tensor(saver: Saver) -> None:
    saver.save(TrainState(step=1), Snapshot({"odd": torch.zeros(2, dtype=torch.complex128)}, {}, {}), nothing_more)
    with pytest.raises(TrainingError, match=r"odd is of torch\.complex128"):
        saver.wait()


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
        st.tuples(arrays.array_shapes(min_dims=0, min_side=0, max_side=5), st.sampled_from(sorted(_NAMES, key=str))),
        max_size=6,
    )
)
def test_the_library_reads_what_is_written(wanted: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    tensors = {name: torch.randint(0, 2, shape).to(dtype) for name, (shape, dtype) in wanted.items()}
    found = load(b"".join(tensor_pieces(tensors)))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bytes(found[name].reshape(-1).view(torch.uint8)) == bytes(tensor.reshape(-1).view(torch.uint8))


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_three_failures_in_a_row_end_the_run_and_a_success_between_counts_anew(
    saver: Saver, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(1, 100))

    def save(works: bool) -> None:
        with monkeypatch.context() as patch:
            if not works:
                patch.setattr(checkpoint, "save", no_room)
            saver.save(TrainState(step=next(steps)), Snapshot({}, {}, {}), nothing_more)
            saver.wait()

    for works in (False, False, True, False, False):
        save(works)
    assert ["error" in line for line in told.checkpoints] == [True, True, False, True, True]
    assert len(told.messages) == 4
    assert "the checkpoint of step 5 could not be written: [Errno 28] No space left on device" in told.messages[-1]
    assert told.messages[-1].endswith("the training goes on: failure 2 in a row, number 3 ends it")
    with pytest.raises(TrainingError, match=r"step 6 .* This was failure 3 in a row, checkpoint\.max_failures allows"):
        save(False)


def test_a_run_does_not_end_well_without_its_last_checkpoint(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "save", no_room)
    saver.save(TrainState(step=1), Snapshot({}, {}, {}), nothing_more)
    with pytest.raises(TrainingError, match="the last checkpoint could not be written"):
        saver.finish()


def test_a_checkpoint_is_hashed_once_in_a_run_however_often_there_is_a_save(
    saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, hashed = RunDir(tmp_path / "run"), []
    before = checkpoint.save(run_dir, 1, Snapshot({"w": torch.ones(3)}, {}, {}))

    def describe(file: Path) -> dict[str, Any]:
        hashed.append(file)
        return describe_file(file)

    monkeypatch.setattr(checkpoint, "describe_file", describe)
    assert checkpoint.newest(run_dir, damage_of=saver.verified.damage) == (before, [])
    assert {file.parent for file in hashed} == {before}
    hashed.clear()
    for step in (2, 3, 4):
        saver.save(TrainState(step=step), Snapshot({"w": torch.ones(3)}, {}, {}), lambda: {1})
        saver.wait()
    assert hashed == []
    assert checkpoint.steps_saved(run_dir) == [1, 3, 4]
    (run_dir.checkpoint(4) / "model.safetensors").write_bytes(b"harmed")
    checkpoint.prune(run_dir, 2, {1}, saver.verified.damage)
    assert {file.parent.name for file in hashed} == {"step-00000004"}
