"""How much each member of an ensemble counts: weights that add up to 1, from what members predicted. Pure numpy.

Shapes: R rows (a sample, or one output of a sample), M members. `scores_RM` are, of predictions that are probabilities,
the probability that each member gave to what is true; of numbers, by how much each member missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_GAP = 1e-7  # how far the fit may be from the best, in the mean logarithm
_MOST_ROUNDS = 20_000
_LEAST = 1e-3  # a member that counts less is left out


def mixed_loss(scores_RM: Array, weights_M: Array, numbers: bool) -> float:
    """Return the loss of the weighted mean: -mean log p of what is true, or the mean of the squared error.

    >>> round(mixed_loss(np.array([[0.5, 1.0], [0.5, 0.0]]), np.array([0.5, 0.5]), numbers=False), 4)
    0.837
    """
    mixed_R: Array = scores_RM @ weights_M
    with np.errstate(divide="ignore"):
        losses_R: Array = mixed_R**2 if numbers else -np.log(mixed_R)
    return float(losses_R.mean())


def fitted(scores_RM: Array, numbers: bool) -> Array:
    """Return the weights with the smallest `mixed_loss`, which is convex; those below 0.001 become 0.

    Of numbers it is non-negative least squares. Of probabilities it is the maximum likelihood of a mixture with known
    parts, by expectation maximization (Dempster, Laird and Rubin 1977, section 4.3), until what is left to gain is
    below 1e-7: with g_m the mean over the rows of p_m / p, that is at most log(max g).
    """
    found_M = _least_squares(scores_RM) if numbers else _most_likely(scores_RM)
    found_M = np.where(found_M < _LEAST, 0.0, found_M)
    return np.asarray(found_M / found_M.sum())


def greedy(scores_RM: Array, numbers: bool) -> Array:
    """Return weights by ensemble selection (Caruana et al. 2004): add, with repetition, what lowers the loss the most.

    The best member comes first; of all the mixtures on the way the best one is taken, the smallest of equal ones.

    >>> greedy(np.array([[0.9, 0.1, 0.2], [0.1, 0.9, 0.2]]), numbers=False)
    array([0.5, 0.5, 0. ])
    """
    members = scores_RM.shape[1]
    counts_M, best_M, best = np.zeros(members), np.zeros(members), math.inf
    for size in range(1, 10 * members + 1):
        tried = [mixed_loss(scores_RM, (counts_M + one) / size, numbers) for one in np.eye(members)]
        counts_M[int(np.argmin(tried))] += 1
        if min(tried) < best:
            best, best_M = min(tried), counts_M / size
    return best_M


def sign_test(only_first: int, only_second: int) -> float:
    """Return how likely so uneven a count is by chance (two-sided; McNemar's test, exact): the p-value.

    >>> sign_test(8, 2), sign_test(0, 0)
    (0.109375, 1.0)
    """
    from scipy.stats import binomtest  # takes a moment to import, and few need it

    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


def gain_of(differences: Sequence[float] | Array) -> tuple[float, float]:
    """Return the mean of differences of pairs and its standard error; of a single pair the error is nan."""
    values = np.asarray(differences, dtype=np.float64)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(values.mean()), error


def _most_likely(scores_RM: Array) -> Array:
    weights_M = np.full(scores_RM.shape[1], 1 / scores_RM.shape[1])
    scores_RM = scores_RM[scores_RM.max(axis=1) > 0]  # what no member thinks possible, none can be chosen for
    for _ in range(_MOST_ROUNDS if len(scores_RM) else 0):
        gains_M: Array = (scores_RM / (scores_RM @ weights_M)[:, None]).mean(axis=0)
        if math.log(gains_M.max()) < _GAP:
            break
        weights_M = weights_M * gains_M
    return np.asarray(weights_M / weights_M.sum())


def _least_squares(misses_RM: Array) -> Array:
    """Return the weights, by min |A v|**2 + (1 - sum v)**2 over v >= 0: it has the same direction (v = s w)."""
    from scipy.optimize import nnls  # takes a moment to import, and few need it

    scaled: Array = np.asarray(np.linalg.qr(misses_RM, mode="r"))
    scaled = scaled / max(float(np.abs(scaled).max()), 1e-300)
    found_M, _ = nnls(np.vstack([scaled, np.ones(misses_RM.shape[1])]), np.append(np.zeros(len(scaled)), 1.0))
    return np.asarray(found_M / found_M.sum())
