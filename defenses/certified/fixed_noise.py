"""Smoothing with one fixed noise draw: deterministic, and therefore not certified."""

from __future__ import annotations

import torch

from ...bench.api import DefendedMetric, Estimate, Metric
from ...bench.errors import BadParameter
from ...bench.images import straight_through
from ...bench.registry import register_defense
from ...bench.seeds import Streams, generator
from ..base import exact


@register_defense("fixed-noise-median-smoothing")
class FixedNoiseMedianSmoothing(DefendedMetric):
    """Median over m noise draws that are the same in every call. NOT certified: the negative control of the suite.

    The theorem bounds the median over all noise; it says nothing of one draw that the attacker knows, who searches for
    an image whose m scores are lucky. It looks like median smoothing, is deterministic, and breaks its bound under a
    plain gradient attack.

    Args:
        sigma: noise level in [0,1] pixel units.
        m: draws, fixed once for all images of a size.
        noise_seed: seed of the draws; it is part of what is deployed and known to the attacker.
    """

    def __init__(self, metric: Metric, sigma: float = 0.12, m: int = 11, noise_seed: int = 0) -> None:
        super().__init__(metric)
        if not sigma > 0 or m < 1:
            raise BadParameter(f"fixed-noise smoothing with sigma={sigma}, m={m}: expected sigma > 0 and m >= 1")
        self.sigma, self.cost, self._noise_seed = sigma, m, noise_seed

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (m,B) under the fixed noise."""
        source = generator("fixed noise", self._noise_seed, tuple(x.shape[1:]))
        noise = torch.randn((self.cost, 1, *x.shape[1:]), generator=source).to(x.device)
        return self.metric((x + self.sigma * noise).flatten(0, 1)).reshape(self.cost, len(x))

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        return exact(self._scores(x).double().quantile(0.5, dim=0))

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(1,B) median with the gradient of an average that weighs draws by their nearness to it.

        The gradient of the median alone is that of one or two draws, and jumps from draw to draw.
        """
        scores = self._scores(x)
        middle = scores.detach().double().quantile(0.5, dim=0).to(scores.dtype)
        distance = (scores.detach() - middle).abs()
        weights = torch.softmax(-distance / distance.mean(0).clamp_min(1e-12), dim=0)
        return straight_through(middle, (weights * scores).sum(0))[None]
