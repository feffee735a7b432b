"""Exact and Chernoff tails of binomial and bounded means."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import xlogy
from scipy.stats import beta, binom

from .order import check_samples

BISECTIONS = 44
"""Halvings of an interval of length 1: to 1e-13."""


def proportion_lower(successes: ArrayLike, n: int, error: float) -> np.ndarray:
    """One-sided Clopper-Pearson lower bound on a probability: P(bound > p) <= error."""
    check_samples(n, error)
    k = np.asarray(successes)
    return np.where(k > 0, beta.ppf(error, np.maximum(k, 1), n - k + 1), 0.0)


def proportion_upper(successes: ArrayLike, n: int, error: float) -> np.ndarray:
    """One-sided Clopper-Pearson upper bound on a probability: P(bound < p) <= error."""
    return 1.0 - proportion_lower(n - np.asarray(successes), n, error)


def majority_p(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Two-sided exact p-value that the most frequent of two classes is not the more likely one."""
    a, b = np.asarray(first), np.asarray(second)
    return np.minimum(1.0, 2.0 * binom.sf(a - 1, a + b, 0.5))


def sure_majority(m: int, error: float) -> int:
    """Smallest count k of m that the test of `majority_p` calls sure at `error`; m + 1 if none is.

    The abstention rule of Cohen et al. (2019, PREDICT) at its worst: all the other draws in one other class.
    """
    check_samples(m, error)
    counts = np.arange(m // 2 + 1, m + 1)
    sure = majority_p(counts, m - counts) <= error
    return int(counts[sure.argmax()]) if sure.any() else m + 1


def at_least(k: int, m: int, p: ArrayLike) -> np.ndarray:
    """P(Bin(m, p) >= k)."""
    return binom.sf(k - 1, m, np.asarray(p))


def kl(q: ArrayLike, p: ArrayLike) -> np.ndarray:
    """Relative entropy of two Bernoulli distributions."""
    q, p = np.asarray(q, dtype=float), np.asarray(p, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return xlogy(q, q / p) + xlogy(1 - q, (1 - q) / (1 - p))


def mean_reaches(p: ArrayLike, m: int, error: float) -> np.ndarray:
    """Level that a mean of m i.i.d. values in [0,1] with expectation at most p exceeds with probability <= error.

    Hoeffding (1963, theorem 1): P(mean >= q) <= exp(-m KL(q, p)) for q >= p; solved for q by bisection from above.
    """
    check_samples(m, error)
    p = np.asarray(p, dtype=float)
    low, high = p.copy(), np.ones_like(p)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = m * kl(middle, p) >= -np.log(error)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high
