"""Bases for defences that change the image before the metric sees it."""

from __future__ import annotations

from abc import abstractmethod

import torch

from ..bench.api import DefendedMetric, Estimate
from ..bench.seeds import Streams


def exact(scores: torch.Tensor) -> Estimate:
    """Estimate of a deterministic score: the interval is the score itself."""
    values = scores.double().cpu().numpy()
    return Estimate(values, values, values)


class Purification(DefendedMetric):
    """A deterministic transform of the image in front of the metric."""

    @abstractmethod
    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The deployed transform, exact: (B,3,H,W) in [0,1] to (B,3,H',W')."""

    def purify_surrogate(self, x: torch.Tensor) -> torch.Tensor:
        """Differentiable view with the same forward values; `purify` itself where that is differentiable."""
        return self.purify(x)

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        return exact(self.metric(self.purify(x)))

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(1,B) score with the gradient of the surrogate transform."""
        return self.metric(self.purify_surrogate(x))[None]
