"""Bilateral blur in front of the metric."""

from __future__ import annotations

import torch

from ...bench.api import Metric
from ...bench.registry import Strength, register_defense
from ..base import Purification
from .gradients import check_between, check_blurred, check_kernel, into_box, windows


@register_defense("bilateral-blur", strength=Strength("sigma_color", (0.02, 0.05, 0.1, 0.2, 0.4)))
class BilateralBlur(Purification):
    """Bilateral filter: a Gaussian blur that leaves out what differs in colour, so that it keeps edges.

    Tomasi and Manduchi 1998 (ICCV). As in OpenCV and kornia, and not in CIE-Lab as in the paper, two colours are as far
    apart as the sum of the absolute differences of their channels; borders are reflected. The values are kornia's to
    1e-6; kornia itself adds in another order under a gradient than without one. Differentiable as it is.

    Args:
        kernel: odd side of the window in pixels, at least 3.
        sigma_color: standard deviation in colour, .001 to 1000 for pixels in [0,1]; OpenCV's unit is 255 times smaller.
        sigma_space: standard deviation in pixels, .001 to 1000.

    The metric sees images of the same size.
    """

    def __init__(self, metric: Metric, kernel: int = 5, sigma_color: float = 0.1, sigma_space: float = 1.0) -> None:
        super().__init__(metric)
        check_kernel("bilateral-blur", kernel)
        for name, value in (("sigma_color", sigma_color), ("sigma_space", sigma_space)):
            check_between("bilateral-blur", name, value, 1e-3, 1e3)
        self.kernel, self.sigma_color, self.sigma_space = kernel, sigma_color, sigma_space

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The blurred images, same size."""
        check_blurred(x, self.kernel)
        total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
        for tap, neighbour in enumerate(windows(x, self.kernel)):
            row, column = (side - self.kernel // 2 for side in divmod(tap, self.kernel))
            near = -(row**2 + column**2) / (2 * self.sigma_space**2)
            apart = (neighbour - x).abs().sum(1, keepdim=True)
            weight = (near - apart.square() / (2 * self.sigma_color**2)).exp()
            total, weights = total + weight * neighbour, weights + weight
        return into_box(total / weights)
