"""The mirrored image in front of the metric."""

from __future__ import annotations

import torch

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.registry import register_defense
from ..base import Purification

_AXES = {"both": (2, 3), "horizontal": (3,), "vertical": (2,)}


@register_defense("flip")
class Flip(Purification):
    """The image mirrored, which costs an attack nothing if it knows of it; differentiable as it is.

    Among the simple purifications of arXiv 2404.06957 it did surprisingly well against attacks that did not know of it.

    Args:
        axes: "horizontal" swaps left and right, "vertical" top and bottom, "both" (as peers have it) turns the image by
            180 degrees.

    The metric sees images of the same size.
    """

    def __init__(self, metric: Metric, axes: str = "both") -> None:
        super().__init__(metric)
        if axes not in _AXES:
            raise BadParameter(f"flip[axes={axes}]: expected {' or '.join(_AXES)}")
        self.axes = _AXES[axes]

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The mirrored images."""
        return x.flip(self.axes)
