"""The loader: the same bytes for any number of threads and ranks, and every fault told with shard and sample."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megabatch.configs.transforms import HorizontalFlip, RandomCrop
from megabatch.data.augment.chain import decoding_chain
from megabatch.data.dataset import Dataset
from megabatch.data.errors import DataError
from megabatch.data.loader import Loader, MicroBatch
from megabatch.data.order import EpochOrder, Layout
from megabatch.data.read import EncodedSample, SplitReader
from megabatch.data.requests import evaluation_requests, training_requests
from megabatch.data.steps import Steps
from support.shards import dataset

LAYOUT = Layout((10, 10, 10, 5), seed=3, streams=3, window_shards=2, block_samples=4)
STEPS = Steps(samples=35, epochs=2, global_batch=16, micro_batch=4, last_batch="short")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("loader"), {"train": 35})


def loader(small: Dataset, threads: int = 2, num_classes: int = 3, prefetch: int = 4) -> Loader:
    reader = SplitReader(small.folder, small.split("train"))
    transform = decoding_chain([RandomCrop(padding=1), HorizontalFlip()], 8, max_pixels=64)
    return Loader(reader, transform, 8, num_classes, seed=3, threads=threads, prefetch=prefetch)


def loaded(small: Dataset, threads: int, num_ranks: int = 1, prefetch: int = 4) -> dict[tuple[int, int], MicroBatch]:
    batches: dict[tuple[int, int], MicroBatch] = {}
    for rank in range(num_ranks):
        work = loader(small, threads, prefetch=prefetch).load(training_requests(STEPS, LAYOUT, rank, num_ranks, 0))
        batches |= {(b.request.step, b.request.number): b for b in work if not b.is_filler}
    return batches


@pytest.mark.parametrize(("threads", "num_ranks", "prefetch"), [(1, 1, 1), (5, 1, 9), (2, 2, 4), (3, 3, 0)])
def test_pixels_and_labels_do_not_depend_on_threads_prefetch_or_ranks(
    small: Dataset, threads: int, num_ranks: int, prefetch: int
) -> None:
    reference, other = loaded(small, 2), loaded(small, threads, num_ranks, prefetch)
    assert reference.keys() == other.keys()
    for place, batch in reference.items():
        assert torch.equal(batch.images_NHWC, other[place].images_NHWC)
        assert torch.equal(batch.labels_N, other[place].labels_N)
        assert batch.request.sample_ids.tolist() == other[place].request.sample_ids.tolist()


def test_an_epoch_has_every_sample_once_with_its_own_label(small: Dataset) -> None:
    reader = SplitReader(small.folder, small.split("train"))
    batches = [batch for (step, _), batch in loaded(small, 2).items() if step < STEPS.per_epoch]
    ids = np.concatenate([batch.request.sample_ids for batch in batches])
    assert sorted(ids.tolist()) == list(range(35))
    labels = torch.cat([batch.labels_N for batch in batches])
    assert labels.tolist() == [reader.read(int(i)).label for i in ids]


def test_two_epochs_augment_the_same_sample_differently(small: Dataset) -> None:
    by_epoch: list[dict[int, torch.Tensor]] = [{}, {}]
    for (step, _), batch in loaded(small, 2).items():
        for row, sample_id in enumerate(batch.request.sample_ids):
            by_epoch[step // STEPS.per_epoch][int(sample_id)] = batch.images_NHWC[row]
    same = [torch.equal(by_epoch[0][i], by_epoch[1][i]) for i in range(35)]
    assert sum(same) < 10


def test_starting_in_mid_epoch_gives_what_would_have_come(small: Dataset) -> None:
    reference = loaded(small, 2)
    later = list(loader(small).load(training_requests(STEPS, LAYOUT, 0, 1, first_step=2)))
    assert later[0].request.step == 2
    for batch in later:
        assert torch.equal(batch.images_NHWC, reference[batch.request.step, batch.request.number].images_NHWC)


def test_a_rank_without_work_gets_a_filler_without_samples(small: Dataset) -> None:
    last = [b for b in loader(small).load(training_requests(STEPS, LAYOUT, 0, 3, 0)) if b.request.step == 2]
    assert [(b.is_filler, b.request.last, len(b.request.sample_ids)) for b in last] == [(True, True, 0)]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 40])
def test_evaluation_covers_every_sample_once_over_the_ranks(small: Dataset, num_ranks: int) -> None:
    requests = [r for rank in range(num_ranks) for r in evaluation_requests(35, 4, rank, num_ranks)]
    assert sorted(np.concatenate([r.sample_ids for r in requests]).tolist()) == list(range(35))


def test_a_label_outside_the_classes_names_shard_and_sample(small: Dataset) -> None:
    with pytest.raises(
        DataError, match=r"train-00000\d.tar: byte \d+: sample class2/\d+: label 2 is outside the 2 classes"
    ):
        list(loader(small, num_classes=2).load(training_requests(STEPS, LAYOUT, 0, 1, 0)))


def test_a_sample_that_cannot_be_used_keeps_its_place_with_weight_0(small: Dataset) -> None:
    skipping = replace(loader(small, num_classes=2), skip_errors=True)
    reference = loaded(small, 2)
    for batch in skipping.load(training_requests(STEPS, LAYOUT, 0, 1, 0)):
        whole = reference[batch.request.step, batch.request.number]
        bad = whole.labels_N == 2
        assert torch.equal(batch.weights_N, (~bad).float())
        assert torch.equal(batch.images_NHWC[~bad], whole.images_NHWC[~bad])
        good_label = batch.labels_N[~bad][0] if not bad.all() else torch.tensor(0)
        assert torch.equal(batch.labels_N, torch.where(bad, good_label, whole.labels_N))
        assert [sample.sample_id for sample in batch.skipped] == batch.request.sample_ids[bad.numpy()].tolist()
        assert {sample.reason for sample in batch.skipped} <= {"label"}
        if bad.any() and not bad.all():  # batch norm must see a picture, not noise from old memory
            first_good = batch.images_NHWC[int((~bad).nonzero()[0])]
            assert all(torch.equal(image, first_good) for image in batch.images_NHWC[bad])


def test_a_shard_that_cannot_be_read_costs_its_samples_only(tmp_path: Path) -> None:
    described = dataset(tmp_path, {"train": 35})
    (described.folder / "train-000001.tar").unlink()
    batches = replace(loader(described), skip_errors=True).load(training_requests(STEPS, LAYOUT, 0, 1, 0))
    skipped = [sample for batch in batches for sample in batch.skipped]
    assert sorted(sample.sample_id for sample in skipped) == sorted([*range(10, 20)] * 2)
    assert {sample.reason for sample in skipped} == {"shard"}


def test_more_is_loaded_ahead_only_when_somebody_had_to_wait(small: Dataset) -> None:
    class Slow(SplitReader):
        """Lets the consumer wait for the first micro-batches, then never again."""

        def __init__(self) -> None:
            super().__init__(small.folder, small.split("train"))
            self.read_ids: list[int] = []

        def read(self, sample_id: int) -> EncodedSample:
            if len(self.read_ids) < 12:
                time.sleep(0.02)
            self.read_ids.append(sample_id)
            return super().read(sample_id)

    reader = Slow()
    work = replace(loader(small, threads=1), reader=reader, prefetch=64)
    ahead = []
    for number, _ in enumerate(work.load(training_requests(STEPS, LAYOUT, 0, 1, 0))):
        time.sleep(0.05 if number > 2 else 0)
        ahead.append(len(reader.read_ids) // 4 - number - 1)
    assert 2 < max(ahead) < 14


def test_a_consumer_that_leaves_early_leaves_no_thread_behind(small: Dataset) -> None:
    import threading

    batches: Iterator[MicroBatch] = loader(small).load(training_requests(STEPS, LAYOUT, 0, 1, 0))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("megabatch-loader")]


def test_a_shard_changed_since_it_was_indexed_is_told_when_it_is_opened(tmp_path: Path) -> None:
    described = dataset(tmp_path, {"train": 20})
    with (described.folder / "train-000001.tar").open("ab") as shard:
        shard.write(b"\0")
    reader = SplitReader(described.folder, described.split("train"))
    assert reader.read(9).shard == str(described.folder / "train-000000.tar")
    with pytest.raises(DataError, match=r"dataset.json recorded .* the shard was cut or changed"):
        reader.read(10)


def test_the_order_of_an_epoch_is_what_the_requests_follow() -> None:
    ids = np.concatenate([r.sample_ids for r in training_requests(STEPS, LAYOUT, 0, 1, 0) if r.epoch == 1])
    assert ids.tolist() == EpochOrder(LAYOUT, 1).samples(0, 35).tolist()
