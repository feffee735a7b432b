"""What a method's bound would be with n draws, foreseen from a few pilot draws.

The bound itself is applied to n quantiles of the pilot. These are its sorted draws against normal scores (Blom 1958:
Phi^-1((i - 3/8) / (n + 1/4))), smoothed by local lines (Cleveland 1979, with Gaussian weights): a straight line where
scores are Gaussian, and bent where they are not. Beyond the level that leaves five draws outside, the last line goes
on, which is a Gaussian tail of the local spread: too narrow a forecast where the tail is heavier. A forecast decides on
the number of draws and nothing else: no bound rests on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from .shapes import Draws, Question

if TYPE_CHECKING:
    from .smoothed import Smoothed

KNOTS = np.linspace(-8.0, 8.0, 321)
"""Normal scores at which the quantiles are tabulated; no share of 10^14 draws lies beyond."""

_BANDWIDTH = 0.3
"""Of the local lines, in normal scores. On 200 Gaussian draws the error of a width at eps .4 sigma falls from 9 % to
7 %; wider ones bend the quantiles of two modes or of saturated scores by more than they save."""

_OUTSIDE = 5
"""Draws beyond the last level that is read from the pilot itself."""

_HELD = 4_000_000
"""Quantiles in memory at a time."""


def tabulated(draws: np.ndarray, tail: bool = True) -> np.ndarray:
    """Smoothed quantiles (B,321), ascending, at the normal scores `KNOTS`.

    Args:
        draws: (B,P) pilot draws.
        tail: continue the last line; otherwise the last quantile that the pilot shows stands for all beyond.
    """
    size = draws.shape[1]
    scores = normal_scores(size)
    last = max(float(norm.ppf(1 - _OUTSIDE / size)), _BANDWIDTH)
    at = KNOTS.clip(-last, last)
    weights = np.exp(-0.5 * ((at[:, None] - scores) / _BANDWIDTH) ** 2)
    weights /= weights.sum(1, keepdims=True)
    centre = weights @ scores
    away = weights * (scores - centre[:, None])
    slope = away / (away @ scores)[:, None]  # a variance, as sum w (z - c) = 0
    reach = (KNOTS if tail else at) - centre
    found = np.sort(draws, axis=1) @ (weights + reach[:, None] * slope).T
    return np.maximum.accumulate(found, axis=1)


def normal_scores(n: int) -> np.ndarray:
    """(n,) where the order statistics of n normal draws are expected (Blom 1958), to 1e-2 of their spread."""
    return norm.ppf((np.arange(1, n + 1) - 0.375) / (n + 0.25))


def width_of(g: Smoothed, ask: Question, table: np.ndarray, n: int) -> np.ndarray:
    """Width hi - lo (B,) at the largest eps that n draws are expected to give.

    Args:
        g: the method.
        ask: the question.
        table: (B,321) tabulated quantiles.
        n: number of draws.
    """
    # In an order of no meaning: there are methods that look at the draws one after the other.
    place = np.interp(normal_scores(n), KNOTS, np.arange(len(KNOTS)))[np.random.default_rng(n).permutation(n)]
    left = np.minimum(place.astype(int), len(KNOTS) - 2)
    share = place - left
    widest = int(ask.eps.argmax())
    found = np.empty(len(table))
    rows = max(1, _HELD // n)
    for first in range(0, len(table), rows):
        part = table[first : first + rows]
        quantiles = (part[:, left] * (1 - share) + part[:, left + 1] * share).clip(*g.ends)
        bounds = g.bounds(Draws(quantiles), ask)
        found[first : first + rows] = (bounds.hi - bounds.lo)[:, widest]
    return found
