"""Median smoothing (Chiang et al., NeurIPS 2020): the median score under Gaussian noise, with certified bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ...bench.api import Certificate, DefendedMetric, Estimate, Metric, check_finite
from ...bench.errors import BadParameter
from ...bench.registry import register_defense
from ...bench.seeds import Streams
from .order_stats import deployed_level, median, quantile_interval, shifted_levels
from .sampling import sample_scores

MOST_DRAWS = 10_000_000
INTERVAL_ERROR = 0.001
"""Error probability of the interval that goes with a deployed score, used to judge violations."""


@register_defense("median-smoothing")
class MedianSmoothing(DefendedMetric):
    """Median of the metric under Gaussian noise; l2-certified by order statistics.

    Deployed is the median of m fresh draws. Two certificates: `population` bounds the exact median, `deployed` the
    m-draw score, at half of alpha for the certification draws and half for the deployed ones.

    Args:
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
    """

    randomised = True
    certified_norm = "l2"

    def __init__(self, metric: Metric, sigma: float = 0.12, n: int = 1000, m: int = 101) -> None:
        super().__init__(metric)
        if sigma <= 0:
            raise BadParameter(f"median smoothing with sigma={sigma}: expected a noise level > 0, in [0,1] pixel units")
        if not (1 <= n <= MOST_DRAWS and 1 <= m <= MOST_DRAWS):
            raise BadParameter(f"median smoothing with n={n}, m={m}: expected 1 to {MOST_DRAWS:,} draws each")
        self.sigma, self.n, self.cost = sigma, n, m

    def base_score(self, noisy: torch.Tensor) -> torch.Tensor:
        """The function f that is smoothed: noisy images (b,3,H,W), not clamped, to scores (b,)."""
        return self.metric(noisy)

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        ordered = self._samples(x, self.cost, rng)
        lo, hi = quantile_interval(ordered, (0.5, 0.5), INTERVAL_ERROR)
        return Estimate(median(ordered), lo, hi)

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B) single-draw scores, differentiable through noise, and denoiser where there is one."""
        noisy = rng.normal(x, draws).mul_(self.sigma) + x
        return self.base_score(noisy.flatten(0, 1)).reshape(draws, x.shape[0])

    def _certify(self, x: torch.Tensor, eps: tuple[float, ...], alpha: float, rng: Streams, family: int) -> Certificate:
        ordered = self._samples(x, self.n, rng)
        joint = self._both(ordered, eps, alpha / family) if family > 1 else None
        return replace(self._both(ordered, eps, alpha), family=joint)

    def _both(self, ordered: np.ndarray, eps: tuple[float, ...], alpha: float) -> Certificate:
        """Population certificate with the deployed one from the same draws."""
        # Union bound for the latter: alpha/2 for the certification draws, alpha/4 a side for the deployed median.
        upper = deployed_level(self.cost, alpha / 4)
        deployed = self._bounds("deployed", ordered, eps, alpha, alpha / 2, upper)
        return replace(self._bounds("population", ordered, eps, alpha, alpha, 0.5), deployed=deployed)

    def _bounds(
        self, kind: str, ordered: np.ndarray, eps: tuple[float, ...], alpha: float, sampling_alpha: float, upper: float
    ) -> Certificate:
        """Certificate of one kind: the `upper`- and (1 - `upper`)-quantile shifted by each eps."""
        ends = self.metric.score_range if self.metric.bounded and self.metric.score_range else (-np.inf, np.inf)
        pairs = [
            quantile_interval(ordered, shifted_levels(e, self.sigma, 1 - upper, upper), sampling_alpha, ends)
            for e in eps
        ]
        lo, hi = (np.stack(side, axis=1) for side in zip(*pairs, strict=True))
        return Certificate(
            kind=kind,
            norm="l2",
            eps=eps,
            score=median(ordered),
            lo=lo,
            hi=hi,
            n=self.n,
            alpha=alpha,
            sigma=self.sigma,
            spread=ordered.std(axis=1, ddof=1) if self.n > 1 else np.full(len(ordered), np.nan),
            lower_better=self.metric.lower_better,
        )

    def _samples(self, x: torch.Tensor, n: int, rng: Streams) -> np.ndarray:
        samples = sample_scores(self.base_score, x, self.sigma, n, rng)
        check_finite(samples, self.metric.spec)
        return np.sort(samples, axis=1)
