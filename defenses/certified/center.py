"""Center smoothing (Kumar & Goldstein, NeurIPS 2021) for a scalar: the middle of the shortest half of the scores."""

from __future__ import annotations

import numpy as np

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.registry import register_defense
from .smoothed import Bounds, Draws, Question, Smoothed
from .stats.order import deployed_level, pick, quantile_bounds, reached, shifted, upper_index


@register_defense("center-smoothing")
class CenterSmoothing(Smoothed):
    """Centre of the smallest ball that holds more than half of the scores under Gaussian noise.

    For a scalar that ball is the shortest interval with more than half of the draws, found exactly (beta = 1 in the
    paper), so the output moves by at most (1 + beta) R = 2 R: with R such that the ball of radius R around the centre
    holds more than half of the draws at x + d too, it meets the shortest interval there, which is no longer. The centre
    comes from one part of the draws and R from the others. A sanity baseline: median smoothing should dominate it.
    Differs from the paper's procedure in that the m-draw centre is covered by an exact binomial tail in place of its
    Hoeffding terms, with more than half of the draws in place of 1/2 + Delta of the mass, so that it never abstains.

    Args:
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate; a fifth of them finds the centre.
        m: draws for a deployed score.
        denoiser: denoiser between noise and metric; none for none.
    """

    def __init__(
        self, metric: Metric, sigma: float = 0.12, n: int = 1000, m: int = 101, denoiser: str | None = None
    ) -> None:
        super().__init__(metric, sigma, n, m, denoiser)
        if n < 5:
            raise BadParameter(
                f"center smoothing with n={n}: expected at least 5 draws, a fifth of them for the centre"
            )

    def statistic(self, draws: np.ndarray) -> np.ndarray:
        """Middle (B,) of the shortest interval with more than half of draws (B,k)."""
        ordered = np.sort(draws, axis=1)
        inner = draws.shape[1] // 2
        lengths = ordered[:, inner:] - ordered[:, : draws.shape[1] - inner]
        first = lengths.argmin(axis=1)
        rows = np.arange(len(draws))
        return (ordered[rows, first] + ordered[rows, first + inner]) / 2

    def reference(self, draws: Draws) -> np.ndarray:
        """The centre, from its part of the draws."""
        return self.statistic(draws.values[:, : draws.n // 5])

    def interval(self, draws: Draws, error: float) -> tuple[np.ndarray, np.ndarray]:
        """Median -/+ half the distance of the quartiles, each at its confidence.

        The shortest interval with half of the mass holds the median, and is no longer than the one between the
        quartiles, so its centre is at most half that length away.
        """
        median_lo, median_hi = quantile_bounds(draws.ordered, 0.5, 0.5, error / 2)
        quarter, three = quantile_bounds(draws.ordered, 0.25, 0.75, error / 2)
        reach = (three - quarter) / 2
        return (median_lo - reach)[:, 0], (median_hi + reach)[:, 0]

    def bounds(self, draws: Draws, ask: Question) -> Bounds:
        """Centre -/+ 2 R."""
        first = draws.n // 5
        centre = self.reference(draws)[:, None]
        distances = np.sort(np.abs(draws.values[:, first:] - centre), axis=1)
        error, level = self._split(ask)
        index = upper_index(draws.n - first, shifted(level, ask.eps / self.sigma), error)
        reach = 2 * pick(distances, index)
        coverage = "bonferroni" if ask.coverage in ("bonferroni", "dkw") else "pointwise"
        bottom, top = self.ends
        return Bounds(np.maximum(centre - reach, bottom), np.minimum(centre + reach, top), coverage)

    def advice(self, ask: Question) -> tuple[str, ...]:
        """Which eps are out of reach."""
        error, level = self._split(ask)

        def reaches(eps: float, n: int) -> bool:
            left = n - n // 5
            return reached(left, float(shifted(level, eps / self.sigma)), error)

        return self.out_of_reach(ask, reaches)

    def _split(self, ask: Question) -> tuple[float, float]:
        """Error of the distance's order statistic, and the share of draws that the ball must hold."""
        parts = len(ask.eps) if ask.coverage in ("bonferroni", "dkw") else 1
        if not ask.deployed:
            return ask.alpha / parts, 0.5
        return ask.alpha / 2 / parts, deployed_level(self.cost, ask.alpha / 2)
