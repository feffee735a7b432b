"""A randomised defence as a plug-in: a gamma curve drawn anew for every score.

    robustiqa check --plugin examples/random_gamma.py --defense random-gamma

A class derived from `RandomPurification` says how a batch of images is changed, with random numbers from the streams
that it is given. The base makes of it the two views that a randomised defence has to give: the deployed score, and
independent differentiable draws of it, over which attacks average (EOT). A defence that is attacked through a single
draw looks stronger than it is.
"""

from __future__ import annotations

import math

import torch
from robustiqa.bench import Metric, Strength, register_defense
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.seeds import Streams
from robustiqa.defenses.base import RandomPurification

DARKEST = 1 / 255
"""Values are raised to this one first: at 0 a power below 1 has an infinite slope, which would spoil every gradient."""


@register_defense("random-gamma", strength=Strength("most", (1.1, 1.25, 1.5, 2.0)))
class RandomGamma(RandomPurification):
    """Pixel values to the power of a random gamma, log-uniform in [1/most, most]; the mean of m draws.

    Args:
        most: largest gamma, 1 to 4.
        m: draws averaged in a deployed score.

    The metric sees images of the same size.
    """

    def __init__(self, metric: Metric, most: float = 1.25, m: int = 1) -> None:
        super().__init__(metric, m)
        if not 1 <= most <= 4:
            raise BadParameter(f"random-gamma[most={most}]: expected a number in [1, 4]")
        self.most = most

    def draw(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Images brighter or darker, each by a gamma of its own."""
        exponents = torch.exp(math.log(self.most) * (2 * rng.numbers(1) - 1)).to(x)
        return x.clamp_min(DARKEST) ** exponents[:, :, None, None]
