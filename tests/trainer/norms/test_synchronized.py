"""Three ranks with 5, 3 and 0 images against torch's own batch norm over all 8 in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support import synchronized_ranks
from support.runs import environment

NUM_RANKS = len(synchronized_ranks.SHARES)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[:5] += 3.0  # what the ranks have is far apart
    torch.save(images, folder / "images.pt")
    script = Path(synchronized_ranks.__file__)
    commands = [[sys.executable, str(script), str(rank), str(NUM_RANKS), str(folder)] for rank in range(NUM_RANKS)]
    ranks = [subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) for command in commands]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors
    return images, [torch.load(folder / f"rank-{rank}.pt") for rank in range(NUM_RANKS)]


@pytest.mark.parametrize("cell", synchronized_ranks.CELLS)
def test_the_ranks_compute_what_one_process_computes(
    together: tuple[torch.Tensor, list[dict[str, Any]]], cell: str
) -> None:
    images, all_ranks = together
    ranks = [found[cell] for found in all_ranks]
    one = synchronized_ranks.passed(cell, images.clone(), len(images), synchronized=False)
    close = {"rtol": 0.05, "atol": 0.05} if cell == "bf16" else {"rtol": 1e-9, "atol": 1e-9}
    for what in ("out", "images"):
        joined = torch.cat([rank[what][0][:n] for rank, n in zip(ranks, synchronized_ranks.SHARES, strict=True)])
        torch.testing.assert_close(joined, one[what][0], **close)
    for number, expected in enumerate(one["gradients"]):
        torch.testing.assert_close(sum(rank["gradients"][number] for rank in ranks), expected, **close)
    for rank in ranks:
        for got, expected in zip(rank["buffers"], one["buffers"], strict=True):
            if got.is_floating_point():
                torch.testing.assert_close(got, expected, **close)
    alone = synchronized_ranks.passed(cell, images[:5].clone(), 5, synchronized=False)
    assert not torch.allclose(ranks[0]["out"][0], alone["out"][0], atol=0.2)


def test_a_rank_without_samples_leaves_no_gradient(together: tuple[torch.Tensor, list[dict[str, Any]]]) -> None:
    for found in together[1][2].values():
        assert not any(gradient.any() for gradient in [*found["gradients"], *found["images"]])
