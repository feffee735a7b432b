"""Gaussian noise in front of the metric, drawn anew for every score."""

from __future__ import annotations

import torch

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.registry import Strength, register_defense
from ...bench.seeds import Streams
from ..base import RandomPurification


@register_defense("random-noise", strength=Strength("sigma", (0.01, 0.02, 0.05, 0.1)))
class RandomNoise(RandomPurification):
    """Gaussian noise on every pixel and channel, the result clamped to [0,1]; the deployed score is a mean of m draws.

    The oldest randomised defence: Liu et al., "Towards Robust Neural Networks via Random Self-ensemble", ECCV 2018
    (arXiv 1712.00673) average over it too, but add noise inside the network as well and train with it. It certifies
    nothing: that takes a median, many draws and no clamp before the noise (`median-smoothing`).

    Args:
        sigma: standard deviation of the noise in [0,1] pixel units, in (0,1]; peers take .01 to .1.
        m: draws averaged in a deployed score; peers take one.

    The metric sees images of the same size.
    """

    def __init__(self, metric: Metric, sigma: float = 0.01, m: int = 1) -> None:
        super().__init__(metric, m)
        if not 0 < sigma <= 1:
            raise BadParameter(f"random-noise[sigma={sigma}]: expected a number in (0, 1]")
        self.sigma = sigma

    def draw(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Noisy images, clamped."""
        return (x + self.sigma * rng.normal(x, 1)[0]).clamp(0, 1)
