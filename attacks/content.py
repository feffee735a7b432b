"""Attacks that look at the image: where and how a change is least visible."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..bench.registry import register_attack
from .iterative import IFgsm, MiFgsm
from .perceptual import luma
from .pgd import State
from .projection import unit


@register_attack("korhonen-you")
class KorhonenYou(MiFgsm):
    """Steps along the gradient, weighted by where the image has edges (Korhonen and You, QoEVMA 2022).

    The weights are the squared Sobel magnitude of the luma, dilated by 3x3 and divided by its maximum; they multiply
    the step, not the gradient, which a normalising optimiser would undo. Flat regions, where a change shows, stay as
    they are. The authors use Adam without a budget; here steps have momentum, and the threat's ball is kept.

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 2.5 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        momentum: weight of what was accumulated.
    """

    way = 2.5

    def __init__(self, steps: int = 20, step: float | None = None, draws: int = 1, momentum: float = 0.9) -> None:
        super().__init__(steps, step, draws, momentum)

    def _ahead(self, z: torch.Tensor, state: State, size: float) -> torch.Tensor:
        norm = state.threat.norm
        weighted = edges(state.x) * unit(state.velocity, norm)
        return torch.add(z, unit(weighted, "l2") if norm == "l2" else weighted, alpha=size)


def edges(x: torch.Tensor) -> torch.Tensor:
    """Weights (B,1,H,W) in [0,1]: squared Sobel magnitude of the luma, dilated; all 1 for an image without an edge."""
    kernel = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    padded = F.pad(luma(x), (1, 1, 1, 1), mode="replicate")
    across, down = (F.conv2d(padded, k[None, None]) for k in (kernel, kernel.T))
    squared = F.max_pool2d(across.square() + down.square(), 3, stride=1, padding=1)
    top = squared.amax((1, 2, 3), keepdim=True)
    return torch.where(top > 1e-12, squared / top.clamp_min(1e-12), torch.ones_like(squared))


@register_attack("madc")
class Madc(IFgsm):
    """Steps along the part of the gradient that leaves the mean squared error as it is (MAD competition).

    Wang and Simoncelli 2008: the first step goes along the gradient to the sphere of the full budget; the others move
    on it, orthogonal to the perturbation, and are pulled back to it. In linf the projected gradient is stepped along
    by its signs and the ball is the cube.

    Args:
        steps: gradient steps; peers take 8.
        step: step size as a fraction of eps; none for 2.5 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
    """

    way = 2.5

    def __init__(self, steps: int = 8, step: float | None = None, draws: int = 1) -> None:
        super().__init__(steps, step, draws)

    def _moved(self, z: torch.Tensor, gradient: torch.Tensor, state: State) -> torch.Tensor:
        delta, threat = z - state.x, state.threat
        length = delta.flatten(1).square().sum(1).clamp_min(1e-30)[:, None, None, None]
        along = (gradient * delta).sum((1, 2, 3), keepdim=True) / length
        size = threat.eps if state.t == 0 else self.step * threat.eps
        moved = delta + size * unit(gradient - along * delta, threat.norm)
        return state.x + (threat.eps * unit(moved, "l2") if threat.norm == "l2" else moved)
