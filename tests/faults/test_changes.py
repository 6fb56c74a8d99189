"""F35: what may be another at a resume, and what may not. Everything is said; what is refused is named with both values."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megabatch.configs.errors import ConfigError
from megabatch.configs.run_dir import RunDir
from megabatch.data.dataset import read_dataset, write_dataset
from megabatch.data.errors import DataError
from megabatch.launcher.launch import resume
from megabatch.trainer import checkpoint, loop, provenance
from megabatch.trainer.errors import TrainingError
from support.runs import Workplace
from support.shards import dataset
from support.training import training


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A folder with a run of 3 steps, stopped, and nobody else's code in mind."""
    monkeypatch.delitem(sys.modules, "network", raising=False)  # that of a test before
    dataset(tmp_path, {"train": 44, "validation": 15})
    place = Workplace(tmp_path)
    place.write()
    provenance._code.cache_clear()
    with training(place, "run", "epochs=2", "averaging=ema") as parts:
        parts.state.step, parts.state.samples_seen = 3, 44
        loop.save(parts)
        parts.saver.finish()
    provenance._code.cache_clear()
    yield place
    provenance._code.cache_clear()


def edit_job(place: Workplace, old: str, new: str) -> None:
    job = place.folder / "run" / "job.yaml"
    text = job.read_text()
    assert old in text
    job.write_text(text.replace(old, new, 1))


def going_on(place: Workplace) -> str:
    """Resume; return what is said."""
    with training(place, "run") as parts:
        assert parts.state.step == 3
        return parts.run_dir.metrics.read_text()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("momentum: 0.9", "momentum: 0.5", "optimizer.momentum: 0.9, now 0.5"),
        ("seed: 0", "seed: 1", "seed: 0, now 1"),
        ("global_batch: 20", "global_batch: 24", "batch.global_batch: 20, now 24"),
        ("micro_batch: 4", "micro_batch: 2", "batch.micro_batch: 4, now 2"),
        ("streams: 4", "streams: 2", "data.shuffle.streams: 4, now 2"),
        ("epochs: 2", "epochs: 3", "epochs: 2, now 3"),
        ("warmup: 1", "warmup: 0", "schedule.warmup: 1.0, now 0.0"),
        ("train_split: train", "train_split: validation", "data.train_split: 'train', now 'validation'"),
    ],
)
def test_a_job_of_another_recipe_is_refused_with_the_key_and_both_values(
    place: Workplace, old: str, new: str, named: str
) -> None:
    edit_job(place, old, new)
    with pytest.raises(TrainingError) as caught:
        going_on(place)
    assert f"names now: {named}. Going on would mix two trainings" in str(caught.value)


def other_classes(place: Workplace) -> None:
    file = place.folder / "data" / "dataset.json"
    file.write_text(file.read_text().replace('"class0"', '"cat"'))


def fewer_samples(place: Workplace) -> None:
    described = read_dataset(place.folder / "data")
    train, validation = described.split("train"), described.split("validation")
    shards = train.shards[:-1]
    counts = {**train.label_counts, 0: train.label_counts[0] - train.shards[-1].samples}
    write_dataset(replace(described, splits=(replace(train, shards=shards, label_counts=counts), validation)))


def other_images(place: Workplace) -> None:
    file = place.folder / "data" / "dataset.json"
    values = json.loads(file.read_text())
    values["splits"]["validation"]["shards"][0]["sha256"] = "0" * 64
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_classes, r"classes: '3 \(\w{12}\)', now '3 \(\w{12}\)'"),
        (fewer_samples, r"train: '44 samples of 5 shards \(\w+\)', now '40 samples of 4 shards \(\w+\)'"),
        (other_images, r"validation: '15 samples of 2 shards \(\w+\)', now '15 samples of 2 shards \(\w+\)'"),
    ],
)
def test_other_data_are_refused_by_the_launcher_and_by_the_ranks_with_what_changed(
    place: Workplace, change: Callable[[Workplace], None], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(place)
    with pytest.raises(DataError, match=rf"changed since .*job\.yaml was written \({named}\): put it back"):
        going_on(place)
    monkeypatch.chdir(place.folder)
    with pytest.raises(ConfigError, match=rf"changed since the run began \({named}\): put it back"):
        resume("run", None, None, [])


def test_a_job_written_anew_for_other_data_is_refused_too(place: Workplace) -> None:
    """Whoever writes the job again has its fingerprint right: the checkpoint knows better."""
    other_classes(place)
    old = (place.folder / "run" / "job.yaml").read_text()
    with training(place, "new", "epochs=2", "averaging=ema") as parts:
        new = parts.run_dir.job
    (place.folder / "run" / "job.yaml").write_text(new.read_text())
    assert old != new.read_text()
    with pytest.raises(TrainingError, match=r"names now: data, classes: '3 \(\w+\)', now '3 \(\w+\)'\. Going on"):
        going_on(place)


def test_own_code_that_changed_is_told_and_where_it_no_longer_fits_refused_with_the_file(place: Workplace) -> None:
    assert "changed since" not in going_on(place)
    network = place.folder / "network.py"
    network.write_text(network.read_text().replace("dropout=0.2", "dropout=0.1"))
    assert "warning: network.py changed since the checkpoint was written" in going_on(place)
    network.write_text(
        network.read_text().replace("nn.Linear(8, num_classes)", "nn.Linear(8, num_classes, bias=False)")
    )
    with pytest.raises(TrainingError) as caught:
        going_on(place)
    assert 'does not fit the network: Unexpected key(s) in state_dict: "9.bias"' in str(caught.value)
    assert "network.py changed since the checkpoint was written" in str(caught.value)
    assert "Put the old code back, or start a new run folder" in str(caught.value)


def test_another_torch_is_told_and_what_does_not_train_may_change(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.11.0")
    edit_job(place, "keep_last: 2", "keep_last: 5")
    said = going_on(place)
    assert "this is 2.11.0. Going on is not bit for bit what it would have been there" in said
    assert "written by 1 ranks with ddp" in said


def test_a_checkpoint_of_a_version_without_these_records_is_refused_all_the_same(place: Workplace) -> None:
    run_dir = RunDir(place.folder / "run")
    file = run_dir.checkpoint(3) / "state.json"
    state = json.loads(file.read_text())
    for name in ("recipe", "data", "code"):
        del state[name]
    state["fingerprint"] = "another"
    file.write_text(json.dumps(state))
    (run_dir.checkpoint(3) / "manifest.json").unlink()
    rewritten = {f.name: checkpoint.describe_file(f) for f in run_dir.checkpoint(3).iterdir()}
    (run_dir.checkpoint(3) / "manifest.json").write_text(json.dumps(rewritten))
    with pytest.raises(TrainingError, match="was written by another recipe or with other data"):
        going_on(place)


@pytest.mark.parametrize("words", ["Connection closed by peer", "DefaultCPUAllocator: not enough memory"])
def test_a_lost_rank_or_no_memory_while_loading_is_not_taken_for_a_misfit(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    name = f"lost-{len(words)}"
    with training(workplace, name, "epochs=1") as parts:
        loop.train(parts)

    def fail(parts: object, snapshot: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(loop, "put_back", fail)
    with pytest.raises(RuntimeError, match=f"^{words}$"), training(workplace, name):
        pass
