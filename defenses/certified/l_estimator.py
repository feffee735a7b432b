"""Trimmed means and other L-estimators under Gaussian noise: every quantile is moved by eps/sigma, then summed.

An L-estimator is the integral of the quantiles h_p against weights w(p), here symmetric ones. For |d|_2 <= eps it stays
between the integrals of h_{Phi(Phi^-1(p) -/+ eps/sigma)}; the quantiles come from a band for the whole distribution, so
the bounds hold for every eps at once. Rekavandi et al. (NeurIPS 2024) certify the trimmed mean in a probabilistic
sense (P(|output - reference| <= tolerance) >= P at a random draw); the bounds here are on the estimator itself.
"""

from __future__ import annotations

import numpy as np

from ...bench.api import Metric
from ...bench.errors import BadParameter, UnknownName
from ...bench.registry import register_defense
from .smoothed import Bounds, Draws, Question, Smoothed
from .stats.bands import (
    BAND_COVERAGE,
    Measure,
    atoms,
    fresh_levels,
    lower_sum,
    named_band,
    trimmed,
    upper_sum,
)

_QUARTILES = np.array([0.25, 0.5, 0.75])


class LEstimator(Smoothed):
    """A symmetric L-estimator of the metric under Gaussian noise.

    Args:
        metric: the metric inside.
        measure: weights of the quantile levels, as a distribution function; symmetric about 1/2.
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
        band: dkw or binomial.
        denoiser: denoiser between the noise and the metric, or None.
    """

    foreseeable = True

    def __init__(
        self, metric: Metric, measure: Measure, sigma: float, n: int, m: int, band: str, denoiser: str | None
    ) -> None:
        super().__init__(metric, sigma, n, m, denoiser)
        self._measure, self._band_name, self._band = measure, band, named_band(band)

    def coefficients(self, k: int) -> np.ndarray:
        """Weights (k,) of the order statistics of k draws: the measure between (i-1)/k and i/k, symmetric."""
        total = self._measure(np.arange(k + 1) / k)
        steps = np.diff(np.concatenate([[0.0], total[1:-1], [1.0]]))
        return (steps + steps[::-1]) / 2

    def statistic(self, draws: np.ndarray) -> np.ndarray:
        """Weighted sum (B,) of sorted draws (B,k)."""
        return np.sort(draws, axis=1) @ self.coefficients(draws.shape[1])

    def interval(self, draws: Draws, error: float) -> tuple[np.ndarray, np.ndarray]:
        """The sum over a band around the draws, at eps 0."""
        lo, hi = self._sums(draws, self._band(draws.n, error / 2), self._measure, np.zeros(1))
        return lo[:, 0], hi[:, 0]

    def bounds(self, draws: Draws, ask: Question) -> Bounds:
        """The sum over the moved band. Deployed: the i-th of m fresh draws lies at a level that another band bounds."""
        band, measure = self._levels(ask, draws.n)
        return Bounds(*self._sums(draws, band, measure, ask.eps / self.sigma), BAND_COVERAGE[self._band_name])

    def advice(self, ask: Question) -> tuple[str, ...]:
        """Which eps are out of reach: those that put weight above the last level of the band."""

        def reaches(eps: float, n: int) -> bool:
            last, measure = self._levels(ask, n, np.array([n]))
            return bool(np.isfinite(upper_sum(np.zeros((1, 1)), last, measure, np.array([eps / self.sigma]))[0, 0]))

        return self.out_of_reach(ask, reaches)

    def _levels(self, ask: Question, n: int, k: np.ndarray | None = None) -> tuple[np.ndarray, Measure]:
        """Band of n draws, and the measure: the estimator's, or that of its m fresh draws at their highest levels."""
        if not ask.deployed:
            return self._band(n, ask.alpha / 2, k), self._measure
        fresh = atoms(fresh_levels(self.cost, ask.alpha / 4, self._band), self.coefficients(self.cost))
        return self._band(n, ask.alpha / 4, k), fresh

    def _sums(
        self, draws: Draws, band: np.ndarray, measure: Measure, shift: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        bottom, top = self.ends
        return (
            lower_sum(draws.ordered, band, measure, shift, bottom),
            upper_sum(draws.ordered, band, measure, shift, top),
        )


@register_defense("trimmed-mean-smoothing")
class TrimmedMeanSmoothing(LEstimator):
    """Trimmed mean of the metric under Gaussian noise: the draws without the `trim` lowest and highest share.

    Args:
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
        trim: share cut off at each end, in [0, 0.5).
        band: binomial (Clopper-Pearson on a grid) or dkw.
        denoiser: denoiser between noise and metric; none for none.
    """

    concurrent = True

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n: int = 1000,
        m: int = 101,
        trim: float = 0.25,
        band: str = "binomial",
        denoiser: str | None = None,
    ) -> None:
        super().__init__(metric, _named("trimmed", trim), sigma, n, m, band, denoiser)


@register_defense("l-estimator-smoothing")
class LEstimatorSmoothing(LEstimator):
    """An L-estimator of the metric under Gaussian noise, by name.

    Args:
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
        weights: trimmed, winsorised (what is cut off counts as the outermost draw that stays), trimean (Tukey:
            quartiles and median, 1:2:1) or midhinge (mean of the quartiles).
        trim: share cut off at each end by the first two, in [0, 0.5).
        band: binomial (Clopper-Pearson on a grid) or dkw.
        denoiser: denoiser between noise and metric; none for none.
    """

    concurrent = True

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n: int = 1000,
        m: int = 101,
        weights: str = "trimean",
        trim: float = 0.25,
        band: str = "binomial",
        denoiser: str | None = None,
    ) -> None:
        super().__init__(metric, _named(weights, trim), sigma, n, m, band, denoiser)


def _named(weights: str, trim: float) -> Measure:
    """The measure of that name."""
    if not 0 <= trim < 0.5:
        raise BadParameter(f"trim {trim}: expected a share in [0, 0.5)")
    ends = np.array([trim, 1 - trim])
    measures: dict[str, Measure] = {
        "trimmed": lambda p: trimmed(p, trim),
        "winsorised": lambda p: (1 - 2 * trim) * trimmed(p, trim) + atoms(ends, np.array([trim, trim]))(p),
        "trimean": atoms(_QUARTILES, np.array([0.25, 0.5, 0.25])),
        "midhinge": atoms(_QUARTILES, np.array([0.5, 0.0, 0.5])),
    }
    if weights not in measures:
        raise UnknownName("weights", weights, measures)
    return measures[weights]
