"""WebP compression in front of the metric."""

from __future__ import annotations

import numpy as np
import torch
from PIL import features

from ...bench.api import Metric
from ...bench.errors import Absent, BadImage, BadParameter
from ...bench.images import from_uint8, through_codec, to_uint8
from ...bench.jpeg import diffjpeg
from ...bench.registry import Strength, register_defense
from .gradients import SeveralGradients

LONGEST = 16383
"""Longest side in pixels that the format can hold."""


@register_defense("webp", strength=Strength("quality", (90, 70, 50, 30, 10)))
class Webp(SeveralGradients):
    """Lossy WebP compression by Pillow (4:2:0); attacked with exact forward and a surrogate backward (BPDA).

    The image is rounded to 8 bits first, as a file would be. Pillow's default effort (method 4).

    Args:
        quality: 0 to 100, as libwebp counts it.
        surrogate: gradient that an adaptive attack uses: "diffjpeg", kornia's differentiable JPEG at the quality with
            the same error (`matched`), or "identity". `surrogates` gives both.

    The metric sees images of the same size.
    """

    smooth = False
    gradients = ("diffjpeg", "identity")

    def __init__(self, metric: Metric, quality: int = 50, surrogate: str = "diffjpeg") -> None:
        super().__init__(metric, "webp", surrogate)
        if not 0 <= quality <= 100:
            raise BadParameter(f"webp[quality={quality}]: expected 0 to 100")
        if not features.check("webp"):
            raise Absent("webp: this Pillow was built without WebP; install a wheel from PyPI (pip install pillow)")
        self.quality = quality

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and decode each image with Pillow."""
        if max(x.shape[2:]) > LONGEST:
            raise BadImage(f"webp: an image of {x.shape[3]}x{x.shape[2]} px: expected sides of at most {LONGEST} px")
        return torch.stack([from_uint8(self._coded(to_uint8(image))) for image in x]).to(x)

    def _coded(self, image: np.ndarray) -> np.ndarray:
        return through_codec(image, format="WEBP", lossless=False, quality=self.quality, method=4)

    def stand_in(self, x: torch.Tensor) -> torch.Tensor:
        """The image, or kornia's JPEG of it."""
        return x if self.gradient == "identity" else diffjpeg(x, matched(self.quality))


def matched(quality: int) -> int:
    """JPEG quality, 8 to 95, of the same mean squared error as a WebP quality, measured on photographs.

    Linear between JPEG 8, 25, 55 and 95 at WebP 0, 20, 60 and 100: within 5 of what 12 of BSDS500's photographs give.
    """
    return round(float(np.interp(quality, (0, 20, 60, 100), (8, 25, 55, 95))))
