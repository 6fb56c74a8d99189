"""One bit that flips in one parameter of one rank is found at the next comparison, and is in no checkpoint (F24)."""

from __future__ import annotations

import pytest

from support.ranks import train_together
from support.runs import NETWORK, Workplace, losses

pytestmark = pytest.mark.processes
FLIPPING = """

import os
import torch


class Flipping(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body, self.calls = small(num_classes), 0

    def forward(self, images):
        self.calls += self.training
        if self.training and self.calls == 9 and os.environ["RANK"] == "1":
            with torch.no_grad():
                list(self.body.parameters())[-1].view(torch.int32)[0] ^= 1 << 3
        return self.body(images)
"""
RUN = (
    "epochs=4",
    "checkpoint.every_epochs=4",
    "batch={global_batch: 20, micro_batch: 5}",
)  # 12 steps, saved at the end
COMPARED = "stability.compare_replicas_every_steps=2"
ENGINES = ["ddp", "accelerate", "{name: deepspeed, zero_stage: 0}"]


def found_after(workplace: Workplace, run: str, *overrides: str) -> int:
    """Train three ranks, of which rank 1 flips a bit in one of the first nine steps; return when it was found."""
    (workplace.folder / "flipping.py").write_text(NETWORK + FLIPPING)
    run_dir = workplace.job(run, 3, *RUN, "model={name: 'flipping:Flipping'}", *overrides)
    told = train_together([run_dir], 3)
    assert "rank 1 and the others have different bits in the parameter body." in told
    step = int(told.split("after step ")[1].split(":")[0])
    saved = [int(folder.name.removeprefix("step-")) for folder in run_dir.checkpoints.glob("step-*")]
    assert all(before < step for before in saved)
    return step


@pytest.mark.parametrize("engine", ENGINES)
def test_a_flipped_bit_is_found_at_the_next_comparison(workplace: Workplace, engine: str) -> None:
    step = found_after(workplace, f"flipped-{ENGINES.index(engine)}", f"engine={engine}", COMPARED)
    assert step in (2, 4, 6, 8, 10)


def test_a_flipped_bit_is_found_before_it_is_saved(workplace: Workplace) -> None:
    seldom = "stability.compare_replicas_every_steps=1000"
    assert found_after(workplace, "saved", seldom, "checkpoint.every_steps=5") in (5, 10)


def test_comparing_copies_that_agree_changes_nothing(workplace: Workplace) -> None:
    compared = workplace.train("compared", 2, *RUN, COMPARED)
    assert losses(compared) == losses(workplace.train("not-compared", 2, *RUN))
