"""Batches that fit into the memory, and that keep a device busy."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch

from ...bench.faults import fault_of
from ...bench.memory import joined
from .noise import CertificationNoise

WORTH = 1.05
"""How much more throughput a batch twice as large has to give to be taken."""

LARGEST = 256
"""Largest batch that is tried, in units of what is taken on a CPU."""


class Batches:
    """A score that halves its batches where the memory does not suffice, and remembers what fitted.

    Args:
        score: (b,3,H,W) to (b,).
    """

    def __init__(self, score: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.score, self._limit = score, 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Scores (b,); an error that is not of the memory, or that one image alone has, is raised."""
        while True:
            size = min(self._limit or len(images), len(images))
            try:
                return joined([self.score(part) for part in images.split(size)])
            except (RuntimeError, MemoryError) as error:
                if fault_of(error) != "memory" or size == 1:
                    raise
            self._limit = (size + 1) // 2  # outside the handler, whose traceback holds what filled the memory
            gc.collect()
            if images.is_cuda:
                torch.cuda.empty_cache()

    def most(self, noise: CertificationNoise, sigma: float, pixels: int) -> int:
        """Images in a batch: on a CPU a fixed number of pixels; on a GPU twice that, again and again, while it pays.

        On a CPU larger batches only leave its caches, and a fixed size gives the same rounding on every machine. A GPU
        idles on them: there a short probe decides.

        Args:
            noise: images and noise; it stays where it is.
            sigma: noise level.
            pixels: pixels in a batch on a CPU.
        """
        least = max(1, pixels // noise.pixels)
        if noise.device.type != "cuda":
            return least
        image = noise.noisy(noise.first([0]), slice(1), 0, sigma)
        return grown(least, lambda b: self._rate(image.expand(b, -1, -1, -1).contiguous()), LARGEST * least)

    def _rate(self, images: torch.Tensor) -> float:
        """Images a second, 0 where they do not fit into the memory together."""
        before = self._limit
        self(images)
        torch.cuda.synchronize(images.device)
        begin = time.perf_counter()
        self(images)
        torch.cuda.synchronize(images.device)
        took = time.perf_counter() - begin
        shrunk = self._limit != before
        return 0.0 if shrunk else len(images) / took


def grown(least: int, rate: Callable[[int], float], largest: int) -> int:
    """The batch at which doubling stops to pay: the smallest b with rate(2 b) < WORTH * rate(b).

    Args:
        least: where to begin.
        rate: throughput of a batch.
        largest: where to end.
    """
    batch, best = least, rate(least)
    while 2 * batch <= largest and (faster := rate(2 * batch)) >= WORTH * best:
        batch, best = 2 * batch, faster
    return batch
