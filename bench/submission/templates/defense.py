"""A defence for the RobustIQA board. This one works; put yours in its place.

robustiqa check --plugin defense.py --defense my-defense
"""

from __future__ import annotations

import torch
from robustiqa.bench import Metric, Strength, register_defense
from robustiqa.bench.errors import BadParameter
from robustiqa.defenses.base import Purification
from torch.nn.functional import avg_pool2d, interpolate

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


@register_defense("my-defense", strength=Strength("factor", (2, 4, 8, 16)))
class Defense(Purification):
    """Colour at a lower resolution than brightness, as in a JPEG file, and brightness smoothed a little.

    Every step is linear but the clamp, so attacks differentiate through it as it is. Where a step of yours has no
    useful gradient, add `purify_surrogate` and set `smooth = False`; a randomised defence derives from
    `RandomPurification` instead, anything else from `robustiqa.bench.DefendedMetric`.

    Args:
        factor: side of the blocks over which colour is averaged, in pixels.
    """

    def __init__(self, metric: Metric, factor: int = 8) -> None:
        super().__init__(metric)
        if not 1 <= factor <= 64:
            raise BadParameter(f"my-defense[factor={factor}]: expected 1 to 64")
        self.factor = factor

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """What the metric sees: (B,3,H,W) in [0,1] to the same size and range, without writing into `x`."""
        weights = x.new_tensor(LUMA)[:, None, None]
        luma = (x * weights).sum(1, keepdim=True)
        coarse = avg_pool2d(x - luma, self.factor, ceil_mode=True)
        colour = interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
        smooth = avg_pool2d(luma, 3, stride=1, padding=1, count_include_pad=False)
        return (smooth + colour).clamp(0, 1)
