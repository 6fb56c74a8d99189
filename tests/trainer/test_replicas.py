"""The number that stands for the bits of a parameter changes with any of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from megabatch.trainer.errors import TrainingError
from megabatch.trainer.replicas import bits_of, require_equal
from megabatch.trainer.world import World

SIZES = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


@given(st.sampled_from(list(SIZES)), st.integers(0, 11), st.integers(0, 63))
def test_any_single_bit_changes_the_number_of_its_parameter_alone(dtype: torch.dtype, at: int, bit: int) -> None:
    torch.manual_seed(at)
    network = nn.Linear(4, 3).to(dtype)
    before = bits_of(network)
    whole = SIZES[dtype]
    with torch.no_grad():
        bits = network.weight.view(whole).flatten()
        bits[at] ^= torch.tensor(1, dtype=whole) << (bit % (8 * dtype.itemsize))
    changed = bits_of(network) != before
    assert changed.tolist() == [True, False]


@pytest.mark.parametrize(
    ("others", "told"),
    [([0, 0], "rank 0 and the others have"), ([0], "the ranks, none of them in a majority, have")],
)
def test_the_odd_one_is_named_where_the_others_agree(others: list[int], told: str) -> None:
    network = nn.Linear(2, 1, bias=False)
    world = World(0, 1 + len(others), 0, torch.device("cpu"))

    def sum_over_ranks(rows: torch.Tensor) -> None:
        for rank, number in enumerate(others, 1):
            rows[rank] += number

    with pytest.raises(TrainingError, match=told):
        require_equal(network, world, sum_over_ranks, 7)
