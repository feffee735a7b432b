"""Median blur in front of the metric."""

from __future__ import annotations

import functools

import torch

from ...bench.api import Metric
from ...bench.images import straight_through
from ...bench.registry import Strength, register_defense
from .blur import gaussian
from .gradients import EXACT, SeveralGradients, check_between, check_blurred, check_kernel, wants_gradient, windows

LARGEST = 31
"""Largest side of a window: each pixel of it is one copy of the image in memory, 3 GB in all for 512 px."""


@register_defense("median-blur", strength=Strength("kernel", (3, 5, 7, 9, 11)))
class MedianBlur(SeveralGradients):
    """Median of the window around each pixel, in each channel.

    Borders are reflected without the edge, as for the Gaussian blur. The median is one of the window's pixels, so that
    its gradient is exact almost everywhere and goes to that pixel alone (to equal ones in equal parts): in photographs
    about a quarter of the pixels get none, in noise more than half. Xu et al. 2018 (arXiv
    1704.01155) use it against attacks on classifiers.

    Args:
        kernel: odd side of the window in pixels, 3 to 31; 3 as peers have it.
        surrogate: gradient that an adaptive attack uses: "exact", or "gaussian", that of the Gaussian blur of the same
            kernel, which reaches every pixel. `surrogates` gives both.

    The metric sees images of the same size.
    """

    gradients = (EXACT, "gaussian")
    # The slope jumps wherever two pixels of a window change places: too often for finite differences to follow.
    smooth = False

    def __init__(self, metric: Metric, kernel: int = 3, surrogate: str = EXACT) -> None:
        super().__init__(metric, "median-blur", surrogate)
        check_kernel("median-blur", kernel)
        check_between("median-blur", "kernel", kernel, 3, LARGEST)
        self.kernel = kernel

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The medians, same size."""
        check_blurred(x, self.kernel)
        with torch.no_grad():
            # One image at a time: each takes kernel^2 copies of itself.
            medians = torch.stack([_median(image, self.kernel) for image in x])
        return straight_through(medians, _selected(x, medians, self.kernel)) if wants_gradient(x) else medians

    def stand_in(self, x: torch.Tensor) -> torch.Tensor:
        """The Gaussian blur."""
        return gaussian(x, self.kernel)


def _median(x: torch.Tensor, kernel: int) -> torch.Tensor:
    """Medians of the windows of (3,H,W), by whole images of minima and maxima."""
    values = windows(x[None], kernel)
    for i, j, low, high in _network(kernel**2):
        first, second = values[i], values[j]
        if low:
            values[i] = torch.minimum(first, second)
        if high:
            values[j] = torch.maximum(first, second)
    return values[kernel**2 // 2][0]


def _selected(x: torch.Tensor, medians: torch.Tensor, kernel: int) -> torch.Tensor:
    """The medians as the mean of the pixels of their windows that equal them, which is differentiable."""
    total, count = torch.zeros_like(medians), torch.zeros_like(medians)
    for neighbour in windows(x, kernel):
        equal = (neighbour.detach() == medians).to(medians)
        total, count = total + equal * neighbour, count + equal
    return total / count


@functools.cache
def _network(size: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Comparators (i, j, whether the smaller is needed at i, the larger at j) that leave the median in the middle.

    Batcher's odd-even merge sort (AFIPS 1968; Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M) without
    what the middle does not depend on.
    """
    top = 1 << ((size - 1).bit_length() - 1)
    pairs = []
    block = top
    while block:
        farthest, reach, phase = top, block, 0
        while True:
            pairs += [(i, i + reach) for i in range(size - reach) if i & block == phase]
            if farthest == block:
                break
            reach, farthest, phase = farthest - block, farthest // 2, block
        block //= 2
    needed, kept = {size // 2}, []
    for i, j in reversed(pairs):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(kept))
