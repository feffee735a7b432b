"""Random resizing and padding in front of the metric."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.registry import Strength, register_defense
from ...bench.seeds import Streams
from ..base import RandomPurification
from .places import place


@register_defense("random-resize", strength=Strength("grow", (1.05, 1.11, 1.25, 1.5)))
class RandomResize(RandomPurification):
    """Enlarge to a random size, pad with black to a fixed one at a random place; the deployed score is a mean of m.

    Xie et al., "Mitigating Adversarial Effects Through Randomization", ICLR 2018 (arXiv 1711.01991), section 3. The
    enlargement is bilinear, theirs nearest-neighbour; both sides grow by one factor, uniform in [1, grow]; and Gaussian
    noise, clamped with the image, may come on top.

    Args:
        grow: the padded size as a multiple of the image's, 1 to 2; the paper's 331/299 is 1.11.
        noise: standard deviation of the noise in [0,1] pixel units, 0 to 1; the paper has none.
        m: draws averaged in a deployed score; the paper takes one.

    The metric sees round(grow H) x round(grow W).
    """

    def __init__(self, metric: Metric, grow: float = 1.11, noise: float = 0.0, m: int = 1) -> None:
        super().__init__(metric, m)
        if not 1 <= grow <= 2:
            raise BadParameter(f"random-resize[grow={grow}]: expected a number in [1, 2]")
        if not 0 <= noise <= 1:
            raise BadParameter(f"random-resize[noise={noise}]: expected a number in [0, 1]")
        self.grow, self.noise = grow, noise

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after padding."""
        return round(self.grow * height), round(self.grow * width)

    def draw(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Padded images, noisy if so wanted."""
        numbers = rng.numbers(3).tolist()
        padded = torch.stack([self._one(image, *three) for image, three in zip(x, numbers, strict=True)])
        return (padded + self.noise * rng.normal(padded, 1)[0]).clamp(0, 1) if self.noise else padded

    def _one(self, image: torch.Tensor, size: float, top: float, left: float) -> torch.Tensor:
        height, width = self.output_size(image.shape[1], image.shape[2])
        factor = 1 + (self.grow - 1) * size
        h, w = (min(whole, round(factor * side)) for whole, side in zip((height, width), image.shape[1:], strict=True))
        grown = F.interpolate(image[None], (h, w), mode="bilinear", align_corners=False)[0]
        above, before = place(top, h, height), place(left, w, width)
        return F.pad(grown, (before, width - w - before, above, height - h - above))
