"""What an attack must beat to be one: random noise of the full budget, and the same sign everywhere."""

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


@register_attack("single-sign")
class SingleSign(Attack):
    """All values raised by the same amount, or all lowered: brightness and nothing else.

    By eps in linf, by eps / sqrt(3HW) in l2; the better of the two. It takes two queries on a deterministic defence; on
    a randomised one the two are compared on the selection stream.
    """

    white_box = False
    queries = 2

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """Brighter, then darker."""
        for sign in (1.0, -1.0):
            z = project(x + sign * threat.eps * unit(torch.ones_like(x), threat.norm), x, threat)
            yield Candidate(z, None if objective.g.randomised else objective.query(z))
