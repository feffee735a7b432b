"""Smoothed methods that need to know the metric's range."""

from __future__ import annotations

import numpy as np
import torch

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.seeds import Streams
from .smoothed import Draws, Smoothed


class Ranged(Smoothed):
    """A statistic of scores that are clamped to [low, high].

    The clamped metric is what is deployed, so the range is a fact and not a belief. Its price is paid in SROCC where
    scores leave it. Clamping comes after the draws are made, which are shared with the methods that do not clamp.

    Args:
        metric: the metric inside.
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
        low, high: the range; None for the metric's declared one.
        denoiser: denoiser between the noise and the metric, or None.
    """

    def __init__(
        self,
        metric: Metric,
        sigma: float,
        n: int,
        m: int,
        low: float | None,
        high: float | None,
        denoiser: str | None = None,
    ) -> None:
        super().__init__(metric, sigma, n, m, denoiser)
        declared = metric.score_range or (None, None)
        low, high = (d if given is None else given for given, d in zip((low, high), declared, strict=True))
        if low is None or high is None:
            raise BadParameter(
                f"{self._name} needs the range of the scores, which metric {metric.spec!r} does not declare: give it, "
                "for example low=0,high=100 (scores are clamped to it)"
            )
        if not low < high or not np.isfinite(high - low):
            raise BadParameter(f"{self._name} with low={low}, high={high}: expected finite numbers, low < high")
        self.low, self.high = float(low), float(high)

    @property
    def ends(self) -> tuple[float, float]:
        """The range."""
        return self.low, self.high

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B) single-draw scores, clamped: the gradient is that of what is averaged."""
        return super().surrogate(x, rng, draws).clamp(self.low, self.high)

    def _checked(self, samples: np.ndarray) -> Draws:
        return Draws(np.clip(super()._checked(samples).values, self.low, self.high))

    def to_unit(self, scores: np.ndarray) -> np.ndarray:
        """Scores as shares of the range."""
        return (scores - self.low) / (self.high - self.low)

    def from_unit(self, shares: np.ndarray) -> np.ndarray:
        """Shares of the range as scores."""
        return self.low + (self.high - self.low) * shares


class RangedMean(Ranged):
    """The mean of clamped scores, whatever certifies it."""

    def statistic(self, draws: np.ndarray) -> np.ndarray:
        """Mean (B,) of clamped draws (B,k)."""
        return np.clip(draws, self.low, self.high).mean(axis=1)
