"""Strictly increasing maps that bring the scores of a metric to the scale of another, or to that of human opinion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import isotonic_regression, least_squares

Align = Literal["quantile", "isotonic"]
AnyMap = Literal["logistic", "quantile", "isotonic"]

QUANTILES = 11
"""Knots of `quantile_map`: the deciles. A knot at each image instead gives neighbouring pieces slopes a hundred times
apart, by chance, and a gradient that follows them says nothing of the next piece."""
STEEPEST = 10.0
"""Bound on slopes, and its inverse, in units of the ratio of standard deviations."""


@dataclass(frozen=True)
class MonotoneMap:
    """A strictly increasing piecewise-linear function, extended beyond its knots with the slopes at the ends.

    A clamp or a flat piece there would stop the gradient just where an attack arrives, and look like robustness.

    Attributes:
        x: (K,) knots, strictly increasing, at least two.
        y: (K,) values at the knots, strictly increasing.
    """

    x: np.ndarray
    y: np.ndarray

    def __call__(self, q: torch.Tensor) -> torch.Tensor:
        """Values of the function at q (B,), differentiable, in the precision of q."""
        x, y = (torch.as_tensor(part, device=q.device) for part in (self.x, self.y))
        # Only inner knots divide the line: what lies beyond an end belongs to the outermost piece.
        piece = torch.bucketize(q.detach().double(), x[1:-1])
        slope = y.diff() / x.diff()
        return (y[piece] + slope[piece] * (q.double() - x[piece])).to(q.dtype)


@dataclass(frozen=True)
class LogisticMap:
    """low + height / (1 + exp(-(q - centre) / width)) + slope (q - centre), strictly increasing and smooth.

    The 5-parameter logistic of Sheikh, Sabir and Bovik (IEEE TIP 2006), whose linear term keeps a slope where the curve
    is flat: a plain one saturates, and hides just what an attack does.

    Attributes:
        low, height, centre, width, slope: as in the formula; width and slope are positive, height is not negative.
    """

    low: float
    height: float
    centre: float
    width: float
    slope: float

    def __call__(self, q: torch.Tensor) -> torch.Tensor:
        """Values of the function at q (B,), differentiable, in the precision of q."""
        z = q.double() - self.centre
        return (self.low + self.height * torch.sigmoid(z / self.width) + self.slope * z).to(q.dtype)


AlignMap = MonotoneMap | LogisticMap


def logistic_map(member: np.ndarray, target: np.ndarray) -> LogisticMap:
    """Least-squares fit of `LogisticMap` with the least slope; the steepest point is bounded like that of other maps.

    `logistic.fit_logistic` will not do: it fits what PLCC is taken of, and its curves may fall, go flat or be steep.

    Args:
        member, target: (N,) qualities of the same images, larger = better; neither is constant.
    """
    unit, scale = member.std(), target.std()
    s, t = (member - member.mean()) / unit, (target - target.mean()) / scale
    least = 1 / STEEPEST

    def model(p: np.ndarray) -> np.ndarray:
        low, steepness, centre, width = p
        z = s - centre
        return low + 4 * width * steepness / (1 + np.exp(-z / width)) + least * z

    # Bounded in width, too: a narrower curve is a step between two images, a wider one is a line.
    ends = ([-np.inf, 0.0, s.min(), 0.05], [np.inf, STEEPEST - least, s.max(), 5.0])
    start = (-2.0, 1.0, float(np.median(s)), 1.0)
    low, steepness, centre, width = least_squares(lambda p: model(p) - t, start, bounds=ends).x
    return LogisticMap(
        low=float(target.mean() + scale * low),
        height=float(4 * width * steepness * scale),
        centre=float(member.mean() + unit * centre),
        width=float(unit * width),
        slope=float(least * scale / unit),
    )


def quantile_map(member: np.ndarray, target: np.ndarray) -> MonotoneMap:
    """Map that gives the member's scores the distribution of the target's: decile on decile, linear between them.

    The knots are order statistics, so a strictly increasing transform of the target is undone at them.

    Args:
        member, target: (N,) qualities of the same images, larger = better; neither is constant.
    """
    ranks = np.unique(np.linspace(0, len(member) - 1, QUANTILES).round().astype(int))
    x, y, _ = _untied(np.sort(member)[ranks], np.sort(target)[ranks])
    return _bounded(x, y, member, target)


def isotonic_map(member: np.ndarray, target: np.ndarray) -> MonotoneMap:
    """Centred isotonic regression of the target on the member (Oron & Flournoy 2017, arXiv 1701.05964).

    Isotonic regression is constant over each block of pooled images; here each block is a single knot, at its mean, and
    the function is linear between them. Where the target rises with the member all over, every image is a knot.

    Args:
        member, target: (N,) qualities of the same images, larger = better; neither is constant.
    """
    x, y, weights = _untied(member, target)
    fitted = isotonic_regression(y, weights=weights)
    starts = fitted.blocks[:-1]
    total = np.add.reduceat(weights, starts)
    centres = np.add.reduceat(weights * x, starts) / total
    return _bounded(centres, fitted.x[starts], member, target)


def _untied(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct x in increasing order, the mean y of each, and how many there are."""
    values, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    return values, np.bincount(index, weights=y) / counts, counts.astype(float)


def _bounded(x: np.ndarray, y: np.ndarray, member: np.ndarray, target: np.ndarray) -> MonotoneMap:
    """The map through these knots, its slopes moved between 1/STEEPEST and STEEPEST times the usual one.

    A flatter piece would be a clamp in all but name, a steeper one a step. A single knot, the best fit to a member that
    falls where the target rises, becomes a line of the least slope.
    """
    usual = target.std() / member.std()
    if len(x) == 1:
        x, y = x + member.std() * np.array([-1.0, 1.0]), np.repeat(y, 2)
    widths = np.diff(x)
    slopes = np.clip(np.diff(y) / widths, usual / STEEPEST, usual * STEEPEST)
    bounded = np.concatenate([[0.0], np.cumsum(slopes * widths)])
    return MonotoneMap(x, bounded + (y - bounded).mean())


MAPS: dict[Align, Callable[[np.ndarray, np.ndarray], MonotoneMap]] = {
    "quantile": quantile_map,
    "isotonic": isotonic_map,
}
"""What fits a map between metrics, by its name."""
ALL_MAPS: dict[AnyMap, Callable[[np.ndarray, np.ndarray], AlignMap]] = {"logistic": logistic_map, **MAPS}
"""What fits a map to human opinion, by its name."""
