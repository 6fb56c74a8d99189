"""F19 and F20: what loads samples are threads. Whatever happens in one, the rank ends with the cause, and never hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabatch.configs.load import read_job
from megabatch.data import loader as loader_module
from megabatch.data.read import EncodedSample, SplitReader
from megabatch.launcher.launch import render
from megabatch.launcher.supervise import ExitCode, run
from megabatch.trainer import loop
from megabatch.trainer.causes import explained
from support.runs import Workplace, environment
from support.shards import dataset
from support.training import training

BAD = 17


@pytest.fixture
def at_sample(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException | threading.Event]:
    """What happens when sample 17 is read: an error is raised, an event is waited for."""
    happens: dict[str, BaseException | threading.Event] = {}
    read = SplitReader.read

    def reads(self: SplitReader, sample_id: int) -> EncodedSample:
        what = happens.get("what")
        if sample_id == BAD and isinstance(what, BaseException):
            raise what
        if sample_id == BAD and isinstance(what, threading.Event):
            what.wait()
        return read(self, sample_id)

    monkeypatch.setattr(SplitReader, "read", reads)
    return happens


def test_no_memory_in_a_loader_thread_ends_the_rank_with_the_sample_and_a_remedy(
    workplace: Workplace, at_sample: dict[str, BaseException]
) -> None:
    at_sample["what"] = MemoryError()
    with training(workplace, "no-memory") as parts, pytest.raises(MemoryError) as caught:
        loop.train(parts)
    told = str(explained(caught.value))
    assert told.startswith("out of memory: MemoryError (at sample 17). A smaller batch.micro_batch needs less")


def test_an_error_that_no_data_explain_ends_the_rank_whatever_the_policy_and_names_the_sample(
    workplace: Workplace, at_sample: dict[str, BaseException]
) -> None:
    at_sample["what"] = RuntimeError("the decoder is broken")
    skipping = "data.on_error={name: skip, max_samples: 5}"
    with training(workplace, "broken-decoder", skipping) as parts, pytest.raises(RuntimeError) as caught:
        loop.train(parts)
    assert caught.value.__notes__ == ["at sample 17"]
    assert explained(caught.value) is None  # a mistake of somebody's program: it is shown with its traceback


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_loader_thread_that_hangs_is_named_with_its_sample_before_other_ranks_give_up(
    workplace: Workplace,
    at_sample: dict[str, threading.Event],
    released: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader_module, "_SECONDS_TO_LEAVE", 0.1)
    at_sample["what"] = released
    limit = "cluster.limits.collective_timeout_seconds=1"
    with training(workplace, "hanging", limit) as parts, pytest.raises(TimeoutError) as caught:
        loop.train(parts)
    assert not released.is_set()
    told = str(explained(caught.value))
    assert "sample 17 in Condition.wait (" in told
    assert "not loaded within 0.8 s, which is four fifths of cluster.limits.collective_timeout_seconds" in told


def test_what_is_slow_but_comes_in_time_is_waited_for(
    workplace: Workplace, at_sample: dict[str, threading.Event], released: threading.Event
) -> None:
    at_sample["what"] = released
    threading.Timer(0.5, released.set).start()
    with training(workplace, "slow", "epochs=1") as parts:
        assert loop.train(parts) == "finished"


CRASHING = """
import os
import time
from pathlib import Path
from megabatch.data.read import SplitReader
read = SplitReader.read

def cut(self, sample_id):
    read(self, 17)  # both ranks have mapped the shard before it is cut
    Path(f"mapped-{os.environ['RANK']}").touch()
    while len(list(Path().glob("mapped-*"))) < 2:
        time.sleep(0.01)
    sample = read(self, sample_id)
    if sample_id == 17:
        os.truncate(sample.shard, 512)
    return sample

def cutting(num_classes):
    SplitReader.read = cut
    from network import small
    return small(num_classes)
"""


@pytest.mark.processes
def test_a_crash_of_a_loader_thread_ends_all_ranks_and_the_rank_the_signal_and_the_likely_cause_are_named(
    tmp_path: Path,
) -> None:
    """A shard is cut while it is mapped, so that reading on is a SIGBUS."""
    place = Workplace(tmp_path)
    dataset(tmp_path, {"train": 44})
    place.write()
    (tmp_path / "cuts.py").write_text(CRASHING)
    run_dir = place.job("run", 2, "model={name: 'cuts:cutting'}")
    command = render(read_job(run_dir.job), run_dir)
    ending = run(command.argv, environment(), run_dir, str(tmp_path), print)
    assert ending.code == ExitCode.FAILED
    assert ending.message.startswith("rank ")
    assert "was killed by SIGBUS: a shard became shorter while it was read" in ending.message
