"""A randomised defence as a plug-in: random resizing, padding and noise, drawn anew for every score.

C. Xie, J. Wang, Z. Zhang, Z. Ren, A. Yuille, "Mitigating Adversarial Effects Through Randomization", ICLR 2018
(arXiv 1711.01991), with Gaussian noise on top.

    robustiqa check --plugin examples/random_resize.py --defense random-resize

It shows the two views that a randomised defence has to give: the deployed score, and independent differentiable draws
of it, over which attacks average. A defence that is attacked through a single draw looks stronger than it is.
"""

from __future__ import annotations

import torch
from robustiqa.bench import DefendedMetric, Metric, register_defense
from robustiqa.bench.api import Estimate
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.measures import INTERVAL_ERROR
from robustiqa.bench.seeds import Streams
from scipy.stats import t
from torch.nn import functional as F


def t_factor(draws: int) -> float:
    """Half the width of an interval for the mean of so many draws, in their standard deviations."""
    return float(t.ppf(1 - INTERVAL_ERROR / 2, draws - 1)) / draws**0.5


@register_defense("random-resize")
class RandomResize(DefendedMetric):
    """Enlarge to a random size, pad to a fixed one at a random place, add noise (Xie et al. 2018); the mean of m draws.

    Args:
        grow: the padded size as a multiple of the image's; the paper's 331/299 is 1.11.
        noise: standard deviation of the noise, in [0,1] pixel units.
        m: draws averaged in a deployed score.
    """

    randomised = True

    def __init__(self, metric: Metric, grow: float = 1.11, noise: float = 0.02, m: int = 1) -> None:
        super().__init__(metric)
        if not grow >= 1 or not noise >= 0 or m < 1:
            raise BadParameter(
                f"random-resize[grow={grow},noise={noise},m={m}]: expected grow >= 1, noise >= 0, m >= 1"
            )
        self.grow, self.noise, self.cost = grow, noise, m

    def transform(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """One draw: images (B,3,H,W) to (B,3,grow H,grow W)."""
        numbers = rng.numbers(3).tolist()
        padded = torch.stack([self._one(image, *three) for image, three in zip(x, numbers, strict=True)])
        return (padded + self.noise * rng.normal(padded, 1)[0]).clamp(0.0, 1.0)

    def _one(self, image: torch.Tensor, size: float, top: float, left: float) -> torch.Tensor:
        height, width = (round(self.grow * side) for side in image.shape[1:])
        factor = 1 + (self.grow - 1) * size
        h, w = (min(whole, round(factor * side)) for whole, side in zip((height, width), image.shape[1:], strict=True))
        grown = F.interpolate(image[None], (h, w), mode="bilinear", align_corners=False)[0]
        up, before = int(top * (height - h + 1)), int(left * (width - w + 1))
        return F.pad(grown, (before, width - w - before, up, height - h - up))

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B) differentiable scores of independent draws."""
        return torch.stack([self.metric(self.transform(x, rng)) for _ in range(draws)])

    def aggregate(self, scores: torch.Tensor) -> torch.Tensor:
        """What is deployed is a mean."""
        return scores.double().mean(0)

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        draws = self.surrogate(x, rng, self.cost).double().cpu()
        score = draws.mean(0)
        # Student's t; of a single draw nothing is known.
        few = self.cost < 2
        half = torch.full_like(score, torch.inf) if few else draws.std(0) * t_factor(self.cost)
        return Estimate(score.numpy(), (score - half).numpy(), (score + half).numpy())
