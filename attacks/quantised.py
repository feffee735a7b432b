"""An attack on the saved file: every candidate is an image of whole grey levels inside the budget."""

from __future__ import annotations

import torch

from ..bench.api import Threat
from ..bench.registry import register_attack
from .pgd import Pgd, State

LEVELS = 255.0


@register_attack("quantised-pgd")
class QuantisedPgd(Pgd):
    """PGD with momentum that proposes 8-bit images only, so that nothing is lost when the result is saved as PNG.

    Gradients are taken at the rounded image and move the unrounded one (straight-through, as in quantisation-aware
    training). In linf the rounded values are kept inside the ball by rounding towards the image where needed; in l2
    the perturbation is scaled, image by image, until it is as long after rounding as it was before: of a small budget
    the largest steps survive. An image that is not made of whole levels itself is left as it is where no level fits.

    Args:
        steps: gradient steps a restart.
        step: step size as a fraction of eps; none for 2.5 / steps.
        restarts: the first starts at the image itself, the others at random points of the ball.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        momentum: weight of the past steps' directions.
    """

    concurrent = True

    def __init__(
        self, steps: int = 20, step: float | None = None, restarts: int = 1, draws: int = 8, momentum: float = 0.75
    ) -> None:
        super().__init__(steps, step, restarts)
        self.draws, self.momentum = draws, momentum

    def _proposal(self, z: torch.Tensor, state: State) -> torch.Tensor:
        return whole_levels(z, state.x, state.threat)


def whole_levels(z: torch.Tensor, x: torch.Tensor, threat: Threat) -> torch.Tensor:
    """An image of whole grey levels near z and inside the budget around x (B,3,H,W); x's own values where none fits."""
    if threat.norm == "linf":
        slack = 1e-4  # levels: eps = 4/255 has to count as four of them
        low = torch.ceil((x.double() - threat.eps) * LEVELS - slack)
        high = torch.floor((x.double() + threat.eps) * LEVELS + slack)
        rounded = torch.minimum(torch.maximum((z.double() * LEVELS).round(), low), high)
        return torch.where(low <= high, rounded / LEVELS, x.double()).to(x.dtype).clamp(0.0, 1.0)
    delta = z.double() - x.double()
    levels = (x.double() * LEVELS).round() / LEVELS
    # As long as z's own perturbation, not longer: its end may lie inside the ball. Rounding makes a small perturbation
    # vanish, so that factors above 1 may be needed for that length.
    length = delta.flatten(1).norm(dim=1).clamp_max(threat.eps)
    low, high = torch.zeros(len(x), dtype=torch.float64, device=x.device), torch.full_like(delta[:, 0, 0, 0], 8.0)
    for _ in range(24):
        middle = (low + high) / 2
        moved = _rounded(levels, delta, middle)
        fits = (moved - x.double()).flatten(1).norm(dim=1) <= length
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    found = _rounded(levels, delta, low).to(x.dtype)
    fits = (found.double() - x.double()).flatten(1).norm(dim=1) <= threat.eps
    return torch.where(fits[:, None, None, None], found, x)


def _rounded(levels: torch.Tensor, delta: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    steps = (factor[:, None, None, None] * delta * LEVELS).round() / LEVELS
    return (levels + steps).clamp(0.0, 1.0)
