"""What the purifications of pixels share: a choice of gradients, the box, and the windows of a kernel."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.images import check_size, straight_through
from ..base import Purification

EXACT = "exact"
"""Name of a transform's own gradient."""


class SeveralGradients(Purification):
    """A purification that an attack may follow along several gradients (BPDA, Athalye et al. 2018, arXiv 1802.00420).

    Attributes:
        gradients: their names, the default first; "exact" is the one of `purify` itself.

    Args:
        metric: the metric inside.
        name: of the plug-in, for errors.
        surrogate: the gradient of `surrogate`; `surrogates` gives all of them.
    """

    gradients: ClassVar[tuple[str, ...]]

    def __init__(self, metric: Metric, name: str, surrogate: str) -> None:
        super().__init__(metric)
        if surrogate not in self.gradients:
            raise BadParameter(f"{name}[surrogate={surrogate}]: expected {' or '.join(self.gradients)}")
        self._follow(surrogate)

    def _follow(self, gradient: str) -> Self:
        self.gradient = gradient
        self.smooth = gradient == EXACT and type(self).smooth
        return self

    @abstractmethod
    def stand_in(self, x: torch.Tensor) -> torch.Tensor:
        """What has the gradient called `self.gradient`, if that is not the exact one; of any values."""

    def purify_surrogate(self, x: torch.Tensor) -> torch.Tensor:
        """The values of `purify`, with the gradient called `self.gradient`."""
        if self.gradient == EXACT:
            return self.purify(x)
        with torch.no_grad():
            value = self.purify(x)
        return straight_through(value, self.stand_in(x))

    def surrogates(self) -> Sequence[Self]:
        """Itself, and the same purification with each of the other gradients."""
        others = [name for name in self.gradients if name != self.gradient]
        return [self, *(copy.copy(self)._follow(name) for name in others)]


def into_box(y: torch.Tensor) -> torch.Tensor:
    """Clamp to [0,1] what rounding errors took out of it, with the gradient of no clamp.

    Of a mean of white pixels, 1 + 1e-7 in float32, the clamp's own gradient would be zero.
    """
    return straight_through(y.clamp(0, 1), y)


def wants_gradient(x: torch.Tensor) -> bool:
    """Whether autograd records what is done with `x`."""
    return torch.is_grad_enabled() and x.requires_grad


def check_between(name: str, parameter: str, value: float, low: float, high: float) -> None:
    """Raise `BadParameter` for a number outside [low,high], or NaN: beyond, float32 no longer tells what is meant."""
    if not low <= value <= high:
        raise BadParameter(f"{name}[{parameter}={value}]: expected a number from {low:g} to {high:g}")


def check_kernel(name: str, kernel: int) -> None:
    """Raise `BadParameter` unless `kernel` is an odd side of at least 3 px; `name` is that of the plug-in."""
    if kernel < 3 or kernel % 2 == 0:
        raise BadParameter(f"{name}[kernel={kernel}]: expected an odd number of at least 3")


def check_blurred(x: torch.Tensor, kernel: int) -> None:
    """Raise `BadImage` for images (B,3,H,W) too small to reflect their borders for a kernel of this side."""
    check_size(x.shape[2], x.shape[3], kernel // 2 + 1, f"an image for a blur kernel of {kernel} px")


def windows(x: torch.Tensor, kernel: int) -> list[torch.Tensor]:
    """The kernel^2 neighbours of each pixel, row by row, as views (...,H,W); borders reflected without the edge."""
    reach = kernel // 2
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (reach, reach, reach, reach), mode="reflect")
    return [padded[..., i : i + height, j : j + width] for i in range(kernel) for j in range(kernel)]
