"""Fewer grey levels in front of the metric."""

from __future__ import annotations

import math

import torch

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.registry import Strength, register_defense
from .gradients import SeveralGradients

SHARPNESS = 5.0
"""Slope parameter alpha of the soft quantiser: its gradient is 2.5 midway between two levels and 0.07 at a level."""


class UniformLevels(SeveralGradients):
    """Each channel rounded to uniform levels from 0 to 1; what the two defences below share."""

    smooth = False
    gradients = ("soft", "identity")

    def __init__(self, metric: Metric, name: str, levels: int, surrogate: str) -> None:
        super().__init__(metric, name, surrogate)
        self.levels = levels

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest levels."""
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def stand_in(self, x: torch.Tensor) -> torch.Tensor:
        """The image, or its soft rounding."""
        return x if self.gradient == "identity" else soft_round(x * (self.levels - 1)) / (self.levels - 1)


@register_defense("color-quantization", strength=Strength("levels", (25, 20, 16, 5, 2)))
class ColorQuantization(UniformLevels):
    """Each channel rounded to a few uniform levels from 0 to 1; attacked with exact forward and a surrogate backward.

    `round((levels - 1) x) / (levels - 1)`, halves to even. Not a palette, which Pillow's `quantize` makes.

    Args:
        levels: number of levels a channel, 2 to 256; 16 as peers have it.
        surrogate: gradient that an adaptive attack uses: "soft", that of the soft rounding of Agustsson and Theis 2020
            (arXiv 2006.09952), which is steep where a small step changes the level, or "identity". `surrogates` gives
            both.

    The metric sees images of the same size.
    """

    def __init__(self, metric: Metric, levels: int = 16, surrogate: str = "soft") -> None:
        super().__init__(metric, "color-quantization", levels, surrogate)
        if not 2 <= levels <= 256:
            raise BadParameter(f"color-quantization[levels={levels}]: expected 2 to 256")


@register_defense("bit-depth", strength=Strength("bits", (6, 5, 4, 3, 2, 1)))
class BitDepth(UniformLevels):
    """Each channel rounded to fewer bits, the feature squeezing of Xu et al. 2018 (arXiv 1704.01155).

    `round((2^bits - 1) x) / (2^bits - 1)`, the same as `color-quantization` with `2^bits` levels.

    Args:
        bits: bits a channel, 1 to 8.
        surrogate: "soft" or "identity", as for `color-quantization`.

    The metric sees images of the same size.
    """

    def __init__(self, metric: Metric, bits: int = 4, surrogate: str = "soft") -> None:
        if not 1 <= bits <= 8:
            raise BadParameter(f"bit-depth[bits={bits}]: expected 1 to 8")
        super().__init__(metric, "bit-depth", 2**bits, surrogate)


def soft_round(u: torch.Tensor) -> torch.Tensor:
    """Rounding with a gradient: floor(u) + 1/2 + tanh(alpha r) / (2 tanh(alpha / 2)), r = u - floor(u) - 1/2."""
    floor = u.detach().floor()
    rest = u - floor - 0.5
    return floor + 0.5 + torch.tanh(SHARPNESS * rest) / (2 * math.tanh(SHARPNESS / 2))
