"""Defences whose strength has a known effect on the linear metric, and some that fail where they are strong."""

from __future__ import annotations

import torch
from robustiqa.bench import Dataset, Item, Metric, register_dataset, register_defense
from robustiqa.bench.errors import BadImage, Incompatible
from robustiqa.bench.registry import Strength
from robustiqa.defenses.base import Purification

BAND = 8
"""Rows of each of the two signals of `banded`."""


@register_defense("faded", strength=Strength("share", (1.0, 0.5, 0.25)))
class Faded(Purification):
    """Less contrast, pure contraction: gain and range of a linear metric shrink alike, the order of scores stays."""

    def __init__(self, metric: Metric, share: float = 0.5, twice: bool = False) -> None:
        super().__init__(metric)
        self.share = share

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Closer to grey."""
        return 0.5 + self.share * (x - 0.5)


@register_defense("fragile", strength=Strength("share", (0.5, 0.25)))
class Fragile(Faded):
    """Cannot take any image at its strongest."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Closer to grey, or an error."""
        if self.share < 0.5:
            raise BadImage("too small for this strength")
        return super().purify(x)


@register_defense("picky", strength=Strength("share", (0.5, 0.25)))
class Picky(Faded):
    """Does not fit any metric at its strongest."""

    def __init__(self, metric: Metric, share: float = 0.5) -> None:
        if share < 0.5:
            raise Incompatible("no weights for this strength")
        super().__init__(metric, share)


@register_defense("windowed", strength=Strength("rows", (32, 16, 8)))
class Windowed(Purification):
    """Keeps some rows from row `top` on; the rest is grey, and no attack on it counts."""

    def __init__(self, metric: Metric, rows: int = 32, top: int = 0) -> None:
        super().__init__(metric)
        self.kept = slice(top, top + rows)

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Grey outside the rows."""
        kept = torch.full_like(x, 0.5)
        kept[:, :, self.kept] = x[:, :, self.kept]
        return kept


@register_defense("brittle", strength=Strength("rows", (32, 8)))
class Brittle(Windowed):
    """At its strongest fails under attack only, and on some images only: those whose first value is above 0.5."""

    def purify_surrogate(self, x: torch.Tensor) -> torch.Tensor:
        """As deployed, or an error."""
        if self.kept.stop == BAND and bool((x[:, 0, 0, 0] > 0.5).any()):
            raise BadImage("no gradient at this strength")
        return self.purify(x)


@register_defense("blinded", strength=Strength("rows", (32, 8)))
def blinded(metric: Metric, rows: int = 32) -> Windowed:
    """At its strongest keeps only the rows whose signal is not the quality."""
    return Windowed(metric, rows, BAND if rows == BAND else 0)


@register_dataset("banded")
class Banded(Dataset):
    """Grey images with two signals along the linear metric's weights: the truth in rows 0 to 7, a decoy in 8 to 15."""

    truth_name = "made-up"

    def __init__(self, count: int = 24) -> None:
        order = torch.linspace(-1, 1, count)
        self.levels = torch.stack([0.2 * order, 0.07 * order.roll(count // 8)])
        self.items = [Item(f"image-{i}", f"photo-{i // 2}", float(i)) for i in range(count)]
        weights = torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(7))
        self._signs = weights[:, :32, :32].sign()

    def load(self, index: int) -> torch.Tensor:
        """(3,32,32) in [0.3,0.7]."""
        x = torch.full((3, 32, 32), 0.5)
        for band, level in enumerate(self.levels[:, index]):
            rows = slice(BAND * band, BAND * (band + 1))
            x[:, rows] += level * self._signs[:, rows]
        return x
