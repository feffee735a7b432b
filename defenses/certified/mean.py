"""Mean smoothing: the expected score under Gaussian noise, certified through the Lipschitz constant of Phi^-1(E f)."""

from __future__ import annotations

import numpy as np

from ...bench.api import Metric
from ...bench.errors import UnknownName
from ...bench.registry import register_defense
from .ranged import RangedMean
from .smoothed import Bounds, Draws, Question
from .stats.binomial import mean_reaches
from .stats.means import INTERVALS, shifted_mean


@register_defense("mean-smoothing")
class MeanSmoothing(RangedMean):
    """Mean of the clamped metric under Gaussian noise.

    Population: the interval for E f, moved by eps/sigma on the scale of Phi^-1 (Salman et al. 2019). One interval
    serves every eps. Deployed: beyond it the mean of m draws, by Hoeffding's bound with the relative entropy.

    Args:
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
        interval: hoeffding, bernstein (empirical, Maurer & Pontil 2009) or betting (Waudby-Smith & Ramdas 2024).
        low, high: range to which scores are clamped; none for the metric's declared one.
        denoiser: denoiser between noise and metric; none for none.
    """

    concurrent = True

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n: int = 1000,
        m: int = 101,
        interval: str = "betting",
        low: float | None = None,
        high: float | None = None,
        denoiser: str | None = None,
    ) -> None:
        super().__init__(metric, sigma, n, m, low, high, denoiser)
        if interval not in INTERVALS:
            raise UnknownName("interval", interval, INTERVALS)
        self._interval = INTERVALS[interval]

    def interval(self, draws: Draws, error: float) -> tuple[np.ndarray, np.ndarray]:
        """The chosen interval for the expectation."""
        lo, hi = self._interval(self.to_unit(draws.values), error / 2)
        return self.from_unit(lo), self.from_unit(hi)

    def bounds(self, draws: Draws, ask: Question) -> Bounds:
        """The interval for E f, moved by eps/sigma."""
        sampling = ask.alpha / 2 if ask.deployed else ask.alpha
        lo, hi = self._interval(self.to_unit(draws.values), sampling / 2)
        lo, hi = shifted_mean(lo, hi, ask.eps / self.sigma)
        if ask.deployed:
            hi, lo = mean_reaches(hi, self.cost, ask.alpha / 4), 1.0 - mean_reaches(1.0 - lo, self.cost, ask.alpha / 4)
        return Bounds(self.from_unit(lo), self.from_unit(hi), "one interval")
