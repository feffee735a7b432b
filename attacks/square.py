"""Square attack: random search by square windows, with nothing but scores."""

from __future__ import annotations

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .projection import project, unit
from .search import RandomSearch, State, coins, corners, halved

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Iterations out of 10,000 at which the share of pixels in the window is halved (the paper's section 5.1)."""


@register_attack("square")
class Square(RandomSearch):
    """Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049), linf (algorithm 2) and l2 (algorithm 3).

    linf starts from vertical stripes of +-eps and then writes random signs, one a channel, into square windows. l2
    starts from a grid of blobs and moves the mass of one window into another. A change is kept if the score improves.
    The schedule of window sizes is stretched over the queries.

    On a randomised defence each comparison is between means of `repeats` fresh answers, and the point at hand is asked
    again each time: a lucky answer would otherwise never be beaten.

    Args:
        queries: calls of the deployed score an image, all in all; peers give 10,000.
        p: share of the pixels in the first windows. The paper takes 0.05 for 10,000 queries on ImageNet; for 1,000 on
            `tiny-iqa` 0.3 gains twice as much as 0.05.
        repeats: answers averaged in a comparison, if the defence is randomised.
    """

    concurrent = True

    def __init__(self, queries: int = 1000, p: float = 0.3, repeats: int = 1) -> None:
        super().__init__(queries, repeats)
        if not 0 < p <= 1:
            raise BadParameter(f"square[p={p}]: expected 0 < p <= 1")
        self.p = p

    def _start(self, x: torch.Tensor, threat: Threat, objective: Objective) -> State:
        return ((_stripes if threat.norm == "linf" else _blobs)(x, threat, objective),)

    def _propose(
        self, state: State, x: torch.Tensor, threat: Threat, objective: Objective, t: int, rounds: int
    ) -> State:
        side = self._side(t / rounds, x.shape[2], x.shape[3])
        return ((_signs if threat.norm == "linf" else _moved_mass)(state[0], x, threat, objective, side),)

    def _side(self, passed: float, height: int, width: int) -> int:
        """Side of the window after that share of the rounds."""
        share = halved(self.p, passed, _HALVINGS)
        return min(max(1, round((share * height * width) ** 0.5)), height, width)


def _stripes(x: torch.Tensor, threat: Threat, objective: Objective) -> torch.Tensor:
    """Vertical stripes of one pixel: the same sign down a column, one a channel."""
    signs = coins(objective, 3 * x.shape[3]).view(len(x), 3, 1, x.shape[3]).to(x)
    return project(x + threat.eps * signs, x, threat)


def _signs(z: torch.Tensor, x: torch.Tensor, threat: Threat, objective: Objective, side: int) -> torch.Tensor:
    """Random signs, one a channel, in a window at a random place."""
    numbers, signs = objective.search_streams.numbers(2), coins(objective, 3)
    proposal = z.clone()
    for i, (top, left) in enumerate(corners(numbers, x, side)):
        window = (i, slice(None), slice(top, top + side), slice(left, left + side))
        proposal[window] = (x[window] + threat.eps * signs[i].to(x)[:, None, None]).clamp(0.0, 1.0)
    return proposal


def _blobs(x: torch.Tensor, threat: Threat, objective: Objective) -> torch.Tensor:
    """Blobs of a fifth of the smaller side, in rows, random signs a blob and channel, of length eps together."""
    height, width = x.shape[2:]
    side = max(1, min(height, width) // 5)
    blob = _blob(side).to(x)
    rows, columns = height // side, width // side
    signs = coins(objective, 3 * rows * columns).view(len(x), 3, rows, columns).to(x)
    delta = torch.zeros_like(x)
    delta[:, :, : rows * side, : columns * side] = torch.kron(signs, blob)
    return project(x + threat.eps * unit(delta, "l2"), x, threat)


def _moved_mass(z: torch.Tensor, x: torch.Tensor, threat: Threat, objective: Objective, side: int) -> torch.Tensor:
    """Take the mass of one window, and what is left of the budget, into another, shaped as a blob of random sign."""
    numbers, signs = objective.search_streams.numbers(4), coins(objective, 4)
    delta = z - x
    blob = _blob(side).to(x)
    first, second = corners(numbers[:, :2], x, side), corners(numbers[:, 2:], x, side)
    for i in range(len(x)):
        (a, b), (c, d) = first[i], second[i]
        into, out = delta[i, :, a : a + side, b : b + side], delta[i, :, c : c + side, d : d + side]
        whole = delta[i].square().sum()
        old = into.clone()
        taken = into.square().sum((1, 2)) + out.square().sum((1, 2)) - _overlap(delta[i], first[i], second[i], side)
        spare = (threat.eps**2 - whole).clamp_min(0) / 3
        out.zero_()
        shape = blob if signs[i, 3] > 0 else blob.T
        new = shape * signs[i, :3].to(x)[:, None, None] / blob.norm() + _normalised(old)
        delta[i, :, a : a + side, b : b + side] = _normalised(new) * (taken + spare).sqrt()[:, None, None]
    return project(x + delta, x, threat)


def _overlap(delta: torch.Tensor, first: tuple[int, int], second: tuple[int, int], side: int) -> torch.Tensor:
    """Squared length (3,) of what lies in both windows of a perturbation (3,H,W)."""
    top, left = max(first[0], second[0]), max(first[1], second[1])
    bottom, right = min(first[0], second[0]) + side, min(first[1], second[1]) + side
    return delta[:, top : max(top, bottom), left : max(left, right)].square().sum((1, 2))


def _normalised(v: torch.Tensor) -> torch.Tensor:
    """(3,h,w) with length 1 a channel; zero stays zero."""
    return v / v.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def _blob(side: int) -> torch.Tensor:
    """(side,side): an upper half that peaks in its middle, and a lower half that is its negative (section 4.3)."""
    upper = _peak(side // 2, side) if side > 1 else torch.zeros(0, side)
    lower = _peak(side - side // 2, side)
    return torch.cat([upper, -lower]) if side > 1 else lower


def _peak(height: int, width: int) -> torch.Tensor:
    """Squares of side 1, 3, 5, ... around the middle, cut to the rectangle, the k-th with weight 1/k^2; length 1."""
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    distance = torch.maximum(rows.abs()[:, None], columns.abs()[None])
    most = max(height, width) // 2
    # A pixel at distance d lies in the squares d, d + 1, ..., most.
    tails = (1.0 / torch.arange(1, most + 2).float().square()).flip(0).cumsum(0).flip(0)
    return tails[distance] / tails[distance].norm()
