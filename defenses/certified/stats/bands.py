"""Bands that hold a whole distribution function, and what they say about sums of quantiles.

A band is a vector L (n,): with probability >= 1 - error, F(X_(k)) >= L_k for all k at once. By symmetry it bounds F
from above too: F(X_(k) -) <= 1 - L_(n+1-k). It knows nothing of eps, so all that follows from it holds for every eps.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Protocol

import numpy as np
from scipy.stats import beta

from ....bench.errors import UnknownName
from .order import check_samples, shifted

_GRID = 64
"""Order statistics at which the binomial band is exact; between them it is a step."""

_RATES = 64
_TINY = 1e-9

Measure = Callable[[np.ndarray], np.ndarray]
"""Distribution function W on [0,1] of the weight of the quantile levels: W(p) = weight of the levels below p."""


def dkw_margin(n: int, error: float) -> float:
    """One-sided Dvoretzky-Kiefer-Wolfowitz margin with Massart's constant: sqrt(log(1/error) / 2n), error <= 1/2."""
    check_samples(n, error)
    return float(np.sqrt(-np.log(min(error, 0.5)) / (2 * n)))


class Band(Protocol):
    """How a band is asked for."""

    def __call__(self, n: int, error: float, k: np.ndarray | None = None) -> np.ndarray:
        """L of n samples with a one-sided error, at the order statistics k (1-based), or at all of them."""
        ...


def dkw_band(n: int, error: float, k: np.ndarray | None = None) -> np.ndarray:
    """L_k = k/n - sqrt(log(1/error) / 2n) (Massart 1990)."""
    return np.clip((np.arange(1, n + 1) if k is None else k) / n - dkw_margin(n, error), 0.0, 1.0)


def binomial_band(n: int, error: float, k: np.ndarray | None = None) -> np.ndarray:
    """Clopper-Pearson at up to 64 order statistics, error / 64 each: as wide as DKW in the middle, far tighter outside.

    F(X_(k)) is Beta(k, n-k+1) for a continuous F and stochastically larger otherwise.
    """
    check_samples(n, error)
    # Evenly spaced on the arcsine scale, where the spread of an order statistic is the same everywhere.
    share = np.sin(np.linspace(0, np.pi / 2, _GRID + 1)[1:]) ** 2
    at = np.unique(np.clip(np.round(share * n).astype(int), 1, n))
    exact = beta.ppf(error / len(at), at, n - at + 1)
    return np.concatenate([[0.0], exact])[np.searchsorted(at, np.arange(1, n + 1) if k is None else k, side="right")]


BANDS: MappingProxyType[str, Band] = MappingProxyType({"dkw": dkw_band, "binomial": binomial_band})
"""Bands by name."""


BAND_COVERAGE: MappingProxyType[str, str] = MappingProxyType({"dkw": "dkw", "binomial": "binomial band"})
"""How a certificate from each band names its coverage."""


def named_band(name: str) -> Band:
    """The band of that name; raises `UnknownName`."""
    if name not in BANDS:
        raise UnknownName("band", name, BANDS)
    return BANDS[name]


def uniform(p: np.ndarray) -> np.ndarray:
    """The measure of the mean: every level weighs alike."""
    return p


def trimmed(p: np.ndarray, trim: float) -> np.ndarray:
    """The measure of the trimmed mean: levels from `trim` to 1 - `trim`."""
    return np.clip((p - trim) / (1 - 2 * trim), 0.0, 1.0)


def atoms(levels: np.ndarray, weights: np.ndarray) -> Measure:
    """Measure of weights at single levels, each counted as lying just above its level."""
    order = np.argsort(levels)
    total = np.concatenate([[0.0], np.cumsum(weights[order])])
    return lambda p: total[np.searchsorted(levels[order], p, side="left")]


