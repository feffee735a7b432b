"""Parsimonious attack: local search over the corners of the cube, block by block."""

from __future__ import annotations

import heapq
import itertools
from typing import NamedTuple

import torch

from ..bench.errors import BadParameter
from ..bench.registry import register_attack
from .search import Asking, ImageSearch, Walk


class Block(NamedTuple):
    """A square of one channel, cut off at the image's border."""

    channel: int
    rows: slice
    columns: slice


@register_attack("parsimonious")
class Parsimonious(ImageSearch):
    """Lazy greedy local search over blocks of -eps and +eps (Moon, An and Song, ICML 2019, arXiv 1905.06635).

    It starts with -eps everywhere. Blocks of one channel, in mini-batches in random order, are raised to +eps in the
    order of what they gain (insertion), then those that turned out to lower the score are taken back (deletion);
    gains of blocks not flipped yet are only computed again when they come first in the queue. After a pass over all
    blocks each is split in four, down to single values. It ends when a pass over those changes nothing.

    Where it differs: a block is flipped only if the score rises (the authors' code flips the first of each queue
    anyhow), and blocks live on the image itself, not on a fixed 256x256 grid. Only linf: the corners of the cube are
    what it searches.

    On a randomised defence each gain is the difference of means of `repeats` fresh answers with and without the flip.

    Args:
        queries: calls of the deployed score an image; peers give 10,000, at linf 0.05.
        block: side of the first blocks in pixels, a power of two; the paper takes 32 for ImageNet and 4 for CIFAR-10.
        batch: blocks in a mini-batch, 64 in the paper.
        repeats: answers averaged in a comparison, if the defence is randomised.
    """

    norms = ("linf",)

    def __init__(self, queries: int = 1000, block: int = 32, batch: int = 64, repeats: int = 1) -> None:
        super().__init__(queries, repeats)
        if block < 1 or block & (block - 1) or batch < 1:
            raise BadParameter(f"parsimonious[block={block},batch={batch}]: expected a power of two, and batch >= 1")
        self.block, self.batch = block, batch

    def _search(self, walk: Walk) -> Asking[None]:
        signs = torch.full_like(walk.x, -1.0)
        walk.image = _corner(walk, signs)
        yield from walk.ask()
        side = self.block
        while True:
            blocks = _split(walk.x, side)
            order = walk.numbers(len(blocks)).argsort().tolist()
            flipped = 0
            for start in range(0, len(order), self.batch):
                chosen = [blocks[i] for i in order[start : start + self.batch]]
                for sign in (1.0, -1.0):
                    flipped += yield from _greedy(walk, signs, chosen, sign)
            if side == 1 and not flipped:
                return
            side = max(1, side // 2)


def _greedy(walk: Walk, signs: torch.Tensor, blocks: list[Block], sign: float) -> Asking[int]:
    """Give that sign to those blocks that gain by it, the best first (lazy greedy); how many."""
    queue: list[tuple[float, int]] = []
    for k, block in enumerate(blocks):
        if signs[block][0, 0] != sign:
            rise = yield from walk.rise(_corner(walk, signs, block))
            heapq.heappush(queue, (-rise, k))
    # What was largest among random answers was lucky: it is asked again.
    flipped, known = 0, not walk.objective.g.randomised
    while queue:
        rise, k = -queue[0][0], queue[0][1]
        heapq.heappop(queue)
        if not known:
            rise = yield from walk.rise(_corner(walk, signs, blocks[k]))
            if queue and rise < -queue[0][0]:
                heapq.heappush(queue, (-rise, k))
                continue
        if rise <= 0:
            break
        signs[blocks[k]] = sign
        walk.move(_corner(walk, signs), rise)
        flipped, known = flipped + 1, False
    return flipped


def _corner(walk: Walk, signs: torch.Tensor, flip: Block | None = None) -> torch.Tensor:
    """The image with +-eps, one block flipped, in the box."""
    if flip is not None:
        signs = signs.clone()
        signs[flip] *= -1
    return (walk.x + walk.threat.eps * signs).clamp(0.0, 1.0)


def _split(x: torch.Tensor, side: int) -> list[Block]:
    """All blocks of an image (3,H,W)."""
    height, width = x.shape[1:]
    corners = itertools.product(range(3), range(0, height, side), range(0, width, side))
    return [Block(c, slice(i, i + side), slice(j, j + side)) for c, i, j in corners]
