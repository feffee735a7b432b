"""Bounds on quantiles from sorted samples.

Median smoothing (Chiang et al., NeurIPS 2020): with X = f(x + sigma G) and h_p its p-quantile, every |d|_2 <= eps has
h_{pl}(x) <= h_p(x + d) <= h_{pu}(x), where pl, pu = Phi(Phi^-1(p) -/+ eps/sigma). The shifted quantiles are bounded by
order statistics of n i.i.d. samples. Indices here are 1-based, as in the paper; 0 and n + 1 stand for "no sample is a
bound": such a side is infinite (or the end of a range that the metric cannot leave), never a sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri
from scipy.stats import beta, binom

from ....bench.errors import BadParameter


def shifted(level: ArrayLike, shift: ArrayLike) -> np.ndarray:
    """Phi(Phi^-1(level) + shift): where a quantile level lies after a move by shift = +/- eps/sigma."""
    return ndtr(ndtri(level) + np.asarray(shift))


def shifted_levels(
    eps: ArrayLike, sigma: float, lower: float = 0.5, upper: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Quantile levels (pl, pu) that bound the `lower`- and `upper`-quantile under any |d|_2 <= eps, shaped as eps."""
    if not sigma > 0:
        raise BadParameter(f"sigma {sigma} is not a noise level: expected a number > 0")
    shift = np.asarray(eps, dtype=float) / sigma
    return shifted(lower, -shift), shifted(upper, shift)


def upper_index(n: int, level: ArrayLike, error: float) -> np.ndarray:
    """Smallest k with P(X_(k) < h_level) <= error for each level; n + 1 where even k = n fails.

    X_(k) lies below the level-quantile only if at least k of n samples do, so with P(Bin(n, level) >= k) <= error;
    that is BinomCDF(k-1; n, level) >= 1 - error, in the tail that keeps its precision for a small error.
    """
    check_samples(n, error)
    level = np.asarray(level, dtype=float)
    k = np.clip(np.nan_to_num(binom.isf(error, n, level), nan=n) + 1, 1, n + 1).astype(int)
    # isf is exact up to rounding: settle the neighbours by the definition itself.
    while (lower := (k > 1) & (binom.sf(k - 2, n, level) <= error)).any():
        k = k - lower
    while (higher := (k <= n) & (binom.sf(k - 1, n, level) > error)).any():
        k = k + higher
    return k


def lower_index(n: int, level: ArrayLike, error: float) -> np.ndarray:
    """Largest k with BinomCDF(k-1; n, level) <= error, so P(X_(k) > h_level) <= error; 0 where even k = 1 fails."""
    return n + 1 - upper_index(n, 1.0 - np.asarray(level, dtype=float), error)


def reached(n: int, level: float, error: float) -> bool:
    """Whether any of n samples bounds the level-quantile from above: upper_index(n, level, error) <= n.

    The largest of them lies below it with probability level^n. That is all there is to know where only n is asked for.
    """
    check_samples(n, error)
    return level**n <= error


def pick(ordered: np.ndarray, index: ArrayLike, ends: tuple[float, float] = (-np.inf, np.inf)) -> np.ndarray:
    """X_(index) of sorted samples (B,n) for 1-based indices (E,): (B,E); index 0 and n + 1 give the ends."""
    index = np.atleast_1d(index)
    batch, n = ordered.shape
    padded = np.concatenate([np.full((batch, 1), ends[0]), ordered, np.full((batch, 1), ends[1])], axis=1)
    if (index < 0).any() or (index > n + 1).any():
        raise BadParameter(f"order statistic {index} of {n} samples: expected 0 to {n + 1}")
    return padded[:, index]


def quantile_bounds(
    ordered: np.ndarray,
    lower: ArrayLike,
    upper: ArrayLike,
    alpha: float,
    ends: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds lo <= h_lower and hi >= h_upper that hold together with probability >= 1 - alpha, for each pair of levels.

    Args:
        ordered: (B,n) samples sorted along the last axis, ascending.
        lower, upper: (E,) quantile levels.
        alpha: error probability of each pair, half a side.
        ends: what a side is where no sample is a bound: infinity, or the end of a range that cannot be left.

    Returns:
        lo, hi of shape (B,E).
    """
    n = ordered.shape[1]
    return (
        pick(ordered, lower_index(n, lower, alpha / 2), ends),
        pick(ordered, upper_index(n, upper, alpha / 2), ends),
    )


def deployed_level(m: int, error: float) -> float:
    """Level q such that the median of m fresh samples is at most h_q with probability >= 1 - error.

    Of the two middle samples of an even m the larger one is taken, which covers their mean too. That order statistic
    k is at most h_q if at least k samples are: P(Bin(m, q) >= k) = I_q(k, m-k+1), solved for q. By symmetry the
    median is at least h_{1-q} with the same probability (q = 1/2 + eta).
    """
    check_samples(m, error)
    k = m // 2 + 1
    return float(beta.ppf(1.0 - error, k, m - k + 1))


def median(ordered: np.ndarray) -> np.ndarray:
    """Median (B,) of sorted samples (B,n): the mean of the two middle ones for an even n."""
    n = ordered.shape[1]
    return (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2


def check_samples(n: int, error: float) -> None:
    """Raise `BadParameter` unless n >= 1 and 0 < error < 1."""
    if n < 1:
        raise BadParameter(f"{n} samples: expected at least 1")
    if not 0 < error < 1:
        raise BadParameter(f"error probability {error}: expected a number between 0 and 1")
