"""Packed weights come back bit for bit, in as few bytes as their values need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.errors import ConfigError
from megabatch.configs.model import Model
from megabatch.configs.quantization import AnyQuantization, Binary, Int8, Levels, Ternary
from megabatch.trainer.export import packed_file
from megabatch.trainer.export.card import Card
from megabatch.trainer.export.network import trained_network_of
from megabatch.trainer.models.convnet import convnet
from megabatch.trainer.quantization.layers import folded


def card_of(settings: AnyQuantization | None) -> Card:
    model = Model(name="megabatch.trainer.models.convnet:convnet", options={"widths": [4, 8]}).model_dump(mode="json")
    return Card(
        run="run", checkpoint="step-00000001", weights="raw", image_size=16, normalize={}, evaluation_transforms=[],
        model={key: model[key] for key in ("name", "options", "activation", "replace_batch_norm")}, target={}, outputs=5,
        names=(), trained_in="fp32", versions={},
        quantization=settings.model_dump(mode="json") if settings is not None else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "bits"),
    [(Binary(), 1), (Ternary(keep=("1.*",)), 2), (Levels(count=4), 2), (Levels(count=5), 3), (Levels(count=256), 8)],
    ids=str,
)
def test_weights_come_back_bit_for_bit(tmp_path: Path, settings: AnyQuantization, bits: int) -> None:
    torch.manual_seed(2)
    card, target = card_of(settings), tmp_path / "w.safetensors"
    network = trained_network_of(card, convnet(5, [4, 8]).state_dict())
    packed_file.write(network, card, target)
    found, expected = packed_file.unpacked(target), folded(network)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    stored = packed_file.load_file(target)
    packed = [name for name in stored if name.endswith(".packed")]
    assert len(packed) == (2 if settings.keep else 3)
    for name in packed:
        assert stored[name].numel() == -(-found[name.removesuffix(".packed")].numel() * bits // 8)
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(packed_file.read(target)(images), network(images))


@given(bits=st.integers(1, 8), values=st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_numbers_of_any_width_and_count_come_back(bits: int, values: list[int]) -> None:
    numbers = np.array([value % 2**bits for value in values], np.uint8)
    content = packed_file.packed(numbers, bits)
    assert content.nbytes == -(-len(values) * bits // 8)
    assert packed_file.numbers_of(content, bits, len(values)).tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("settings", "told"),
    [(None, "was not trained with quantization. Instead: --format safetensors"), (Int8(), "computes in 8 bits: megabatch quantize")],
)  # fmt: skip
def test_a_run_without_weights_of_few_values_is_refused(settings: AnyQuantization | None, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        packed_file.refuse(card_of(settings))
