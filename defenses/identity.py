"""No defence: the baseline that every other one is compared with."""

from __future__ import annotations

import torch

from ..bench.registry import register_defense
from .base import Purification


@register_defense("none")
class NoDefense(Purification):
    """The metric as it is."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The image itself."""
        return x
