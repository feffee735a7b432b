"""Attacks that change few pixels, anywhere or in one square, with nothing but scores."""

from __future__ import annotations

import math

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .projection import project
from .search import Asking, ImageSearch, RandomSearch, State, Walk, coins, corners, halved

_HALVINGS = (10, 50, 200, 500, 1000, 4000, 8000)
"""Rounds out of 10,000 at which the share of the patch that is repainted is halved, as in the authors' code."""


@register_attack("one-pixel")
class OnePixel(ImageSearch):
    """One-pixel attack (Su, Vargas and Sakurai 2019, arXiv 1710.08864): differential evolution of k pixels.

    An individual holds places and colours of k pixels: at first places are uniform and colours normal (mean 128,
    standard deviation 127 of 255). A child is a + (b - c) / 2 of three others, without crossover, and takes its
    parent's place if it scores higher. What leaves its range is clipped, which the paper leaves open.

    Colours are spread over what the threat allows at a pixel: [x - eps, x + eps] within [0,1]; in l2 the k pixels then
    share eps. At linf 1 or l2 sqrt(3k) that is the paper's attack, which bounds nothing but the number of pixels.

    On a randomised defence parents are asked again in each generation.

    Args:
        queries: calls of the deployed score an image. The paper has 100 generations of 400, peers 5 to 10 of 300.
        pixels: pixels that change: 1, 3 or 5 in the paper, 3 to 40 at peers.
        population: individuals. The paper takes 400; for 1000 queries on `tiny-iqa` 30 gain more than 50 or 100.
        repeats: answers averaged into one, if the defence is randomised.
    """

    def __init__(self, queries: int = 1000, pixels: int = 1, population: int = 30, repeats: int = 1) -> None:
        if pixels < 1 or population < 4:
            raise BadParameter(f"one-pixel[pixels={pixels},population={population}]: expected at least 1 and 4")
        super().__init__(queries, repeats, step=2 * population)
        self.pixels, self.population = pixels, population

    def _search(self, walk: Walk) -> Asking[None]:
        height, width = walk.x.shape[1:]
        if self.pixels > height * width:
            raise BadParameter(f"one-pixel[pixels={self.pixels}]: the image has {height}x{width}: give fewer")
        places = walk.numbers(self.population * self.pixels * 2).view(self.population, self.pixels, 2)
        noise = walk.streams.normal(places.new_empty(1, self.population, self.pixels, 3), 1)[0, 0]
        people = torch.cat([places, (128 + 127 * noise.double()) / 255], dim=2).clamp(0.0, 1.0)
        values: list[float] = []
        while True:
            for k, person in enumerate(people):
                if len(values) <= k:
                    values.append((yield _painted(walk, person)))
                elif walk.objective.g.randomised:
                    values[k] = yield _painted(walk, person)
            walk.image = _painted(walk, people[values.index(max(values))])
            # All children have parents of the same generation.
            for k, child in enumerate(self._children(walk, people)):
                value = yield _painted(walk, child)
                if value > values[k]:
                    people[k], values[k] = child, value

    def _children(self, walk: Walk, people: torch.Tensor) -> torch.Tensor:
        """One child for each individual, (population,pixels,5)."""
        order = walk.numbers(self.population**2).view(self.population, -1)
        a, b, c = order.fill_diagonal_(2.0).argsort(dim=1)[:, :3].T
        return (people[a] + 0.5 * (people[b] - people[c])).clamp(0.0, 1.0)


def _painted(walk: Walk, person: torch.Tensor) -> torch.Tensor:
    """The image with an individual's pixels; where two share a place the later one counts."""
    x = walk.x
    rows, columns = ((person[:, d] * size).long().clamp_max(size - 1) for d, size in enumerate(x.shape[1:]))
    z = x.clone()
    for i, j, colour in zip(rows, columns, person[:, 2:].to(x), strict=True):
        z[:, i, j] = _spread(colour, x[:, i, j], walk.threat.eps)
    return project(z[None], x[None], walk.threat)[0]


