"""Auto-PGD: projected gradient ascent that chooses its own step sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Centre, Objective, check_centre
from ..bench.registry import register_attack
from .base import Attack, Candidate
from .projection import project, unit
from .restarts import restarted

MOMENTUM = 0.75
PROGRESS = 0.75
"""Share of the steps since the last checkpoint that have to raise the score; else the step is halved (rho)."""


@register_attack("apgd")
class Apgd(Attack):
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, algorithm 1) on the score itself, in linf or l2.

    Steps start at 2 eps and are halved for each image on its own when too few of them raised its score, or its best
    score did not move, between two checkpoints; it then goes on from its best point. No step size has to be given.

    On a randomised defence values and gradients are means over fresh draws (EOT). The best of such values is a lucky
    one, which later points can hardly beat: there the search never goes back to it, it only halves its steps, and its
    points at the last checkpoints are compared on draws that the search has not seen. Where the defence deploys a
    median, `centre=kernel` climbs closer to it.

    Args:
        steps: gradient steps a restart, 100 in the paper.
        restarts: number of ascents.
        draws: draws a step on a randomised defence.
        centre: mean of the draws; kernel or quantile: draws near their median, in value or in rank, count most.
        start: image: the first ascent starts at the image itself, the others at random points of the ball; random: all
            of them do.
    """

    concurrent = True

    def __init__(
        self,
        steps: int = 20,
        restarts: int = 1,
        draws: int = 8,
        centre: Centre = "mean",
        start: Literal["image", "random"] = "image",
    ) -> None:
        if start not in ("image", "random"):
            raise BadParameter(f"apgd[start={start}]: expected image or random")
        if min(steps, restarts, draws) < 1:
            raise BadParameter(f"apgd[steps={steps},restarts={restarts},draws={draws}]: expected numbers >= 1")
        check_centre(centre)
        self.steps, self.restarts, self.draws = steps, restarts, draws
        self.centre: Centre = centre
        self.start = start

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """Every point with its exact value on a deterministic defence; else those at the last checkpoints."""
        x = x.contiguous(memory_format=objective.g.memory_format)
        yield from restarted(self.ascend, objective, x, threat, self.restarts, from_image=self.start == "image")

    def ascend(self, objective: Objective, z: torch.Tensor, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """One restart, from z."""
        randomised = objective.g.randomised
        step = torch.full((len(x), 1, 1, 1), 2 * threat.eps, dtype=x.dtype, device=x.device)
        marks = checkpoints(self.steps)
        value, gradient = self._look(objective, z)
        best, best_value, best_gradient = z, value, gradient
        before = z
        raised, at_mark, mark = torch.zeros(len(x)), best_value, 0
        shrunk = torch.zeros(len(x), dtype=torch.bool)
        if not randomised:
            yield Candidate(z, value)
        for t in range(1, self.steps + 1):
            ahead = project(z + step * unit(gradient, threat.norm), x, threat)
            # The first step has no past.
            moved = ahead if t == 1 else project(z + MOMENTUM * (ahead - z) + (1 - MOMENTUM) * (z - before), x, threat)
            before, z, last = z, moved, value
            value, gradient = self._look(objective, z)
            if not randomised:
                yield Candidate(z, value)
            raised += value > last
            better = value > best_value
            best_value = torch.where(better, value, best_value)
            best, best_gradient = _where(better, z, best), _where(better, gradient, best_gradient)
            if t not in marks:
                continue
            if randomised and t >= self.steps / 2:
                yield Candidate(z)
            stuck = raised < PROGRESS * (t - mark)
            # The second condition: no better point since the last mark, though the step was not halved there.
            halve = stuck | (~shrunk & (best_value <= at_mark))
            step = _where(halve, step / 2, step)
            raised, at_mark, mark, shrunk = torch.zeros(len(x)), best_value, t, halve
            if randomised:
                continue
            z, gradient = _where(halve, best, z), _where(halve, best_gradient, gradient)
            value = torch.where(halve, best_value, value)
        if randomised:
            yield Candidate(z)

    def _look(self, objective: Objective, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return objective.gradient(z, self.draws, centre=self.centre)


def checkpoints(steps: int) -> frozenset[int]:
    """Steps after which the step size is judged: shares 0, .22, and on by .03 less each time, .06 at least."""
    marks, gap = [22], 22  # in percent: whole numbers, so that no mark is off by a rounding
    while marks[-1] < 100:
        gap = max(gap - 3, 6)
        marks.append(marks[-1] + gap)
    return frozenset(-(-mark * steps // 100) for mark in marks)


def _where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`torch.where` by image."""
    return torch.where(condition.to(a.device)[:, None, None, None], a, b)
