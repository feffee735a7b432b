"""CDF mean smoothing (Kumar et al. 2020): the expected score, certified through its whole distribution."""

from __future__ import annotations

import numpy as np

from ...bench.api import Metric
from ...bench.registry import register_defense
from .ranged import RangedMean
from .smoothed import Bounds, Draws, Question
from .stats.bands import BAND_COVERAGE, dominating_mean, lower_sum, named_band, uniform, upper_sum
from .stats.means import betting


@register_defense("cdf-mean-smoothing")
class CdfMeanSmoothing(RangedMean):
    """Mean of the clamped metric under Gaussian noise, certified through its distribution function.

    A DKW band holds the distribution function, each of its levels is moved by eps/sigma, and the expectation is summed
    again, exactly over the samples (arXiv 2009.08061, with the samples themselves as thresholds). Deployed: the mean of
    m draws from the worst distribution inside, by Chernoff's bound.

    Args:
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
        band: dkw (the paper's) or binomial (Clopper-Pearson on a grid, tighter in the tails).
        low, high: range to which scores are clamped; none for the metric's declared one.
        denoiser: denoiser between noise and metric; none for none.
    """

    concurrent = True

    foreseeable = True

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n: int = 1000,
        m: int = 101,
        band: str = "dkw",
        low: float | None = None,
        high: float | None = None,
        denoiser: str | None = None,
    ) -> None:
        super().__init__(metric, sigma, n, m, low, high, denoiser)
        self._band_name, self._band = band, named_band(band)

    def interval(self, draws: Draws, error: float) -> tuple[np.ndarray, np.ndarray]:
        """Betting interval for the expectation: it only judges violations, and is the tightest."""
        lo, hi = betting(self.to_unit(draws.values), error / 2)
        return self.from_unit(lo), self.from_unit(hi)

    def bounds(self, draws: Draws, ask: Question) -> Bounds:
        """The sum over the moved band."""
        shift = ask.eps / self.sigma
        if not ask.deployed:
            band = self._band(draws.n, ask.alpha / 2)
            lo = lower_sum(draws.ordered, band, uniform, shift, self.low)
            return Bounds(lo, upper_sum(draws.ordered, band, uniform, shift, self.high), BAND_COVERAGE[self._band_name])
        band = self._band(draws.n, ask.alpha / 4)
        hi = dominating_mean(draws.ordered, band, shift, self.high, self.cost, ask.alpha / 4)
        lo = -dominating_mean(-draws.ordered[:, ::-1], band, shift, -self.low, self.cost, ask.alpha / 4)
        return Bounds(lo, hi, BAND_COVERAGE[self._band_name])
