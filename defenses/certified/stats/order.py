"""Bounds on quantiles from sorted samples: pure statistics, no torch.

Median smoothing (Chiang et al., NeurIPS 2020): with X = f(x + sigma G) and h_p its p-quantile, every |d|_2 <= eps has
h_{pl}(x) <= h_p(x + d) <= h_{pu}(x), where pl, pu = Phi(Phi^-1(p) -/+ eps/sigma). The shifted quantiles are bounded by
order statistics of n i.i.d. samples. Indices here are 1-based, as in the paper, and `None` where no sample is a bound:
such a side is infinite (or the end of a range that the metric cannot leave), never a sample.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import beta, binom, norm

from ...bench.errors import BadParameter


def shifted_levels(eps: float, sigma: float, lower: float = 0.5, upper: float = 0.5) -> tuple[float, float]:
    """Quantile levels (pl, pu) that bound the `lower`- and `upper`-quantile under any |d|_2 <= eps."""
    if not sigma > 0:
        raise BadParameter(f"sigma {sigma} is not a noise level: expected a number > 0")
    shift = eps / sigma
    return float(norm.cdf(norm.ppf(lower) - shift)), float(norm.cdf(norm.ppf(upper) + shift))


def upper_index(n: int, level: float, error: float) -> int | None:
    """Smallest k with P(X_(k) < h_level) <= error, or None if even k = n fails.

    X_(k) lies below the level-quantile only if at least k of n samples do, so with P(Bin(n, level) >= k) <= error;
    that is BinomCDF(k-1; n, level) >= 1 - error, in the tail that keeps its precision for a small error.
    """
    _check(n, error)
    k = max(1, int(binom.isf(error, n, level)) + 1)
    # isf is exact up to rounding: settle the neighbours by the definition itself.
    while k > 1 and binom.sf(k - 2, n, level) <= error:
        k -= 1
    while k <= n and binom.sf(k - 1, n, level) > error:
        k += 1
    return k if k <= n else None


def lower_index(n: int, level: float, error: float) -> int | None:
    """Largest k with BinomCDF(k-1; n, level) <= error, so P(X_(k) > h_level) <= error; None if even k = 1 fails."""
    mirrored = upper_index(n, 1.0 - level, error)
    return None if mirrored is None else n + 1 - mirrored


def deployed_level(m: int, error: float) -> float:
    """Level q such that the median of m fresh samples is at most h_q with probability >= 1 - error.

    Of the two middle samples of an even m the larger one is taken, which covers their mean too. That order statistic
    k is at most h_q if at least k samples are: P(Bin(m, q) >= k) = I_q(k, m-k+1), solved for q. By symmetry the
    median is at least h_{1-q} with the same probability. (SCIENCE section 2: q = 1/2 + eta.)
    """
    _check(m, error)
    k = m // 2 + 1
    return float(beta.ppf(1.0 - error, k, m - k + 1))


def largest_radius(n: int, alpha: float) -> float:
    """Largest eps/sigma at which n samples give a bound on the median: Phi^-1((alpha/2)^(1/n))."""
    _check(n, alpha)
    return float(norm.ppf((alpha / 2) ** (1.0 / n)))


def quantile_interval(
    ordered: np.ndarray,
    levels: tuple[float, float],
    alpha: float,
    ends: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[np.ndarray, np.ndarray]:
    """Interval [lo, hi] with h_{levels[0]} >= lo and h_{levels[1]} <= hi, together with probability >= 1 - alpha.

    Args:
        ordered: (B,n) samples sorted along the last axis, ascending.
        levels: quantile levels of the lower and the upper side.
        alpha: error probability, half a side.
        ends: what a side is where no sample is a bound: infinity, or the end of a range that cannot be left.

    Returns:
        lo, hi of shape (B,).
    """
    batch, n = ordered.shape
    low, high = lower_index(n, levels[0], alpha / 2), upper_index(n, levels[1], alpha / 2)
    lo = np.full(batch, ends[0]) if low is None else ordered[:, low - 1].copy()
    hi = np.full(batch, ends[1]) if high is None else ordered[:, high - 1].copy()
    return lo, hi


def median(ordered: np.ndarray) -> np.ndarray:
    """Median (B,) of sorted samples (B,n): the mean of the two middle ones for an even n."""
    n = ordered.shape[1]
    return (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2


def _check(n: int, error: float) -> None:
    if n < 1:
        raise BadParameter(f"{n} samples: expected at least 1")
    if not 0 < error < 1:
        raise BadParameter(f"error probability {error}: expected a number between 0 and 1")
