"""A query attack below the threshold of visibility: a search along score boundaries."""

from __future__ import annotations

import math

import torch

from ..bench.errors import BadParameter
from ..bench.registry import register_attack
from .base import range_end
from .content import edges
from .search import Asking, ImageSearch, Walk
from .surfree import Boundary
from .visibility import high_frequencies, noticeable, salient

_FIRST, _LEAST = 1 / 100, 1 / 400
"""How far the first boundary lies ahead, and below which distance the search ends, in shares of the range left."""

_AMPLITUDE = 0.1
"""Largest standard deviation of a pattern, before it is cut to the bounds."""

_EDGE = 0.01
"""Share of the strongest squared slope from which on a pixel is on an edge."""


@register_attack("jnd-search")
class JndSearch(ImageSearch):
    """Search along growing score boundaries within just noticeable differences (Yang et al. 2024, arXiv 2401.05217).

    In rounds. A round draws high-frequency patterns, restricted to edges and salient regions, until one carries the
    score over a boundary a little ahead of it; then SurFree (Maho et al. 2021, arXiv 2011.12807) makes the step as
    short as it can be without falling back: random directions of the lower half of the image's DCT basis, bisection
    of angles. So a point on the boundary is reached that leaves room for more. The distance to the next boundary is
    doubled where a pattern passes three times as far, and halved where `tries` patterns fail.

    No value moves by more than `jnd` times its just noticeable difference, nor leaves the threat's ball. Boundaries
    are in shares of what is left of the metric's declared range (of 1, where it declares none).

    Where it differs from the authors' code: the thresholds are those of Chou and Li (1995), not of the decomposition
    model of Liu et al. (2010); patterns are the high frequencies of the attacked image itself, shifted at random, not
    two foreign reference images; edges come from Sobel filters, not from Canny's, and saliency from the spectral
    residual (Hou and Zhang 2007), not from MB+; each image is put inside its bounds before it is scored, not at the
    end.

    On a randomised defence the point at hand is asked again when a round begins, and the boundary set anew from there;
    the step is taken if it also scores higher in fresh answers.

    Args:
        queries: calls of the deployed score an image; the authors give 6000 to patterns, and 100 to each round.
        rounds: boundaries at most; 20 in the authors' demonstration, 10 in their experiments.
        per_round: queries a round for shortening the step.
        tries: patterns before the boundary comes closer; 200 in the authors' code.
        jnd: bound on a value's change, in just noticeable differences; 0.38 at the authors'.
        repeats: answers averaged into one, if the defence is randomised.
    """

    def __init__(
        self,
        queries: int = 1000,
        rounds: int = 20,
        per_round: int = 100,
        tries: int = 200,
        jnd: float = 0.38,
        repeats: int = 1,
    ) -> None:
        super().__init__(queries, repeats)
        if min(rounds, per_round, tries) < 1 or not jnd > 0:
            raise BadParameter(f"jnd-search[rounds={rounds},per_round={per_round},tries={tries},jnd={jnd}]: "
                               "expected positive numbers")  # fmt: skip
        self.rounds, self.per_round, self.tries, self.jnd = rounds, per_round, tries, jnd

    def _search(self, walk: Walk) -> Asking[None]:
        x, g = walk.x[None], walk.objective.g
        bound = self.jnd * noticeable(x)[0]
        region = (edges(x) > _EDGE) | salient(x)
        pattern = torch.where(region, 1.0, 0.0)[0], high_frequencies(x)[0]
        clean = yield from walk.ask()
        end = range_end(g, walk.objective.sign)
        room = end - clean if clean < end < math.inf else g.metric.span
        step = _FIRST
        for _ in range(self.rounds):
            if g.randomised:
                yield from walk.ask()
            boundary = Boundary(walk, bound, walk.value + step * room)
            while not (yield from self._over(boundary, pattern)):
                step /= 2
                if step < _LEAST:
                    return
                boundary.goal = walk.value + step * room
            if boundary.value > walk.value + 3 * step * room:
                step *= 2
                boundary.goal = walk.value + step * room
            yield from boundary.shorten(self.per_round)
            # On a randomised defence what looked like a way over the boundary may have been one lucky answer.
            rise = (yield from walk.rise(boundary.near)) if g.randomised else boundary.value - walk.value
            if rise > 0:
                walk.move(boundary.near, rise)

    def _over(self, boundary: Boundary, pattern: tuple[torch.Tensor, torch.Tensor]) -> Asking[bool]:
        """Whether one of `tries` patterns carries the score over the boundary."""
        region, texture = pattern
        for _ in range(self.tries):
            down, right, size = boundary.walk.numbers(3).tolist()
            places = int(down * texture.shape[1]), int(right * texture.shape[2])
            offset = _AMPLITUDE * (2 * size - 1) * region * texture.roll(places, (1, 2))
            if (yield from boundary.crosses(boundary.walk.image + offset)):
                return True
        return False
