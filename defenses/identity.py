"""No defence: the baseline that every other one is compared with."""

from __future__ import annotations

import torch

from ..bench.api import Metric
from ..bench.memory import wanted_format
from ..bench.registry import register_defense
from .base import Purification


@register_defense("none")
class NoDefense(Purification):
    """The metric as it is."""

    concurrent = True

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric)
        self.memory_format = wanted_format(metric)

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The image itself."""
        return x
