"""What the device of this process, and the packages beside torch, cannot do of what a recipe asks for.

The plan asks the machine it is made on, and every rank its own device before it builds: a login node has no GPU.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket

import torch

from megabatch.configs.cluster import Cluster
from megabatch.configs.engines import DeepSpeed
from megabatch.configs.errors import nearest
from megabatch.configs.model import Compile
from megabatch.configs.precision import Bf16, Fp8, Fp16, Fp32, Fp64
from megabatch.configs.recipe import Recipe
from megabatch.trainer.errors import TrainingError

Capability = tuple[int, int]  # compute capability of an NVIDIA GPU; (0, 0) is a CPU

_AMPERE = "an NVIDIA GPU of compute capability 8.0 or higher (A100)"
_ADA = "an NVIDIA GPU of compute capability 8.9 or higher (L40S, H100)"


def require_abilities(recipe: Recipe, device: torch.device) -> None:
    """Raise TrainingError with everything that `device` cannot do."""
    problems = problems_of(recipe, device)
    if problems:
        raise TrainingError("\n".join(problems))


def problems_here(recipe: Recipe, cluster: Cluster) -> list[str]:
    """Return what this machine cannot do for a job; without a GPU it says nothing of the GPUs of others."""
    if cluster.device == "cuda" and not torch.cuda.is_available():
        return _packages_missing(recipe, "cuda")
    return problems_of(recipe, torch.device(cluster.device))


def problems_of(recipe: Recipe, device: torch.device) -> list[str]:
    """Return one message for each thing that `device` cannot do."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    found = [unable(recipe.precision, capability), unable_to_compile(recipe.model.compile, capability)]
    host = socket.gethostname()
    has = f"a GPU of {capability[0]}.{capability[1]}" if device.type == "cuda" else "a CPU"
    problems = [problem.format(here=f"{host} has {has}") for problem in found if problem is not None]
    return problems or _packages_missing(recipe, device.type)


def unable(settings: Fp32 | Fp64 | Bf16 | Fp16 | Fp8, capability: Capability) -> str | None:
    """Return why a device cannot compute in a number format, and what can be done; None if it can."""
    cpu = capability == (0, 0)
    if isinstance(settings, Fp8) and capability < (8, 9):
        other = "bf16" if cpu or capability >= (8, 0) else "fp16"
        return f"precision: fp8 needs {_ADA}; {{here}}. Instead: precision={other}"
    if isinstance(settings, Bf16) and not cpu and capability < (8, 0):
        return f"precision: bf16 needs {_AMPERE}; {{here}}. Instead: precision=fp16"
    if isinstance(settings, Fp32) and settings.tf32 and capability < (8, 0):
        return f"precision: fp32 with tf32 needs {_AMPERE}; {{here}}. Instead: precision=fp32"
    return None


def unable_to_compile(settings: Compile | None, capability: Capability) -> str | None:
    """Return why inductor cannot compile for a device; None if it can."""
    if settings is None or settings.backend != "inductor" or capability == (0, 0) or capability >= (7, 0):
        return None
    return (
        "model.compile: inductor needs an NVIDIA GPU of compute capability 7.0 or higher (V100); {here}. "
        "Instead: leave compile out, or model.compile.backend=aot_eager"
    )


def _packages_missing(recipe: Recipe, kind: str) -> list[str]:
    problems = []
    if isinstance(recipe.precision, Fp8) and importlib.util.find_spec("torchao") is None:
        problems.append(
            f"precision: fp8 needs the package torchao, which {socket.gethostname()} does not have. "
            "Instead: pip install torchao, or precision=bf16"
        )
    if isinstance(recipe.engine, DeepSpeed) and importlib.util.find_spec("deepspeed") is None:
        problems.append(
            f"engine: deepspeed needs the package deepspeed, which {socket.gethostname()} does not have. "
            "Instead: pip install deepspeed, or engine=ddp"
        )
    if recipe.model.compile is not None:
        problems += _compiler_missing(recipe.model.compile.backend, kind)
    return problems


def _compiler_missing(backend: str, kind: str) -> list[str]:
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        advised = ["aot_eager", *torch.compiler.list_backends()]  # the others are for finding bugs in torch
        return [f"model.compile.backend: torch has no {backend!r}. {nearest(backend, advised)}"]
    if backend != "inductor":
        return []
    host = socket.gethostname()
    if kind == "cuda":
        if importlib.util.find_spec("triton") is not None:
            return []
        return [
            f"model.compile: inductor needs the package triton, which {host} does not have. "
            "Instead: pip install triton, or leave compile out"
        ]
    import torch._inductor.config as inductor

    compilers = [name for name in inductor.cpp.cxx if name]
    if any(shutil.which(name) for name in compilers):
        return []
    return [
        f"model.compile: inductor needs a C++ compiler ({', '.join(compilers)}), which {host} does not have. "
        "Instead: install one, set CXX, or model.compile.backend=aot_eager"
    ]
