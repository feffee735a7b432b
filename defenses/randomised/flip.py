"""Random mirroring in front of the metric."""

from __future__ import annotations

import torch

from ...bench.registry import register_defense
from ...bench.seeds import Streams
from ..base import RandomPurification


@register_defense("random-flip")
class RandomFlip(RandomPurification):
    """The image mirrored left to right with probability 1/2, and top to bottom with 1/2; the mean of m draws.

    Four images in all, so a few draws show an attacker everything. The purification study of arXiv 2404.06957 mirrors
    always.

    Args:
        m: draws averaged in a deployed score.

    The metric sees images of the same size.
    """

    def draw(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Images mirrored, each by coins of its own."""
        coins = (rng.numbers(2) < 0.5).tolist()
        axes = [[axis for axis, heads in zip((1, 2), two, strict=True) if heads] for two in coins]
        return torch.stack([image.flip(flipped) for image, flipped in zip(x, axes, strict=True)])