def upper_sum(
    ordered: np.ndarray, band: np.ndarray, measure: Measure, shift: np.ndarray, top: float = np.inf
) -> np.ndarray:
    """Upper bound (B,E) on the integral of the quantiles h_p(x + d) against a measure, for every |d|_2 <= eps.

    F(X_(k)) >= L_k moves to P(f(x + d) <= X_(k)) >= Phi(Phi^-1(L_k) - eps/sigma) =: p_k, so all levels below p_k have
    a quantile of at most X_(k); levels above p_n have the end of the range, infinite where it has none.

    Args:
        ordered: (B,n) sorted samples.
        band: (n,) lower band.
        measure: weights of the levels.
        shift: (E,) eps/sigma.
        top: upper end of the range.
    """
    at = _steps(band)
    weights = _weights(band[at], measure, shift)
    tail = weights[:, -1]
    inner = ordered[:, at] @ weights[:, :-1].T
    # 0 * inf is no number: an end without weight must not count.
    return inner + np.where(tail > 0, np.where(tail > 0, tail, 1.0) * top, 0.0)


def lower_sum(
    ordered: np.ndarray, band: np.ndarray, mirror: Measure, shift: np.ndarray, bottom: float = -np.inf
) -> np.ndarray:
    """Lower bound (B,E): the upper one of -X, with the measure `mirror` of the levels 1 - p."""
    return -upper_sum(-ordered[:, ::-1], band, mirror, shift, -bottom)


def fresh_levels(m: int, error: float, band: Band) -> np.ndarray:
    """Levels (m,) with X_(i) <= h_{level_i} for all i of m fresh draws at once, with probability >= 1 - error.

    The other reading of a band: X_(i) = h_{U_(i)} with uniform U, and U_(i) <= 1 - L_(m+1-i).
    """
    return 1.0 - band(m, error)[::-1]


def dominating_mean(
    ordered: np.ndarray, band: np.ndarray, shift: np.ndarray, top: float, m: int, error: float
) -> np.ndarray:
    """Level (B,E) that the mean of m fresh draws at any |d|_2 <= eps exceeds with probability <= error.

    f(x + d) is stochastically smaller than the variable Y with weight p_k - p_(k-1) at X_(k) and the rest at `top`
    (see `upper_sum`), so the mean of m draws is, and Chernoff's bound holds with Y's known moments:
    min over lambda of (log E exp(lambda Y) + log(1/error)/m) / lambda. Values are taken to lie in [., top].
    """
    check_samples(m, error)
    at = _steps(band)
    weights = _weights(band[at], uniform, shift)
    below = ordered[:, at] - top  # exp() of a number <= 0 cannot overflow
    best = np.zeros((len(ordered), len(shift)))
    # Any lambda gives a bound; the useful ones lie between the scale of the range and that of the draws.
    smallest = 0.1 / np.maximum(top - ordered[:, 0], _TINY)
    largest = np.maximum(500.0 / np.maximum(np.ptp(ordered, axis=1), _TINY), 2 * smallest)
    for step in np.linspace(0.0, 1.0, _RATES):
        rate = smallest ** (1 - step) * largest**step
        moments = np.exp(rate[:, None] * below) @ weights[:, :-1].T + weights[:, -1]
        level = (np.log(moments) - np.log(error) / m) / rate[:, None]
        best = np.minimum(best, level)
    return top + best


def _steps(band: np.ndarray) -> np.ndarray:
    """Indices (k,) at which a band rises: only these samples can have a weight, at whatever eps."""
    return np.flatnonzero(np.diff(band, prepend=-1.0) > 0)


def _weights(band: np.ndarray, measure: Measure, shift: np.ndarray) -> np.ndarray:
    """Weights (E,k+1) of the samples at k levels of a band, and of the top: the measure between neighbouring p_k."""
    levels = shifted(band[None, :], -shift[:, None])
    below = measure(levels)
    steps = np.diff(below, axis=1, prepend=0.0)
    # The whole weight as the measure itself adds it up: a rounding error must not become a weight at infinity.
    whole = measure(np.full((len(shift), 1), np.nextafter(1.0, 2.0)))
    return np.concatenate([steps, np.maximum(whole - below[:, -1:], 0.0)], axis=1)
