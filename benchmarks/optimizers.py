"""What a step of an optimizer costs: LARS and LAMB beside torch's fused kernels and timm, on ResNet-50's parameters.

OMP_NUM_THREADS=1 python benchmarks/optimizers.py [--rounds 25] [--model resnet50] [--device cuda]

Everybody has parameters and gradients of its own with the same values. Rounds are interleaved: in each round every
optimizer takes one step. A ratio is the median over the rounds of (its time / that of the reference in that round):
torch's fused SGD for LARS and SGD, its fused AdamW for LAMB.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from timm.optim import Lamb as TimmLamb
from timm.optim import Lars as TimmLars
from torch import nn
from torchvision import models

from megabatch.configs.optimizers import Lamb, Lars, OptimizerBase
from megabatch.trainer.build import implementation
from megabatch.trainer.optim.groups import Group, parameter_groups

WARMUP = 3
SGD, ADAMW = "torch SGD fused", "torch AdamW fused"
Build = Callable[[list[Group]], torch.optim.Optimizer]


def contenders() -> dict[str, tuple[str, Build]]:
    """Return (reference, how it is built from two groups) by name; all have momentum or moments, and decay."""
    ours = {"base_learning_rate": 1e-3, "weight_decay": 5e-5}
    sgd = {"lr": 1e-3, "momentum": 0.9}
    return {
        SGD: (SGD, lambda groups: torch.optim.SGD(groups, fused=True, **sgd)),
        "torch SGD for-loop": (SGD, lambda groups: torch.optim.SGD(groups, foreach=False, **sgd)),
        "timm Lars": (SGD, lambda groups: TimmLars(groups, **sgd)),
        "megabatch Lars": (SGD, lambda groups: _ours(Lars(**ours), groups)),
        "megabatch Lars nesterov": (SGD, lambda groups: _ours(Lars(nesterov=True, **ours), groups)),
        ADAMW: (ADAMW, lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True)),
        "timm Lamb": (ADAMW, lambda groups: TimmLamb(groups, lr=1e-3, max_grad_norm=None)),
        "megabatch Lamb": (ADAMW, lambda groups: _ours(Lamb(**ours), groups)),
    }


def _ours(settings: OptimizerBase, groups: list[Group]) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = implementation(settings)(groups, settings, 1e-3)
    return optimizer


def prepared(build: Build, model: str, device: torch.device) -> Callable[[], None]:
    """Return a function that takes one step over the model's parameters."""
    torch.manual_seed(0)
    network: nn.Module = models.get_model(model, weights=None).to(device)
    for parameter in network.parameters():
        parameter.grad = 0.01 * torch.randn_like(parameter)
    groups = parameter_groups(network, Lars(base_learning_rate=1e-3, weight_decay=5e-5))
    optimizer = build([{**group, "params": [parameter for _, parameter in group["params"]]} for group in groups])

    def step() -> None:
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    """Print the median time of a step and its ratio to the reference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    field = contenders()
    steps = {name: prepared(build, arguments.model, device) for name, (_, build) in field.items()}
    seconds: dict[str, list[float]] = {name: [] for name in field}
    for round_number in range(WARMUP + arguments.rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if round_number >= WARMUP:
                seconds[name].append(time.perf_counter() - started)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    for name, (reference, _) in field.items():
        ratio = statistics.median(own / other for own, other in zip(seconds[name], seconds[reference], strict=True))
        print(f"{name:24} {1000 * statistics.median(seconds[name]):8.1f} ms   {ratio:5.2f} x {reference}")


if __name__ == "__main__":
    main()
