"""JPEG compression in front of the metric: Pillow's, and a differentiable one."""

from __future__ import annotations

import torch

from ...bench.api import Metric
from ...bench.jpeg import check_jpeg, check_quality, compress, diffjpeg
from ...bench.registry import Strength, register_defense
from .gradients import EXACT, SeveralGradients

QUALITIES = Strength("quality", (90, 70, 50, 30, 10))


@register_defense("jpeg", strength=QUALITIES)
class Jpeg(SeveralGradients):
    """JPEG compression by Pillow (4:2:0); attacked with exact forward and a surrogate backward (BPDA).

    Args:
        quality: 1 to 95, as Pillow counts it.
        surrogate: gradient that an adaptive attack uses: "identity", or "diffjpeg", kornia's differentiable JPEG
            (a codec with a differentiable rounding, some 40 dB away from Pillow's). `surrogates` gives both.

    The image is rounded to 8 bits first, as a file would be, which has no useful gradient either.
    """

    smooth = False
    gradients = ("diffjpeg", "identity")

    def __init__(self, metric: Metric, quality: int = 50, surrogate: str = "diffjpeg") -> None:
        super().__init__(metric, "jpeg", surrogate)
        check_jpeg("jpeg", quality, surrogate)
        self.quality = quality

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and decode each image with Pillow."""
        return compress(x, self.quality)

    def stand_in(self, x: torch.Tensor) -> torch.Tensor:
        """The image, or kornia's JPEG of it."""
        return x if self.gradient == "identity" else diffjpeg(x, self.quality)


@register_defense("diffjpeg", strength=QUALITIES)
class DiffJpeg(SeveralGradients):
    """The differentiable JPEG of kornia, itself deployed; its gradient is exact almost everywhere.

    It rounds a coefficient u to `r + (u - r)^3`, r = round(u) (Shin and Song 2017, as in Reich et al. 2024, arXiv
    2309.06978), and writes no file. The cubes jump by 3/4 of a step halfway between two integers, which
    no derivative sees, so that finite differences are steeper than the gradient: `smooth` is False. Images are padded
    with their border to whole blocks of 16 px; peers reflect.

    Args:
        quality: 1 to 95, as Pillow counts it; 50 as peers have it.
        surrogate: gradient that an adaptive attack uses: "exact", or "identity", which has the mean slope of a rounding
            with its jumps. `surrogates` gives both.

    The metric sees images of the same size.
    """

    smooth = False
    gradients = (EXACT, "identity")

    def __init__(self, metric: Metric, quality: int = 50, surrogate: str = EXACT) -> None:
        super().__init__(metric, "diffjpeg", surrogate)
        check_quality("diffjpeg", quality)
        self.quality = quality

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The decoded images, same size."""
        # One by one: sums of a larger batch may be ordered otherwise, and rounding makes much of the last bit.
        return torch.cat([diffjpeg(image[None], self.quality) for image in x])

    def stand_in(self, x: torch.Tensor) -> torch.Tensor:
        """The image."""
        return x
