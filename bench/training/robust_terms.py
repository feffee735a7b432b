"""What defences by training add to a loss: the gradient's norm, adversarial images, labels that know of the attack."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..images import ssim

Net = Callable[[torch.Tensor], torch.Tensor]
SPAN = 100.0
"""Length of the score's scale, in points: the unit of the slope and of the label penalty."""


def gradient_norm(net: Net, x: torch.Tensor, h: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and half the squared l1 norm of their gradient by a finite difference (Liu et al., CVPR 2024).

    The difference is along the gradient's sign, which is taken as a constant, so that no second derivative is needed.
    The images at its far end may leave [0,1], as in the authors' code.

    Args:
        net: maps (B,3,H,W) to scores (B,) in points.
        x: images (B,3,H,W) in [0,1].
        h: length of the step in each value.

    Returns:
        scores (B,) with their graph, and the mean of the term: slopes are in scales (of `SPAN` points) per unit of
        pixel value.
    """
    leaf = x.detach().clone().requires_grad_(True)
    scores = net(leaf)
    (gradient,) = torch.autograd.grad(scores.sum(), leaf, retain_graph=True)
    slope = (net(x + h * gradient.sign()) - scores) / (h * SPAN)
    return scores, slope.square().mean() / 2.0


def adversarial_images(
    net: Net, x: torch.Tensor, labels: torch.Tensor, eps: float, step: float, steps: int, start: torch.Tensor
) -> torch.Tensor:
    """Images (B,3,H,W) in the l_inf ball of radius `eps` whose scores are far from their labels.

    The attack maximises the error |score - label| of each image, as in Madry et al. (2018): an image that scores too
    high is pushed up, the other ones down.

    Args:
        net: maps (B,3,H,W) to scores (B,).
        x: images in [0,1].
        labels: (B,) what they should score.
        eps: radius in [0,1] pixel units.
        step: length of a step in each value; what goes beyond the ball is cut.
        steps: number of steps.
        start: (B,3,H,W) where in the ball the attack begins.
    """
    found = (x + start).clamp(0, 1)
    for _ in range(steps):
        leaf = found.detach().requires_grad_(True)
        scores = net(leaf)
        # Not the error's own gradient, which is zero where it is zero.
        side = torch.where(scores.detach() >= labels, 1.0, -1.0)
        (gradient,) = torch.autograd.grad((side * scores).sum(), leaf)
        moved = found.detach() + step * gradient.sign()
        found = (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
    return found.detach()


def penalised(labels: torch.Tensor, x: torch.Tensor, adversarial: torch.Tensor, penalty: float) -> torch.Tensor:
    """Labels (B,) of adversarial images by what an attack costs in SSIM (Chistyakova et al., Technologies 12(11):220).

    label - penalty (1 - SSIM) SPAN, not lowered below the end of the scale, which a teacher's label may lie beyond.
    """
    similarity = torch.tensor([ssim(a, b) for a, b in zip(x, adversarial, strict=True)], dtype=labels.dtype)
    lowered = labels - penalty * (1.0 - similarity) * SPAN
    return torch.maximum(lowered, labels.clamp(max=0.0))
