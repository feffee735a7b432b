"""Smaller images in front of the metric, left small or enlarged again."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.images import check_size
from ...bench.registry import Strength, register_defense
from ..base import Purification
from .gradients import into_box

SCALES = Strength("scale", (0.9, 0.75, 0.5, 0.25, 0.1))

LARGEST = 8192
"""Longest side in pixels that is enlarged to: 0.8 GB an image."""


@register_defense("resize", strength=SCALES)
class Resize(Purification):
    """Reduced to a fraction of its sides by antialiased bilinear interpolation (torch), and left small.

    Linear, so differentiable as it is.

    Args:
        scale: fraction of each side, above 0 and below 1; 0.5 as peers have it.

    The metric sees `round(scale H)` by `round(scale W)` pixels, which have to be at least one each.
    """

    def __init__(self, metric: Metric, scale: float = 0.5) -> None:
        super().__init__(metric)
        _check_scale("resize", scale)
        self.scale = scale

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The small images."""
        return _resized(x, *self.output_size(*x.shape[2:]))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The scaled sides; raises `BadImage` where one would have no pixel."""
        return _scaled("resize", height, width, self.scale)


@register_defense("upscale", strength=SCALES)
class Upscale(Purification):
    """Reduced as by `resize`, then enlarged again by bilinear interpolation.

    Peers enlarge to 384x512 whatever the image (`upscale[height=384,width=512]`), which distorts others; by default it
    is the image's own size. Linear, so differentiable as it is.

    Args:
        scale: fraction of each side in between, above 0 and below 1; 0.5 as peers have it.
        height: of what the metric sees, in pixels; 0 with `width=0` for the image's own.
        width: likewise.

    The metric sees images of the same size, or of `height` by `width` pixels.
    """

    def __init__(self, metric: Metric, scale: float = 0.5, height: int = 0, width: int = 0) -> None:
        super().__init__(metric)
        _check_scale("upscale", scale)
        if min(height, width) < 0 or max(height, width) > LARGEST or (height == 0) != (width == 0):
            raise BadParameter(f"upscale[height={height},width={width}]: expected two sides of 1 to {LARGEST} px, or 0 "
                               "for both")  # fmt: skip
        self.scale, self.fixed = scale, (height, width)

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The images, reduced and enlarged."""
        height, width = x.shape[2:]
        small = _scaled("upscale", height, width, self.scale)
        return _resized(_resized(x, *small), *self.output_size(height, width))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that was asked for, or that of the image."""
        return self.fixed if any(self.fixed) else (height, width)


def _check_scale(name: str, scale: float) -> None:
    if not 0 < scale < 1:
        raise BadParameter(f"{name}[scale={scale}]: expected a number above 0 and below 1")


def _scaled(name: str, height: int, width: int, scale: float) -> tuple[int, int]:
    """Scaled sides; the metric's own smallest size is its to check, another step of a chain may come before it."""
    check_size(round(height * scale), round(width * scale), 1, f"an image of {width}x{height} px "
               f"after {name}[scale={scale}]")  # fmt: skip
    return round(height * scale), round(width * scale)


def _resized(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    # Antialiasing averages over what becomes one pixel; where a side grows it changes nothing.
    return into_box(interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=True))
