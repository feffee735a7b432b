"""Gaussian blur in front of the metric."""

from __future__ import annotations

import torch

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.images import check_size
from ...bench.registry import Strength, register_defense
from ..base import Purification


@register_defense("gaussian-blur", strength=Strength("kernel", (3, 5, 7, 9, 11)))
class GaussianBlur(Purification):
    """Gaussian blur with reflected borders (kornia); differentiable as it is.

    Args:
        kernel: odd side of the kernel in pixels, at least 3.
        sigma: standard deviation in pixels; none for OpenCV's rule 0.3 ((kernel - 1)/2 - 1) + 0.8.
    """

    def __init__(self, metric: Metric, kernel: int = 5, sigma: float | None = None) -> None:
        super().__init__(metric)
        if kernel < 3 or kernel % 2 == 0:
            raise BadParameter(f"gaussian-blur[kernel={kernel}]: expected an odd number of at least 3")
        if sigma is not None and sigma <= 0:
            raise BadParameter(f"gaussian-blur[sigma={sigma}]: expected a positive number of pixels")
        self.kernel = kernel
        self.sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8 if sigma is None else sigma

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The blurred images, same size."""
        from kornia.filters import gaussian_blur2d

        check_size(x.shape[2], x.shape[3], self.kernel // 2 + 1, f"an image for a blur kernel of {self.kernel} px")
        return gaussian_blur2d(x, (self.kernel, self.kernel), (self.sigma, self.sigma))
