"""Confidence intervals for the expectation of a bounded variable, and what the Gaussian shift makes of them."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from .binomial import BISECTIONS
from .order import check_samples, shifted

_BET = 0.75
"""Largest share of the wealth at stake in one draw (Waudby-Smith & Ramdas use 1/2 or 3/4)."""


def hoeffding(draws: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Hoeffding (1963): mean -/+ sqrt(log(1/error) / 2n), each side wrong with probability <= error.

    Args:
        draws: (B,n) i.i.d. values in [0,1], in the order in which they were drawn.
        error: error probability a side.

    Returns:
        lo, hi of shape (B,).
    """
    n = draws.shape[1]
    check_samples(n, error)
    reach = np.sqrt(-np.log(error) / (2 * n))
    return _clipped(draws.mean(1) - reach, draws.mean(1) + reach)


def empirical_bernstein(draws: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Maurer & Pontil (2009, theorem 4): mean -/+ sqrt(2 V log(2/error) / n) + 7 log(2/error) / (3 (n-1))."""
    n = draws.shape[1]
    check_samples(n, error)
    if n < 2:
        return np.zeros(len(draws)), np.ones(len(draws))
    bits = np.log(2 / error)
    reach = np.sqrt(2 * draws.var(1, ddof=1) * bits / n) + 7 * bits / (3 * (n - 1))
    return _clipped(draws.mean(1) - reach, draws.mean(1) + reach)


def betting(draws: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Waudby-Smith & Ramdas (JRSSB 2024, section 4): means against which no gambler gets rich.

    Against a candidate mean, wealth grows as prod(1 + lambda_t (X_t - mean)) with bets fixed before each draw; it is a
    martingale if the candidate is the truth, so it ever reaches 1/error with probability <= error (Ville). Bets are
    the predictable plug-in for n draws. Wealth falls as the candidate rises, so the smallest mean that stays in is
    found by bisection, which stops on the safe side.
    """
    n = draws.shape[1]
    check_samples(n, error)
    return _betting_lower(draws, error), 1.0 - _betting_lower(1.0 - draws, error)


def _betting_lower(draws: np.ndarray, error: float) -> np.ndarray:
    n = draws.shape[1]
    count = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(draws, axis=1)) / (count + 1)
    variance = (0.25 + np.cumsum(np.square(draws - mean), axis=1)) / (count + 1)
    before = np.concatenate([np.full((len(draws), 1), 0.25), variance[:, :-1]], axis=1)
    bets = np.sqrt(2 * np.log(1 / error) / (before * n))
    low, high = np.zeros(len(draws)), draws.mean(1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        stake = np.minimum(bets, _BET / np.maximum(middle, 1e-300)[:, None])
        wealth = np.cumsum(np.log1p(stake * (draws - middle[:, None])), axis=1).max(axis=1)
        out = wealth >= -np.log(error)
        low, high = np.where(out, middle, low), np.where(out, high, middle)
    return low


def _clipped(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.clip(lo, 0.0, 1.0), np.clip(hi, 0.0, 1.0)


INTERVALS: MappingProxyType[str, Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]] = MappingProxyType(
    {"hoeffding": hoeffding, "bernstein": empirical_bernstein, "betting": betting}
)
"""Intervals by name: (B,n) draws in [0,1] and the error a side to (lo, hi) of shape (B,)."""


def shifted_mean(lo: np.ndarray, hi: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Range of E f(x + d) for |d|_2 <= eps from the range [lo, hi] (B,) of E f(x), f in [0,1]: two (B,E).

    Phi(Phi^-1(E f) -/+ eps/sigma): Phi^-1 of a smoothed function is 1/sigma-Lipschitz (Salman et al. 2019, lemma 2).
    """
    return shifted(lo[:, None], -shift[None]), shifted(hi[:, None], shift[None])
