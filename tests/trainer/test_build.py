"""What building sets in torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from megabatch.trainer.build import _set_determinism


@pytest.fixture
def torch_as_before() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.mark.parametrize("wished", [True, False])
def test_deterministic_decides_which_kernels_torch_may_use(torch_as_before: None, wished: bool) -> None:
    _set_determinism(wished)
    assert torch.are_deterministic_algorithms_enabled() is wished
    assert torch.backends.cudnn.benchmark is not wished