def _spread(colours: torch.Tensor, x: torch.Tensor, radius: float) -> torch.Tensor:
    """Colours in [0,1] as values from the least to the largest within that radius of x, in the box."""
    low, high = (x - radius).clamp_min(0.0), (x + radius).clamp_max(1.0)
    return low + (high - low) * colours


@register_attack("patch-search")
class PatchSearch(RandomSearch):
    """Random search for a square patch and its place (Sparse-RS, Croce et al., AAAI 2022, arXiv 2006.12834).

    The patch starts at a random place with vertical stripes, each channel of a column dark or bright. A round repaints
    a random square within it: each channel goes one step darker or brighter there. Every fifth round, and less often
    after 1000, moves the patch instead. A change is kept if the score improves. The schedules of both sizes are
    stretched over the queries, as in the authors' code.

    Dark and bright are the least and the largest value that the threat allows at a pixel: in linf x -+ eps within
    [0,1], so that linf 1 is the paper's attack; in l2 all values of the patch share eps evenly.

    Args:
        queries: calls of the deployed score an image; the paper and peers give 10,000.
        area: pixels in the patch, whose side is the root of it, rounded down; peers take 169.
        p: share of the patch in the first squares.
        repeats: answers averaged in a comparison, if the defence is randomised.
    """

    def __init__(self, queries: int = 1000, area: int = 169, p: float = 0.4, repeats: int = 1) -> None:
        super().__init__(queries, repeats)
        if area < 1 or not 0 < p <= 1:
            raise BadParameter(f"patch-search[area={area},p={p}]: expected area >= 1, 0 < p <= 1")
        self.area, self.p = area, p

    def _start(self, x: torch.Tensor, threat: Threat, objective: Objective) -> State:
        side = min(math.isqrt(self.area), *x.shape[2:])
        stripes = (coins(objective, 3 * side).view(len(x), 3, 1, side).to(x) + 1) / 2
        places = torch.tensor(corners(objective.search_streams.numbers(2), x, side))
        return self._pasted(stripes.repeat(1, 1, side, 1), places, x, threat)

    def _propose(
        self, state: State, x: torch.Tensor, threat: Threat, objective: Objective, t: int, rounds: int
    ) -> State:
        _, patches, places = state
        side = patches.shape[2]
        room = torch.tensor(x.shape[2:]) - side
        reach = (0.75 * (1 - t / rounds) * torch.tensor(x.shape[2:])).long()
        if (t + 1) % (5 * (1 + (t + 1) // 1000)) == 0 and int(reach.min()) > 0:
            steps = (objective.search_streams.numbers(2) * (2 * reach + 1)).long() - reach
            return self._pasted(patches, (places + steps).clamp(min=torch.zeros_like(room), max=room), x, threat)
        inner = max(1, int(halved(self.p, t / rounds, _HALVINGS) ** 0.5 * side))
        squares = corners(objective.search_streams.numbers(2), patches, inner)
        patches, signs = patches.clone(), coins(objective, 3).to(x)
        for i, (top, left) in enumerate(squares):
            patches[i, :, top : top + inner, left : left + inner] += signs[i, :, None, None]
        return self._pasted(patches.clamp(0.0, 1.0), places, x, threat)

    def _pasted(self, patches: torch.Tensor, places: torch.Tensor, x: torch.Tensor, threat: Threat) -> State:
        """Images with their patches, the patches (B,3,side,side) in [0,1], and their top left corners (B,2)."""
        side = patches.shape[2]
        radius = threat.eps if threat.norm == "linf" else threat.eps / (3 * side**2) ** 0.5
        z = x.clone()
        for i, (top, left) in enumerate(places.tolist()):
            window = (i, slice(None), slice(top, top + side), slice(left, left + side))
            z[window] = _spread(patches[i], x[window], radius)
        return z, patches, places
