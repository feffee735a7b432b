"""BPDA with more than one surrogate gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..bench.api import Threat
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Candidate
from .eot import EotPgd
from .pgd import State
from .projection import unit


@register_attack("surrogate-pgd")
class SurrogatePgd(EotPgd):
    """PGD along each surrogate gradient that a defence declares, and along their mean (BPDA, Athalye et al. 2018).

    Where a defence has no gradient of its own, one surrogate for it can mislead an attack. In the mean each has length
    1, so that none outweighs the others by its scale and one of zero changes nothing; but a bad one among them costs
    strength, so that each is also followed alone. All points are judged by the exact score, and the best one counts.
    So it is as strong as PGD along any one of them; for a defence with one surrogate it is PGD.

    Args:
        steps: gradient steps an ascent; with k > 1 surrogates there are k + 1 ascents and 2 k gradients a step in all.
        draws: draws averaged in a gradient of a randomised defence (EOT).
        step: step size as a fraction of eps; none for 2.5 / steps.
        restarts: the first starts at the image itself, the others at random points of the ball.
        momentum: weight of the past steps' directions, in every ascent.
    """

    def __init__(
        self, steps: int = 20, draws: int = 8, step: float | None = None, restarts: int = 1, momentum: float = 0.0
    ) -> None:
        super().__init__(steps, draws, step, restarts, momentum)

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The points of the ascents along each surrogate, then of those along the mean."""
        views = objective.g.surrogates()
        alone = EotPgd(self.steps, self.draws, self.step, self.restarts, self.momentum)
        for view in views if len(views) > 1 else ():
            yield from alone.candidates(objective.of(view), x, threat)
        yield from super().candidates(objective, x, threat)

    def _gradient(self, objective: Objective, z: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        views = [objective.of(view) for view in objective.g.surrogates()]
        values, gradients = zip(*(view.gradient(z, self.draws) for view in views), strict=True)
        return values[0], torch.stack([unit(gradient, "l2") for gradient in gradients]).mean(0)
