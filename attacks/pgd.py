"""Projected gradient ascent on the score itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Centre, Objective
from ..bench.registry import register_attack
from .base import Attack, Candidate
from .projection import project, stepped, unit
from .restarts import restarted


@dataclass
class State:
    """What an ascent carries from step to step; tensors are shaped like the images.

    Attributes:
        x: the clean images.
        threat: norm and budget.
        velocity: the gradients so far, added up with momentum.
        variance: how the last point's neighbours differed from it (variance tuning).
        t: steps done.
    """

    x: torch.Tensor
    threat: Threat
    velocity: torch.Tensor
    variance: torch.Tensor
    t: int = 0


@register_attack("pgd")
class Pgd(Attack):
    """Projected gradient ascent (Madry et al. 2018) in linf or l2, with restarts; the best iterate is kept.

    Gradients run through the defence (BPDA where it declares a surrogate); on a randomised defence each step sees one
    fresh draw, which is not adaptive: use `eot-pgd` there.

    Args:
        steps: gradient steps a restart.
        step: step size as a fraction of eps; none for 2.5 / steps.
        restarts: the first starts at the image itself, the others at random points of the ball.
    """

    concurrent = True

    draws = 1
    momentum = 0.0
    centre: Centre = "mean"
    fixed = False
    checkpoints = 3
    """Candidates a restart that are compared when the defence is randomised, the last among them."""

    def __init__(self, steps: int = 10, step: float | None = None, restarts: int = 1) -> None:
        if steps < 1 or restarts < 1 or (step is not None and step <= 0):
            raise BadParameter(
                f"{type(self).__name__}[steps={steps},step={step},restarts={restarts}]: expected positive numbers"
            )
        self.steps, self.restarts = steps, restarts
        self.step = 2.5 / steps if step is None else step

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """Every iterate with its exact value on a deterministic defence, else the last ones of each restart."""
        x = x.contiguous(memory_format=objective.g.memory_format)
        yield from restarted(self._ascend, objective, x, threat, self.restarts)

    def _ascend(self, objective: Objective, z: torch.Tensor, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        state = State(x, threat, torch.zeros_like(x), torch.zeros_like(x))
        spacing = max(1, self.steps // (2 * self.checkpoints))
        for t in range(self.steps):
            state.t = t
            proposal = self._proposal(z, state)
            value, gradient = self._gradient(objective, proposal, state)
            if not objective.g.randomised:
                yield Candidate(proposal, value)
            elif t and (self.steps - t) % spacing == 0 and (self.steps - t) // spacing < self.checkpoints:
                yield Candidate(proposal)
            z = project(self._moved(z, gradient, state), x, threat)
        yield Candidate(self._proposal(z, state))

    def _proposal(self, z: torch.Tensor, state: State) -> torch.Tensor:
        """The image that stands for z: where gradients are taken, and what is compared."""
        return z

    def _gradient(
        self, objective: Objective, z: torch.Tensor, state: State
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Value at z, where the gradient tells it, and the gradient to step along."""
        return objective.gradient(z, self.draws, centre=self.centre, fixed=self.fixed)

    def _moved(self, z: torch.Tensor, gradient: torch.Tensor, state: State) -> torch.Tensor:
        """Where the next step leads, not projected yet."""
        if self.momentum:
            state.velocity = torch.add(self._scaled(gradient), state.velocity, alpha=self.momentum)
        else:
            state.velocity = gradient
        return self._ahead(z, state, self.step * state.threat.eps)

    def _scaled(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient in the unit in which momentum adds it up."""
        return unit(gradient, "l2")

    def _ahead(self, z: torch.Tensor, state: State, size: float) -> torch.Tensor:
        """z a step of this size further."""
        return stepped(z, state.velocity, size, state.threat.norm)
