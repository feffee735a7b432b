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


@register_defense("resize", strength=SCALES)
class Resize(Purification):
    """Reduced to a fraction of its sides by antialiased bilinear interpolation (torch), and left small.

    Linear, so differentiable as it is.

    Args:
        scale: fraction of each side, above 0 and below 1; 0.5 as peers have it.

    The metric sees `round(scale H)` by `round(scale W)` pixels, at least one.
    """

    def __init__(self, metric: Metric, scale: float = 0.5) -> None:
        super().__init__(metric)
        _check_scale("resize", scale)
        self.scale = scale

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The small images."""
        height, width = self.output_size(*x.shape[2:])
        what = f"an image of {x.shape[3]}x{x.shape[2]} px after resize[scale={self.scale}]"
        check_size(height, width, self.metric.min_size, what)
        return _resized(x, height, width)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The scaled sides."""
        return _scaled(height, width, self.scale)


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
        if min(height, width) < 0 or (height == 0) != (width == 0):
            raise BadParameter(f"upscale[height={height},width={width}]: expected two sides in pixels, or 0 for both")
        self.scale, self.fixed = scale, (height, width)

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The images, reduced and enlarged."""
        height, width = x.shape[2:]
        return _resized(_resized(x, *_scaled(height, width, self.scale)), *self.output_size(height, width))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that was asked for, or that of the image."""
        return self.fixed if any(self.fixed) else (height, width)


def _check_scale(name: str, scale: float) -> None:
    if not 0 < scale < 1:
        raise BadParameter(f"{name}[scale={scale}]: expected a number above 0 and below 1")


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    # Antialiasing averages over what becomes one pixel; where a side grows it changes nothing.
    return into_box(interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=True))
