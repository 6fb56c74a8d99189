"""What a thread is doing, from its stack; what torch's flight recorder knows."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from types import FrameType, FunctionType

import pytest
import torch
from torch._C import _distributed_c10d

from megabatch.trainer.watch import doing

CPU = torch.device("cpu")


@pytest.mark.parametrize(("module", "function"), doing.ACTIVITIES)
def test_every_function_that_tells_an_activity_exists(module: str, function: str) -> None:
    owner = importlib.import_module(module)
    members = [owner, *(value for value in vars(owner).values() if isinstance(value, type))]
    assert any(hasattr(member, function) for member in members)


def test_the_stack_of_the_main_thread_ends_where_it_is() -> None:
    lines = doing.stack(doing.main_frame())
    assert lines[-1].endswith("in main_frame")
    assert "test_doing.py:" in lines[-2]
    assert doing.activity(doing.main_frame()) == "between two steps"


def test_activities_are_told_from_the_general_to_the_particular() -> None:
    def load() -> FrameType:
        return sys._getframe()

    def take_step(loader: Callable[[], FrameType]) -> FrameType:
        return loader()

    loader = FunctionType(load.__code__, {"__name__": "megabatch.data.loader", "sys": sys})
    step = FunctionType(take_step.__code__, {"__name__": "megabatch.trainer.step"})
    assert doing.activity(step(loader)) == "training, waiting for data"


def test_what_the_flight_recorder_has_is_read_whatever_else_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {
        "profiling_name": "gloo:all_reduce",
        "collective_seq_id": 9,
        "input_dtypes": ["Float"],
        "input_sizes": [[3]],
    }
    recorded = {
        "pg_status": {
            "0": {"last_enqueued_collective": "9", "last_completed_collective": "8", "last_started_collective": "-1"},
            "1": {"something": "else"},
        },
        "entries": [{**entry, "record_id": 7}, {**entry, "record_id": 6, "collective_seq_id": 8}],
    }
    monkeypatch.setattr(_distributed_c10d, "_dump_fr_trace_json", lambda *_: json.dumps(recorded).encode())
    assert doing.collectives(CPU) == {"0": (9, 8)}
    assert doing.last_collective(CPU) == "gloo:all_reduce number 9 of Float [3]"


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}"])
def test_a_flight_recorder_that_answers_otherwise_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(_distributed_c10d, "_dump_fr_trace_json", lambda *_: answer)
    assert (doing.collectives(CPU), doing.last_collective(CPU)) == ({}, None)
    monkeypatch.delattr(_distributed_c10d, "_dump_fr_trace_json")
    assert (doing.collectives(CPU), doing.last_collective(CPU)) == ({}, None)
