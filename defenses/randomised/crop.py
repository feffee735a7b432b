"""A crop at a random place in front of the metric."""

from __future__ import annotations

import torch

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.images import check_size
from ...bench.registry import Strength, register_defense
from ...bench.seeds import Streams
from ..base import RandomPurification
from .places import place

SHARE = 0.75


@register_defense("random-crop", strength=Strength("share", (0.9, 0.75, 0.5, 0.25)))
class RandomCrop(RandomPurification):
    """A crop of fixed size at a random place, every place alike likely; the deployed score is the mean of m crops.

    Guo et al., "Countering Adversarial Images using Input Transformations", ICLR 2018 (arXiv 1711.00117), without
    their rescaling of the crop to the image's size, which would blur it. By default the crop is a share of each side,
    not a number of pixels as with peers: it keeps the image's shape and means the same for 128 px and 500 px.

    Args:
        share: height and width of the crop as shares of the image's, in (0,1]; 1 is the image itself.
        size: side of a square crop in pixels, instead of `share`; peers take 128 (32 to 288).
        m: crops averaged in a deployed score; peers take one.

    The metric sees round(share H) x round(share W), or size x size, which its own smallest size may forbid.
    """

    def __init__(self, metric: Metric, share: float = SHARE, size: int | None = None, m: int = 1) -> None:
        super().__init__(metric, m)
        if not 0 < share <= 1:
            raise BadParameter(f"random-crop[share={share}]: expected a number in (0, 1]")
        if size is not None and (size < 1 or share != SHARE):
            raise BadParameter(f"random-crop[share={share},size={size}]: expected a share, or a size of at least 1 px")
        self.share, self.size = share, size

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the crop; raises `BadImage` for an image smaller than it."""
        if self.size is None:
            return max(1, round(self.share * height)), max(1, round(self.share * width))
        check_size(height, width, self.size, f"an image for random-crop[size={self.size}]")
        return self.size, self.size

    def draw(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Crops, one place an image."""
        (height, width), (h, w) = x.shape[2:], self.output_size(x.shape[2], x.shape[3])
        places = [(place(v, h, height), place(u, w, width)) for v, u in rng.numbers(2).tolist()]
        return torch.stack([i[:, top : top + h, left : left + w] for i, (top, left) in zip(x, places, strict=True)])
