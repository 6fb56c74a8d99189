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
    "epochs=4", "checkpoint.every_epochs=4", "checkpoint.every_steps=5", "batch={global_batch: 20, micro_batch: 5}",
    "stability.compare_replicas_every_steps=2",
)  # fmt: skip
ENGINES = ["ddp", "accelerate", "{name: deepspeed, zero_stage: 0}"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_flipped_bit_is_told_with_rank_and_parameter_and_never_saved(workplace: Workplace, engine: str) -> None:
    (workplace.folder / "flipping.py").write_text(NETWORK + FLIPPING)
    number = ENGINES.index(engine)
    run_dir = workplace.job(f"flipped-{number}", 3, *RUN, "model={name: 'flipping:Flipping'}", f"engine={engine}")
    told = train_together([run_dir], 3)
    assert "rank 1 and the others have different bits in the parameter body." in told
    found_after = int(told.split("after step ")[1].split(":")[0])
    saved = [int(folder.name.removeprefix("step-")) for folder in run_dir.checkpoints.glob("step-*")]
    assert all(step < found_after for step in saved)


def test_comparing_copies_that_agree_changes_nothing(workplace: Workplace) -> None:
    compared = workplace.train("compared", 2, *RUN)
    assert losses(compared) == losses(workplace.train("not-compared", 2, *RUN[:-1]))
