"""JPEG compression in front of the metric."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...bench.api import Metric
from ...bench.jpeg import Surrogate, check_jpeg, compress, compress_surrogate
from ...bench.registry import Strength, register_defense
from ..base import Purification


@register_defense("jpeg", strength=Strength("quality", (90, 70, 50, 30, 10)))
class Jpeg(Purification):
    """JPEG compression by Pillow (4:2:0); attacked with exact forward and a surrogate backward (BPDA).

    Args:
        quality: 1 to 95, as Pillow counts it.
        surrogate: gradient that an adaptive attack uses: "identity", or "diffjpeg", kornia's differentiable JPEG
            (a codec with a differentiable rounding, some 40 dB away from Pillow's). `surrogates` gives both.

    The image is rounded to 8 bits first, as a file would be, which has no useful gradient either.
    """

    smooth = False

    def __init__(self, metric: Metric, quality: int = 50, surrogate: Surrogate = "diffjpeg") -> None:
        super().__init__(metric)
        check_jpeg("jpeg", quality, surrogate)
        self.quality = quality
        self._surrogate: Surrogate = surrogate

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and decode each image with Pillow."""
        return compress(x, self.quality)

    def purify_surrogate(self, x: torch.Tensor) -> torch.Tensor:
        """Exact values, gradient of the chosen surrogate."""
        return compress_surrogate(x, self.quality, self._surrogate)

    def surrogates(self) -> Sequence[Jpeg]:
        """Itself, and the same compression with the other gradient."""
        other = Jpeg(self.metric, self.quality, "identity" if self._surrogate == "diffjpeg" else "diffjpeg")
        other.spec = self.spec
        return [self, other]
