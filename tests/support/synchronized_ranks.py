"""One of several ranks that normalize together: `python synchronized_ranks.py RANK RANKS FOLDER`.

Rank r has the r-th share of FOLDER/images.pt; shares that are 0 images long take part with a filler. Writes what came
out for each kind of network to FOLDER/rank-r.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from megabatch.configs.norms import SynchronizedNorm
from megabatch.trainer.batch_norm import StepBatchNorm
from megabatch.trainer.network import checkpoint_activations
from megabatch.trainer.norms.modes import set_batch_norm
from megabatch.trainer.process import exit_now

SHARES = (5, 3, 0)
CELLS = ("plain", "timm", "no affine", "again", "compiled", "bf16", "channels last")


def network(cell: str) -> nn.Sequential:
    torch.manual_seed(0)
    kind = BatchNormAct2d if cell == "timm" else nn.BatchNorm2d
    affine = cell != "no affine"
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), kind(4, affine=affine), nn.Conv2d(4, 6, 1), kind(6, affine=affine), nn.Flatten(),
        nn.Linear(6 * 16, 5), nn.BatchNorm1d(5),
    )  # fmt: skip
    if cell == "again":
        checkpoint_activations(model, ("?",))
    return model.to(memory_format=torch.channels_last) if cell == "channels last" else model


def passed(cell: str, images: torch.Tensor, samples: int, synchronized: bool) -> dict[str, list[torch.Tensor]]:
    """Return output, gradients (as this rank's share of the sum) and buffers of one pass in training."""
    model = network("plain" if cell == "again" and not synchronized else cell)
    model = model if cell == "bf16" else model.double()
    if synchronized:
        set_batch_norm(model, SynchronizedNorm())
    norm = StepBatchNorm(model)
    norm.begin()
    norm.expect(samples)
    images = (images.float() if cell == "bf16" else images).requires_grad_()
    forward = torch.compile(model, backend="aot_eager") if cell == "compiled" and synchronized else model
    with torch.autocast("cpu", torch.bfloat16, enabled=cell == "bf16"):
        out = forward(images)
    weights = torch.ones(len(out)) if samples else torch.zeros(len(out))
    ((out**3).sum(dim=1) * weights).sum().backward()
    norm.collect(samples)
    gradients = [parameter.grad for parameter in model.parameters()]
    return {"out": [out.detach()], "images": [images.grad], "gradients": gradients, "buffers": list(model.buffers())}


def main() -> None:
    rank, num_ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), num_ranks), rank=rank, world_size=num_ranks
    )
    share = torch.load(folder / "images.pt").split(SHARES)[rank]
    images = share if len(share) else torch.zeros(2, *share.shape[1:], dtype=share.dtype)
    torch.save({cell: passed(cell, images.clone(), len(share), True) for cell in CELLS}, folder / f"rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    exit_now(0)


if __name__ == "__main__":
    main()
