"""Minimal budgets: how little does it take to move a score by a given amount?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .apgd import Apgd
from .base import Attack, Candidate


@register_attack("minimal-eps")
class MinimalEps(Attack):
    """The smallest perturbation, within the budget, that moves the score by a target; found by bisection with APGD.

    The measured `l2` or `linf` of the result is the answer, an upper bound on the true minimum. Where the target is
    not reached within the budget the result is what moved the score most. Whether it is reached is judged on the
    selection stream.

    Args:
        target: wanted move of the score, as a share of the metric's declared range (of 1, where it declares none).
        rounds: bisections.
        steps: steps of APGD in each.
        draws: draws a step on a randomised defence.
    """

    def __init__(self, target: float = 0.1, rounds: int = 8, steps: int = 20, draws: int = 8) -> None:
        if not target > 0 or rounds < 1:
            raise BadParameter(f"minimal-eps[target={target},rounds={rounds}]: expected positive numbers")
        self.target, self.rounds, self._inner = target, rounds, Apgd(steps, draws=draws)

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The best image of each round: any that reaches the target counts more than any that does not."""
        wanted = objective.select(x, self.selection_draws) + self.target * objective.g.metric.span
        inside, outside = torch.full((len(x),), threat.eps, dtype=torch.float64), torch.zeros(len(x)).double()
        eps = inside.clone()
        left = list(range(len(x)))
        for _ in range(self.rounds):
            z, value = x.clone(), torch.full((len(x),), -torch.inf, dtype=torch.float64)
            # The budget differs from image to image: one at a time.
            for i in left:
                part = objective.part([i])
                z[i : i + 1] = self._inner.find(part, x[i : i + 1], Threat(threat.norm, float(eps[i])))
                value[i] = part.select(z[i : i + 1], self.selection_draws)[0]
            reached = value >= wanted
            yield Candidate(z, torch.where(reached, 1.0 + threat.eps - eps, (value - wanted).clamp_max(0.0)))
            inside = torch.where(reached, torch.minimum(inside, eps), inside)
            outside = torch.where(reached, outside, torch.maximum(outside, eps))
            # Where the whole budget was not enough there is nothing to bisect.
            left = [i for i in left if float(outside[i]) < threat.eps]
            eps = (inside + outside) / 2
