"""A replay buffer: few samples of a data set that stand for all of it, the same number of each class.

Which ones is decided by the hash of their keys, and by nothing else: neither the seed nor the order of the shards, and
a smaller buffer is a part of a larger one. So a buffer that shrinks from stage to stage, as new classes need their
share of it, forgets samples but never takes others (Rebuffi et al. 2017, iCaRL, algorithm 5, shrinks in the same way).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from megabatch.data.errors import DataError


def same_of_each_class(
    labels: NDArray[np.int64], hashes: Sequence[int], classes: Mapping[int, str], most: int, shown: str
) -> NDArray[np.int64]:
    """Return which of some samples to keep, sorted: `most // len(classes)` of each class, those of the lowest hash.

    `labels` and `hashes` are those of the samples, `classes` the names of the labels wanted. Raises DataError, which
    names the data as `shown`, if a class has fewer samples, or if `most` is less than one of each class.
    """
    each = most // len(classes)
    if most and not each:
        raise DataError(
            f"{shown}: train_samples: {most:,} is less than one of each of {len(classes):,} classes: write at least "
            f"{len(classes):,}, or 0 for none"
        )
    by_hash = np.argsort(np.array(hashes, dtype=np.uint64), kind="stable")
    chosen = []
    for label, name in classes.items():
        of_class = by_hash[labels[by_hash] == label]
        if len(of_class) < each:
            raise DataError(
                f"{shown}: train_samples: {most:,} is {each:,} of each of {len(classes):,} classes, and there are "
                f"{len(of_class):,} training samples of {name}: write at most {len(of_class) * len(classes):,} "
                "(a smaller continual.replay.samples in a recipe with stages)"
            )
        chosen.append(of_class[:each])
    return np.sort(np.concatenate(chosen))
