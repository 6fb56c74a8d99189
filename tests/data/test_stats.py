"""Statistics: the numbers of numpy over all pixels, to the bit the same for any number of threads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset import TarWriter

from megabatch.configs.normalization import Auto, Fixed, resolved
from megabatch.data.dataset import Dataset
from megabatch.data.errors import DataError
from megabatch.data.indexing import index_shards
from megabatch.data.stats import SplitStats, split_stats, write_stats


def no_progress(done: int, total: int) -> None:
    pass


def dataset_of(folder: Path, images: list[np.ndarray], per_shard: int = 3, extra: bytes | None = None) -> Dataset:
    payloads = []
    for pixels in images:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        payloads.append(buffer.getvalue())
    payloads += [extra] if extra is not None else []
    for first in range(0, len(payloads), per_shard):
        with TarWriter(str(folder / f"train-{first:06d}.tar"), encoder=False) as tar:
            for number, payload in enumerate(payloads[first : first + per_shard], first):
                tar.write({"__key__": f"{number:04d}", "png": payload, "cls": str(number % 2).encode()})
    return index_shards(folder, None, no_progress)


def images_of(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    generator = np.random.default_rng(len(sizes))
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


def measured(dataset: Dataset, threads: int = 2) -> SplitStats:
    return split_stats(dataset, dataset.split("train"), threads, no_progress)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=7))
def test_mean_and_deviation_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]]
) -> None:
    images = images_of(sizes)
    stats = measured(dataset_of(tmp_path_factory.mktemp("stats"), images))
    flat = [image.reshape(-1, 3).astype(np.float64) / 255 for image in images]
    mean = np.mean([pixels.mean(axis=0) for pixels in flat], axis=0)
    squares = np.mean([(pixels**2).mean(axis=0) for pixels in flat], axis=0)
    assert stats.mean() == pytest.approx(mean.tolist(), abs=1e-12)
    assert stats.std() == pytest.approx(np.sqrt(np.maximum(squares - mean**2, 0)).tolist(), abs=1e-7)
    assert stats.samples == len(sizes)


def test_the_same_to_the_bit_for_any_number_of_threads(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, images_of([(n % 13 + 1, n % 7 + 1) for n in range(40)]))
    results = [measured(dataset, threads).to_json() for threads in (1, 2, 7)]
    assert results[0] == results[1] == results[2]


def test_constants_come_out_as_they_are(tmp_path: Path) -> None:
    grey = [np.full((4, 6, 3), (51, 102, 204), dtype=np.uint8)] * 4
    values = measured(dataset_of(tmp_path, grey)).to_json()
    assert values["mean"] == pytest.approx([0.2, 0.4, 0.8], abs=1e-15)
    assert values["std"] == [0.0, 0.0, 0.0]
    assert (values["height"], values["width"]) == ({"min": 4, "median": 4, "max": 4}, {"min": 6, "median": 6, "max": 6})
    assert (values["formats"], values["classes"], values["imbalance"]) == ({"PNG": 4}, 2, 1.0)


def test_a_broken_image_is_named_and_left_out(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, images_of([(5, 5)] * 4), extra=b"\x89PNG\r\n\x1a\n broken")
    stats = measured(dataset)
    assert stats.samples == 4
    assert len(stats.broken) == 1
    assert "train-000003.tar: byte " in stats.broken[0]
    assert ": sample 0004: " in stats.broken[0]


def test_normalize_auto_takes_what_was_written(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, images_of([(8, 8)] * 4))
    stats = measured(dataset)
    write_stats(dataset, {"train": stats}, tmp_path / "stats.json")
    values = json.loads((tmp_path / "stats.json").read_text())
    fixed = resolved(Auto(), values, "train", str(tmp_path))
    assert isinstance(fixed, Fixed)
    assert list(fixed.mean) == stats.mean()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, images_of([(8, 8)]))
    with pytest.raises(DataError, match=r"nowhere/stats.json: cannot be written .* --out"):
        write_stats(dataset, {"train": measured(dataset)}, tmp_path / "nowhere" / "stats.json")
