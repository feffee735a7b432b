"""Random mirroring in front of the metric."""

from __future__ import annotations

import torch

from ...bench.api import Estimate
from ...bench.registry import register_defense
from ...bench.seeds import Streams
from ..base import RandomPurification, estimate_of_few, scores_of_drawn

_VERSIONS = ((), (-1,), (-2,), (-2, -1))
"""Axes that are mirrored: none, left to right, top to bottom, both."""


@register_defense("random-flip")
class RandomFlip(RandomPurification):
    """The image mirrored left to right with probability 1/2, and top to bottom with 1/2; the mean of m draws.

    Four versions in all, so a few draws show an attacker everything; and a version runs through the metric once,
    however often it was drawn: four forwards an image at most, and `cost`, m, is an upper bound. The interval of a
    deployed score is infinite until all four were drawn, and then holds with certainty (m = 8 draws all four for 62 of
    100 images, m = 16 for 96).

    The purification study of arXiv 2404.06957 mirrors always.

    Args:
        m: draws averaged in a deployed score.

    The metric sees images of the same size.
    """

    def draw(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Images mirrored, each by coins of its own."""
        (drawn,) = _drawn(rng, 1).tolist()
        return torch.stack([_mirrored(image, k) for image, k in zip(x, drawn, strict=True)])

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B) differentiable scores of independent draws."""
        index = _drawn(rng, draws)
        return self._versions(x, index).gather(0, index.to(x.device))

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        index = _drawn(rng, self.cost)
        return estimate_of_few(index, self._versions(x, index))

    def _versions(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Scores (4,B) of the versions that were drawn for an image, others 0."""
        return scores_of_drawn(x, index, len(_VERSIONS), lambda k, chosen: self.metric(_mirrored(chosen, k)))


def _mirrored(x: torch.Tensor, version: int) -> torch.Tensor:
    return x.flip(_VERSIONS[version])


def _drawn(rng: Streams, draws: int) -> torch.Tensor:
    """Versions (draws,B) on the CPU: two coins a draw and image."""
    coins = [(rng.numbers(2) < 0.5).long() for _ in range(draws)]
    return torch.stack([vertical * 2 + horizontal for vertical, horizontal in (c.T for c in coins)])
