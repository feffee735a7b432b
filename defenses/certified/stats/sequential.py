"""Tests of a proportion that may stop as soon as they have seen enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, xlogy
from scipy.stats import beta

_PRIOR = 0.5
"""Both parameters of the Beta prior (Jeffreys)."""


def log_wealth(successes: ArrayLike, draws: ArrayLike, p0: float) -> np.ndarray:
    """Log evidence against "each draw succeeds with probability at most p0", which may be looked at after every draw.

    The likelihood ratio against p0, averaged over a Beta(1/2, 1/2) prior cut to [p0, 1]: under every p <= p0 a
    non-negative supermartingale that starts at 1, since the ratio of each q >= p0 is. So by Ville it ever reaches
    1/error with probability <= error, whatever the rule by which one stops (betting, Voracek 2024; Waudby-Smith &
    Ramdas 2024). The threshold is log(1/error) for one side.

    Args:
        successes, draws: numbers so far, of equal shape.
        p0: proportion under test, 0 < p0 < 1.
    """
    s, n = np.asarray(successes, dtype=float), np.asarray(draws, dtype=float)
    a, b = s + _PRIOR, n - s + _PRIOR
    with np.errstate(invalid="ignore"):
        posterior = betaln(a, b) + beta.logsf(p0, a, b)
        prior = betaln(_PRIOR, _PRIOR) + beta.logsf(p0, _PRIOR, _PRIOR)
        wealth = posterior - prior - xlogy(s, p0) - xlogy(n - s, 1.0 - p0)
    # Where p0 is 1 to the last bit nothing can speak against it: no evidence, not "not a number".
    return np.nan_to_num(wealth, nan=-np.inf, neginf=-np.inf)
