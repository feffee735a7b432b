"""Median smoothing (Chiang et al., NeurIPS 2020): the median score under Gaussian noise, with certified bounds."""

from __future__ import annotations

import numpy as np
import torch

from ...bench.api import Decision, Metric
from ...bench.registry import register_defense
from ..denoisers.choose import NOISE
from .decide import decide_quantile
from .smoothed import Bounds, Draws, Precision, Question, Smoothed
from .stats.bands import dkw_margin
from .stats.order import (
    deployed_level,
    lower_index,
    median,
    pick,
    quantile_bounds,
    reached,
    shifted,
    shifted_levels,
    upper_index,
)


@register_defense("median-smoothing", strength=NOISE)
class MedianSmoothing(Smoothed):
    """Median of the metric under Gaussian noise; l2-certified by order statistics.

    Deployed is the median of m fresh draws. Two certificates: `population` bounds the exact median, `deployed` the
    m-draw score, at half of alpha for the certification draws and half for the deployed ones.

    Args:
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
        denoiser: denoiser between noise and metric; none for none.
        precision: number format of denoiser and metric, part of what is certified: float32, bfloat16 or float16.
        compiled: torch.compile the network for certificates and deployed scores: half a minute for each image size,
            then faster; attacks follow gradients through the network as it is.
    """

    concurrent = True

    foreseeable = True

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n: int = 1000,
        m: int = 101,
        denoiser: str | None = None,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        super().__init__(metric, sigma, n, m, denoiser, precision, compiled)

    def statistic(self, draws: np.ndarray) -> np.ndarray:
        """Median (B,) of draws (B,k), the mean of the two middle ones for an even k."""
        return median(np.sort(draws, axis=1))

    def interval(self, draws: Draws, error: float) -> tuple[np.ndarray, np.ndarray]:
        """Order statistics around the median."""
        lo, hi = quantile_bounds(draws.ordered, 0.5, 0.5, error)
        return lo[:, 0], hi[:, 0]

    def bounds(self, draws: Draws, ask: Question) -> Bounds:
        """Order statistics at the shifted levels (Chiang et al. 2020, theorem 1 and appendix)."""
        low, high = self._indices(ask, ask.eps, draws.n)
        return Bounds(pick(draws.ordered, low, self.ends), pick(draws.ordered, high, self.ends), ask.coverage)

    def _indices(self, ask: Question, eps: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """1-based order statistics of n draws that bound both sides at each eps; 0 and n + 1 where there is none."""
        sampling, upper = self.split(ask)
        levels = shifted_levels(eps, self.sigma, 1 - upper, upper)
        if ask.coverage == "dkw":
            # The two sides mirror each other; the small term keeps rounding on the safe side.
            above = np.ceil(n * (levels[1] + dkw_margin(n, sampling / 2)) + 1e-9)
            above = np.clip(above, 1, n + 1).astype(int)
            return n + 1 - above, above
        return lower_index(n, levels[0], sampling / 2), upper_index(n, levels[1], sampling / 2)

    def split(self, ask: Question) -> tuple[float, float]:
        """Error for the certification draws (per eps), and the upper one of the two levels that are moved by eps.

        Population: all of alpha, and the median. Deployed: a union bound, alpha/2 for the certification draws and
        alpha/4 a side for the m fresh ones.
        """
        parts = len(ask.eps) if ask.coverage == "bonferroni" else 1
        if not ask.deployed:
            return ask.alpha / parts, 0.5
        return ask.alpha / 2 / parts, deployed_level(self.cost, ask.alpha / 4)

    def advice(self, ask: Question) -> tuple[str, ...]:
        """Which eps are out of reach."""
        sampling, upper = self.split(ask)

        def reaches(eps: float, n: int) -> bool:
            if ask.coverage == "dkw":
                return bool(self._indices(ask, np.array([eps]), n)[1][0] <= n)
            return reached(n, float(shifted(upper, eps / self.sigma)), sampling / 2)

        return self.out_of_reach(ask, reaches)

    def _decide(self, x: torch.Tensor, eps: float, tau: float, alpha: float, seed: int, kind: str) -> Decision:
        sampling, upper = self.split(Question(np.array([eps]), alpha, kind == "deployed", "pointwise"))
        level = float(shifted_levels(eps, self.sigma, 1 - upper, upper)[1])
        return decide_quantile(self, x, eps, tau, level, sampling / 2, alpha, seed, kind)
