"""The diagonal of the Fisher information of a trained network: how much each weight matters to what it predicts.

    F_i = mean over samples x of (d log p(y | x) / d w_i)**2,    y drawn from p(. | x)

(Kirkpatrick et al. 2017, section 2.1; Pascanu and Bengio 2014). y is drawn from what the network itself predicts, once
for each sample: with the true labels it would be the "empirical Fisher", which is another thing where the network is
wrong (Kunstner, Hennig and Balles 2019). The network is in evaluation mode, so that a sample has a gradient of its own.

The sums are in float64 and are added up block by block, in the same order whoever worked the block out, so the result
has the same bits for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from megabatch.data.hashing import RandomStream, key
from megabatch.data.loader import MicroBatch
from megabatch.trainer.precision import exact

_BLOCKS = 16
_LABEL = 70  # what a key is for: the label that is drawn for a sample
Tensors = dict[str, Tensor]


class Ranks(NamedTuple):
    """Who works this out, and how a tensor is summed over them in place."""

    rank: int
    num_ranks: int
    sum_over_ranks: Callable[[Tensor], None]


def diagonal_fisher(
    network: nn.Module,
    sample_ids: Sequence[int],
    load: Callable[[Sequence[int]], Iterator[MicroBatch]],
    normalize: Callable[[Tensor], Tensor],
    seed: int,
    ranks: Ranks,
) -> Tensors:
    """Return F of every trained parameter by name, float64, on the device of the network.

    `load` gives micro-batches of one sample each; one that cannot be used has no part in the mean.
    """
    network.eval()
    names, weights = zip(*[(n, p) for n, p in network.named_parameters() if p.requires_grad], strict=True)
    sizes = [weight.numel() for weight in weights]
    total = torch.zeros(1 + sum(sizes), dtype=torch.float64, device=weights[0].device)  # the count, then the squares
    for first in range(0, _BLOCKS, ranks.num_ranks):
        block = first + ranks.rank
        own = torch.zeros_like(total)
        if block < _BLOCKS:
            for micro_batch in load(sample_ids[block::_BLOCKS]):
                if micro_batch.all_count:
                    own += _squares(network, weights, normalize(micro_batch.images_NHWC), _stream(seed, micro_batch))
        for owner in range(min(ranks.num_ranks, _BLOCKS - first)):
            summed = own if owner == ranks.rank else torch.zeros_like(own)
            if ranks.num_ranks > 1:
                ranks.sum_over_ranks(summed := summed.clone())  # zeros from all but one: exact
            total += summed
    mean = total[1:] / total[0]
    parts = torch.split(mean, sizes)
    return {name: part.reshape(weight.shape) for name, part, weight in zip(names, parts, weights, strict=True)}


def _stream(seed: int, micro_batch: MicroBatch) -> RandomStream:
    return RandomStream(key(seed, _LABEL, int(micro_batch.request.sample_ids[0])))


def _squares(network: nn.Module, weights: Sequence[nn.Parameter], images_1CHW: Tensor, stream: RandomStream) -> Tensor:
    """Return 1 and the squared derivatives of log p(y | x), for a y drawn from p: shape (1 + weights,)."""
    log_p_K = torch.log_softmax(exact(network(images_1CHW)[0]), dim=0)
    cumulated_K = log_p_K.detach().double().exp().cumsum(0)
    drawn = int((cumulated_K < stream.uniform() * cumulated_K[-1]).sum())
    gradients = torch.autograd.grad(log_p_K[drawn], weights, allow_unused=True)
    squares = [
        torch.zeros(weight.numel(), dtype=torch.float64, device=weight.device)
        if gradient is None
        else gradient.double().square().flatten()
        for weight, gradient in zip(weights, gradients, strict=True)
    ]
    return torch.cat([torch.ones(1, dtype=torch.float64, device=weights[0].device), *squares])
