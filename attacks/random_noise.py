"""Random noise of the full budget: what an attack must beat to be one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Attack, Candidate
from .projection import project, unit


@register_attack("random-noise")
class RandomNoise(Attack):
    """Random signs of size eps (linf), or a random direction of length eps (l2); no gradient, no search.

    Args:
        tries: directions drawn; the best on the selection stream is kept. With 1 it is the no-op baseline.
    """

    white_box = False

    def __init__(self, tries: int = 1) -> None:
        if tries < 1:
            raise BadParameter(f"random-noise[tries={tries}]: expected at least 1")
        self.tries = tries

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """One candidate a try."""
        for _ in range(self.tries):
            direction = unit(objective.search_streams.normal(x, 1)[0], threat.norm)
            yield Candidate(project(x + threat.eps * direction, x, threat))
