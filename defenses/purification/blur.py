"""Gaussian blur in front of the metric, and its opposite, unsharp masking."""

from __future__ import annotations

import torch

from ...bench.api import Metric
from ...bench.registry import Strength, register_defense
from ..base import Purification
from .gradients import check_between, check_blurred, check_kernel, into_box


def gaussian(x: torch.Tensor, kernel: int, sigma: float | None = None) -> torch.Tensor:
    """Images (B,3,H,W) blurred by kornia, borders reflected; sigma in pixels, none for OpenCV's rule."""
    from kornia.filters import gaussian_blur2d

    check_blurred(x, kernel)
    width = 0.3 * ((kernel - 1) / 2 - 1) + 0.8 if sigma is None else sigma
    return gaussian_blur2d(x, (kernel, kernel), (width, width))


@register_defense("gaussian-blur", strength=Strength("kernel", (3, 5, 7, 9, 11)))
class GaussianBlur(Purification):
    """Gaussian blur with reflected borders (kornia); differentiable as it is.

    Args:
        kernel: odd side of the kernel in pixels, at least 3.
        sigma: standard deviation in pixels, .001 to 1000; none for OpenCV's rule 0.3 ((kernel - 1)/2 - 1) + 0.8.
    """

    def __init__(self, metric: Metric, kernel: int = 5, sigma: float | None = None) -> None:
        super().__init__(metric)
        check_kernel("gaussian-blur", kernel)
        if sigma is not None:
            check_between("gaussian-blur", "sigma", sigma, 1e-3, 1e3)
        self.kernel, self.sigma = kernel, sigma

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The blurred images, same size."""
        return into_box(gaussian(x, self.kernel, self.sigma))


@register_defense("unsharp", strength=Strength("amount", (0.25, 0.5, 1.0, 2.0, 4.0)))
class Unsharp(Purification):
    """Unsharp masking: what a Gaussian blur takes away is added once more.

    `x + amount (x - blur(x))`, clamped to [0,1], in each channel; borders reflected (kornia's blur). The gradient is
    that of the formula, so that it is zero where the clamp binds. Used on its own and after a learned purification
    (arXiv 2404.06957).

    Args:
        kernel: odd side of the blur's kernel in pixels, at least 3; 5 as peers have it.
        sigma: the blur's standard deviation in pixels, .001 to 1000; 1 as peers have it.
        amount: weight of the detail, .001 to 1000; 1 as peers have it.

    The metric sees images of the same size.
    """

    def __init__(self, metric: Metric, kernel: int = 5, sigma: float = 1.0, amount: float = 1.0) -> None:
        super().__init__(metric)
        check_kernel("unsharp", kernel)
        for name, value in (("sigma", sigma), ("amount", amount)):
            check_between("unsharp", name, value, 1e-3, 1e3)
        self.kernel, self.sigma, self.amount = kernel, sigma, amount

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The sharpened images, same size."""
        return (x + self.amount * (x - gaussian(x, self.kernel, self.sigma))).clamp(0, 1)
