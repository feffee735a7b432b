"""The fast gradient sign method."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Attack, Candidate
from .projection import project, unit


@register_attack("fgsm")
class Fgsm(Attack):
    """One step of size eps along the sign of the gradient (Goodfellow et al. 2015); in l2 along the gradient itself.

    Args:
        draws: draws averaged in the gradient of a randomised defence (EOT); no effect on a deterministic one.
    """

    concurrent = True

    def __init__(self, draws: int = 1) -> None:
        if draws < 1:
            raise BadParameter(f"fgsm[draws={draws}]: expected at least 1")
        self.draws = draws

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The single step."""
        _, gradient = objective.gradient(x, self.draws)
        yield Candidate(project(x + threat.eps * unit(gradient, threat.norm), x, threat))
