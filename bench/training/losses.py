"""Losses between scores: correlation, order, and both against human scores."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def plcc_loss(scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(1 - Pearson correlation) / 2 of two vectors (B,): 0 when perfect, 1/2 when unrelated."""
    a, b = scores - scores.mean(), truth - truth.mean()
    return 0.5 * (1.0 - (a * b).sum() / (a.norm() * b.norm() + 1e-6))


def order_loss(scores: torch.Tensor, truth: torch.Tensor, slope: float = 0.5, cap: float = 10.0) -> torch.Tensor:
    """Mean hinge over all pairs of two vectors (B,): a pair should differ by `slope` of its true difference.

    Args:
        scores: predictions on a 0-100 scale.
        truth: targets on the same scale.
        slope: margin as a share of the true difference.
        cap: largest margin.

    Returns:
        scalar in units of ten points.
    """
    gap = truth[:, None] - truth[None, :]
    margin = (slope * gap).clamp(max=cap)
    hinge = F.relu(margin - (scores[:, None] - scores[None, :]))
    return hinge[gap > 0].mean() / 10.0 if bool((gap > 0).any()) else scores.sum() * 0.0


def group_loss(scores: torch.Tensor, strengths: torch.Tensor, points: float = 5.0, square: float = 0.0) -> torch.Tensor:
    """Mean hinge within groups: each unit of distortion strength should cost at least `points`.

    Args:
        scores: (G,V) scores of V versions of each crop.
        strengths: (G,V) distortion strengths, 0 to 5.
        points: margin for each unit of strength.
        square: share of the hinge that is squared, and doubled: it weighs the few wrong orders more than the many
            narrow ones.

    Returns:
        scalar in units of ten points.
    """
    gap = strengths[:, None, :] - strengths[:, :, None]  # [g,i,j] > 0: version j is the worse one
    hinge = F.relu(points * gap - (scores[:, :, None] - scores[:, None, :]))[gap > 0] / 10.0
    return hinge.mean() if square == 0.0 else (1.0 - square) * hinge.mean() + 2.0 * square * hinge.square().mean()
