"""JPEG compression in front of the metric."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.images import from_uint8, to_uint8
from ...bench.registry import register_defense
from ..base import Purification, straight_through


@register_defense("jpeg")
class Jpeg(Purification):
    """JPEG compression by Pillow (4:2:0); attacked with exact forward and a surrogate backward (BPDA).

    Args:
        quality: 1 to 95, as Pillow counts it.
        surrogate: gradient that an adaptive attack uses: "identity", or "diffjpeg", kornia's differentiable JPEG
            (a codec with a differentiable rounding, some 40 dB away from Pillow's).

    The image is rounded to 8 bits first, as a file would be, which has no useful gradient either.
    """

    def __init__(self, metric: Metric, quality: int = 50, surrogate: str = "diffjpeg") -> None:
        super().__init__(metric)
        if not 1 <= quality <= 95:
            raise BadParameter(f"jpeg[quality={quality}]: expected 1 to 95")
        if surrogate not in ("diffjpeg", "identity"):
            raise BadParameter(f"jpeg[surrogate={surrogate}]: expected diffjpeg or identity")
        self.quality, self._surrogate = quality, surrogate

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and decode each image with Pillow."""
        return torch.stack([from_uint8(self._roundtrip(to_uint8(image))) for image in x]).to(x)

    def purify_surrogate(self, x: torch.Tensor) -> torch.Tensor:
        """Exact values, gradient of the chosen surrogate."""
        if self._surrogate == "identity":
            return straight_through(self.purify(x), x)
        return straight_through(self.purify(x), _diffjpeg(x, self.quality))

    def _roundtrip(self, array: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(array, "RGB").save(buffer, format="JPEG", quality=self.quality, subsampling="4:2:0")
        with Image.open(buffer) as image:
            return np.asarray(image, dtype=np.uint8)


def _diffjpeg(x: torch.Tensor, quality: int) -> torch.Tensor:
    """Differentiable JPEG of kornia, images padded by reflection to whole 16 px blocks."""
    from kornia.enhance import jpeg_codec_differentiable  # 2 s of import that only attacks on JPEG need

    height, width = x.shape[2:]
    padded = torch.nn.functional.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    qualities = torch.full((x.shape[0],), float(quality), dtype=x.dtype, device=x.device)
    return jpeg_codec_differentiable(padded, qualities)[..., :height, :width]
