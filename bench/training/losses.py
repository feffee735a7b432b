"""Losses between scores: correlation, order, both against human scores, and the sums that the trainings use."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .synthetic import VERSIONS, Groups


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


def synthetic_losses(
    features: torch.Tensor,
    scores: torch.Tensor,
    kind: nn.Module,
    strength: nn.Module,
    groups: Groups,
    index: np.ndarray,
) -> dict[str, torch.Tensor]:
    """Pseudo-quality, order, kind and strength of synthetic groups.

    Args:
        features: (G*VERSIONS,F) pooled statistics.
        scores: (G*VERSIONS,) scores.
        kind: maps features to a logit for each kind of distortion.
        strength: maps features to a strength for each kind.
        groups: the pool.
        index: (G,) which groups these are.

    Returns:
        the four losses by name.
    """
    kinds = torch.from_numpy(groups.kinds[index]).repeat_interleave(VERSIONS)
    strengths = torch.from_numpy(groups.strengths[index])
    targets = torch.from_numpy(groups.targets[index])
    level = strength(features).gather(1, kinds[:, None]).squeeze(1)
    visible = torch.from_numpy((groups.strengths[index] > 0) & ~groups.chains[index][:, None]).flatten()
    return {
        "score": F.smooth_l1_loss(scores / 10.0, targets.flatten() / 10.0),
        "order": group_loss(scores.view(-1, VERSIONS), strengths),
        # A small batch may hold nothing but chains, which have no single kind.
        "kind": F.cross_entropy(kind(features)[visible], kinds[visible]) if bool(visible.any()) else scores.sum() * 0.0,
        "level": F.smooth_l1_loss(level, strengths.flatten()),
    }


def synthetic_sum(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weighted sum of `synthetic_losses`."""
    return losses["score"] + losses["order"] + 0.3 * losses["kind"] + 0.3 * losses["level"]


def rated_losses(
    scores: torch.Tensor, truth: torch.Tensor, versions: torch.Tensor, strengths: torch.Tensor, targets: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Human scores, with the synthetic order kept alive.

    Args:
        scores: (B,) scores of rated photographs.
        truth: (B,) their MOS.
        versions: (G,VERSIONS) scores of synthetic groups.
        strengths: (G,VERSIONS) their distortion strengths, 0 to 5.
        targets: (G,VERSIONS) their pseudo-quality.

    Returns:
        the five losses by name.
    """
    return {
        "l1": (scores - truth).abs().mean() / 10.0,
        "plcc": plcc_loss(scores, truth),
        "order": order_loss(scores, truth),
        "groups": group_loss(versions, strengths, square=0.5),
        "anchor": F.smooth_l1_loss(versions / 10.0, targets / 10.0),
    }


def rated_sum(losses: dict[str, torch.Tensor], group_weight: float) -> torch.Tensor:
    """The weighted sum of `rated_losses`."""
    human = losses["l1"] + 2.0 * losses["plcc"] + losses["order"]
    return human + group_weight * (losses["groups"] + 0.1 * losses["anchor"])
