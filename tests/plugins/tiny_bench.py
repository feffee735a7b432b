"""A data set in memory, and defences that misbehave: what the runner's tests are made of."""

from __future__ import annotations

import time

import torch
from robustiqa.bench import Dataset, Item, register_dataset, register_defense
from robustiqa.bench.errors import BadImage
from robustiqa.defenses.base import Purification


@register_dataset("noise")
class Noise(Dataset):
    """Random images; one may be unreadable, one too bright, one of another size."""

    truth_name = "made-up"

    def __init__(self, count: int = 12, broken: int = -1, bright: int = -1, large: int = -1) -> None:
        self.broken, self.bright, self.large = broken, bright, large
        self.items = [Item(f"image-{i}", f"photo-{i // 2}", float(i)) for i in range(count)]

    def load(self, index: int) -> torch.Tensor:
        """(3,32,32) in [0.2,0.8]."""
        if index == self.broken:
            raise BadImage(f"image-{index} is broken")
        size = 40 if index == self.large else 32
        x = 0.2 + 0.6 * torch.rand(3, size, size, generator=torch.Generator().manual_seed(index))
        return x * 0 + 0.9 if index == self.bright else x


@register_defense("slow")
class Slow(Purification):
    """The metric as it is, after a short sleep."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The image itself."""
        time.sleep(0.05)
        return x


@register_defense("raising")
class Raising(Purification):
    """A defence with a bug that shows on attacked images only."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The image, or a plain Python error under a gradient."""
        if x.requires_grad:
            raise RuntimeError("a bug in the defence")
        return x
