"""Rotation by a random angle in front of the metric."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.images import straight_through
from ...bench.registry import Strength, register_defense
from ...bench.seeds import Streams
from ..base import RandomPurification


@register_defense("random-rotation", strength=Strength("degrees", (5, 10, 15, 30, 50)))
class RandomRotation(RandomPurification):
    """Rotation about the centre by an angle uniform in +-degrees, bilinear; the deployed score is the mean of m draws.

    Purifiers of IQA use it (arXiv 2404.06957); averaging over the angle (EOT, Athalye et al., "Synthesizing Robust
    Adversarial Examples", ICML 2018, arXiv 1707.07397) is the attack for it. The corners are filled with the image
    mirrored at its edges, where peers leave them black: wedges whose size goes with the angle would be scored as
    content.

    Args:
        degrees: largest angle, in (0,180]; peers take 15 (10 to 50).
        m: draws averaged in a deployed score; peers take one.

    The metric sees images of the same size.
    """

    def __init__(self, metric: Metric, degrees: float = 15.0, m: int = 1) -> None:
        super().__init__(metric, m)
        if not 0 < degrees <= 180:
            raise BadParameter(f"random-rotation[degrees={degrees}]: expected a number in (0, 180]")
        self.degrees = degrees

    def draw(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Images rotated, each by an angle of its own."""
        return rotate(x, self.degrees * (2 * rng.numbers(1)[:, 0] - 1))


def rotate(x: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Images (B,3,H,W) turned anticlockwise about their centres by `degrees` (B,), mirrored beyond their edges."""
    height, width = x.shape[2:]
    angle = (degrees.double() * math.pi / 180)[:, None, None]
    down = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    right = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    # Where each pixel comes from. Element by element in double precision: a matrix product rounds with the batch.
    from_right = angle.cos() * right - angle.sin() * down
    from_down = angle.sin() * right + angle.cos() * down
    grid = torch.stack((from_right * (2 / width), from_down * (2 / height)), dim=-1).to(x)
    turned = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    # Interpolation leaves [0,1] by its rounding only; a clamp would hide the gradient of white pixels.
    return straight_through(turned.clamp(0, 1), turned)
