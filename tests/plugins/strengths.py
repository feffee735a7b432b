"""A defence whose strength has a known effect on a linear metric, and one that fails where it is strong."""

from __future__ import annotations

import torch
from robustiqa.bench import Metric, register_defense
from robustiqa.bench.errors import BadImage
from robustiqa.bench.registry import Strength
from robustiqa.defenses.base import Purification


@register_defense("faded", strength=Strength("share", (1.0, 0.5, 0.25)))
class Faded(Purification):
    """Less contrast: what a linear metric gains shrinks by the same share, and the order of scores stays."""

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
