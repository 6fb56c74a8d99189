"""`megabatch check`: what this machine has for a run, and which way through the code that leads to. No torch."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from megabatch.configs.machine import NVIDIA_DEVICES, cores

_PACKAGES = ("torch", "torchvision", "timm", "webdataset", "simplejpeg", "torchao", "accelerate", "deepspeed", "wandb")
_BYTES_PER_GIB = 1 << 30
_COMMANDS = ("torchrun", "accelerate", "deepspeed", "sbatch")


def machine_facts() -> dict[str, str]:
    """Return what was found, a line for each thing, in the order to show it."""
    return {
        "megabatch": version("megabatch"),
        "python": platform.python_version(),
        **{package: _version_of(package) for package in _PACKAGES},
        "cpu cores": str(cores()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / _BYTES_PER_GIB:.1f} GiB",
        "GPUs": _gpus(),
        "commands": ", ".join(name for name in _COMMANDS if shutil.which(name)) or "none",
        "JPEG decoding": _jpeg_decoding(),
    }


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _gpus() -> str:
    names = [_model(device) for device in sorted(NVIDIA_DEVICES.iterdir())] if NVIDIA_DEVICES.is_dir() else []
    return ", ".join(names) or "none: use a cluster file with device: cpu"


def _model(device: Path) -> str:
    """Read the driver's own description: `Model: NVIDIA H200`."""
    for line in (device / "information").read_text(encoding="utf-8").splitlines():
        if line.startswith("Model:"):
            return line.partition(":")[2].strip()
    return device.name


def _jpeg_decoding() -> str:
    from megabatch.data.jpeg.turbojpeg3 import find_turbojpeg3

    found = find_turbojpeg3()
    if found.library is not None:
        return f"random crops decode only their region, with libjpeg-turbo 3 ({found.library.path}; self-test passed)"
    return (
        "simplejpeg; random crops leave out the rows below them. libjpeg-turbo 3 would also leave out what is above "
        f"and beside (a tenth faster): {found.reason}"
    )
