"""The terms of the denoiser's loss, and their sums by name (after arXiv 2411.12575)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ...bench.errors import BadParameter

TERMS = ("mse", "target", "rank", "spread")
"""Those of the method, and `spread`, a variant of ours that goes beyond it."""

STABILITY = "stability"
"""The loss of denoised smoothing's second variant (Salman et al. 2020) for a score: the target term alone."""


def terms_of(loss: str) -> tuple[str, ...]:
    """The terms of a loss such as `mse+target+rank`; `stability` is the target term alone.

    Raises:
        BadParameter: an unknown or repeated term.
    """
    terms = ("target",) if loss == STABILITY else tuple(loss.split("+"))
    if set(terms) - set(TERMS) or len(set(terms)) != len(terms):
        raise BadParameter(
            f"loss {loss!r}: expected {STABILITY}, or terms out of {', '.join(TERMS)} joined by +, for example "
            "mse+target+rank"
        )
    return terms


def image_loss(denoised: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean squared error of pixels in [0,1]; images (B,3,H,W) to a scalar."""
    return F.mse_loss(denoised, clean)


def target_loss(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of scores (B,) to their targets (B,), both in units of the metric's range."""
    return (scores - target).abs().mean()


def spread_loss(scores: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the scores (B,) of two noisy copies, in units of the metric's range.

    It is not part of the method: the width of a certificate grows with the spread of scores under noise,
    so this asks for it directly.

    Args:
        scores: of the denoised images.
        mirrored: the same with the opposite noise, which is as likely.
    """
    return (scores - mirrored).abs().mean()


def rank_loss(scores: torch.Tensor, truth: torch.Tensor, margin: float, groups: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over pairs of max(0, margin - sign(y_i - y_j) (s_i - s_j)); pairs of equal truth do not count.

    Args:
        scores: (B,) scores of the denoised images, larger = better, in units of the metric's range.
        truth: (B,) what orders the images; only the order matters.
        margin: by how much a pair's scores should differ, in the same units as the scores.
        groups: indices of images whose truths may be compared: human scores with human scores, a metric's with a
            metric's.

    Returns:
        scalar; 0 where no pair differs.
    """
    hinges = []
    for index in groups:
        sign = torch.sign(truth[index][:, None] - truth[index][None, :])
        hinge = F.relu(margin - sign * (scores[index][:, None] - scores[index][None, :]))
        hinges.append(hinge[sign != 0])
    found = torch.cat(hinges) if hinges else scores[:0]
    return found.mean() if len(found) else scores.sum() * 0.0
