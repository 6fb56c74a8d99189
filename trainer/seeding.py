"""Seeds what a network draws from torch while it trains: dropout, stochastic depth and the like.

Not with `torch.manual_seed`: on a machine without a GPU it formats a stack trace for each kind of device that is not
there, 0.3 ms a call (torch 2.15), and this is done for every micro-batch.
"""

from __future__ import annotations

import torch

from megabatch.data.hashing import GOLDEN, key, mix

_NETWORK = 4  # what a key is for


class NetworkSeed:
    """Makes what the network draws a function of (seed, step, number of the micro-batch), on any rank."""

    def __init__(self, seed: int, device: torch.device):
        self._key = key(seed, _NETWORK)
        self._seed_host = torch.default_generator.manual_seed
        on_gpu = device.type == "cuda"
        self._seed_device = torch.cuda.default_generators[device.index or 0].manual_seed if on_gpu else None

    def __call__(self, step: int, number: int) -> None:
        """Seed torch's generators of the host and of the device."""
        # One round of mixing: modulo 2**64 the first n multiples of GOLDEN are all at least 2**64 / (3 n) apart (it is
        # 2**64 over the golden ratio), far more than any `number`, so that no two micro-batches of a run meet.
        seed = mix(self._key + step * GOLDEN + number)
        self._seed_host(seed)
        if self._seed_device is not None:
            self._seed_device(seed)
