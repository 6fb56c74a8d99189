"""Transforms of the user's own, found by their import path. Whatever goes wrong in one is told with its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

import numpy as np

from megabatch.configs.transforms import CustomTransform
from megabatch.data.decode import Pixels
from megabatch.data.errors import OwnPartError
from megabatch.data.hashing import RandomStream


def custom(image_HWC: Pixels, settings: CustomTransform, image_size: int, stream: RandomStream) -> Pixels:
    """Return what the user's function makes of the image. Raises OwnPartError, which blames no image."""
    function = _found(settings.function)
    try:
        made_HWC = function(image_HWC, stream, **settings.options)
    except Exception as error:  # somebody else's code
        raise OwnPartError(f"transform {settings.function}: {type(error).__name__}: {error}") from error
    if not isinstance(made_HWC, np.ndarray) or made_HWC.dtype != np.uint8 or made_HWC.shape[2:] != (3,):
        raise OwnPartError(
            f"transform {settings.function}: returned {_described(made_HWC)}, not a uint8 array (H, W, 3)"
        )
    return made_HWC


@cache
def _found(path: str) -> Callable[..., object]:
    module, _, name = path.partition(":")
    try:
        function: Callable[..., object] = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise OwnPartError(f"transform {path}: {error}. Modules are looked for in the current folder too") from error
    return function


def _described(made: object) -> str:
    return f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
