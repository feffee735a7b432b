"""Total-variation denoising in front of the metric."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from ...bench.api import Metric
from ...bench.registry import Strength, register_defense
from .gradients import EXACT, SeveralGradients, check_between, into_box, wants_gradient

STEP = 0.25
"""Step of the dual ascent in two dimensions, as in scikit-image; Chambolle 2004 proves convergence up to 1/8."""
KEPT = 10
"""Iterations whose intermediate images are in memory at a time, for a gradient."""


@register_defense("total-variation", strength=Strength("weight", (0.02, 0.05, 0.1, 0.2, 0.4)))
class TotalVariation(SeveralGradients):
    """Total-variation denoising: flat patches with sharp edges between them, channel by channel.

    An approximate minimiser u of `sum |grad u| + |u - x|^2 / (2 weight)` (Rudin, Osher and Fatemi 1992) by a fixed
    number of iterations of Chambolle 2004 (J. Math. Imaging and Vision 20, section 3), in torch. The values are those
    of scikit-image's `denoise_tv_chambolle` without its stopping rule, so that images do not differ in the number of
    iterations. The gradient is that of the iterations.

    Args:
        weight: .001 to 1000; larger is smoother. 0.1 as in scikit-image.
        iterations: 2 to 10000; more come nearer to the minimiser.
        surrogate: gradient that an adaptive attack uses: "exact" or "identity". `surrogates` gives both.

    The metric sees images of the same size.
    """

    gradients = (EXACT, "identity")

    def __init__(self, metric: Metric, weight: float = 0.1, iterations: int = 50, surrogate: str = EXACT) -> None:
        super().__init__(metric, "total-variation", surrogate)
        check_between("total-variation", "weight", weight, 1e-3, 1e3)
        check_between("total-variation", "iterations", iterations, 2, 10_000)
        self.weight, self.iterations = weight, iterations

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The denoised images, same size."""
        rows, columns = torch.zeros_like(x), torch.zeros_like(x)
        left = self.iterations - 1
        while left:
            count = min(KEPT, left)
            if wants_gradient(x):
                options = {"use_reentrant": False, "preserve_rng_state": False}
                rows, columns = checkpoint(self._iterate, x, rows, columns, count, **options)  # type: ignore[misc]
            else:
                rows, columns = self._iterate(x, rows, columns, count)
            left -= count
        return into_box(x - _divergence(rows, columns))

    def _iterate(
        self, x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Iterations of the dual field (rows, columns), each (B,3,H,W), without change in its last row or column."""
        for _ in range(count):
            u = x - _divergence(rows, columns)
            down, right = torch.zeros_like(u), torch.zeros_like(u)
            down[..., :-1, :] = u[..., 1:, :] - u[..., :-1, :]
            right[..., :, :-1] = u[..., :, 1:] - u[..., :, :-1]
            # The square root has no derivative at 0; the smallest length is lost beside 1.
            length = (down.square() + right.square()).clamp_min(1e-20).sqrt()
            shrink = 1 + (STEP / self.weight) * length
            rows, columns = (rows - STEP * down) / shrink, (columns - STEP * right) / shrink
        return rows, columns

    def stand_in(self, x: torch.Tensor) -> torch.Tensor:
        """The image."""
        return x


def _divergence(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Backward differences of a field (rows, columns) that is zero outside the image: (B,3,H,W)."""
    total = rows + columns
    total[..., 1:, :] -= rows[..., :-1, :]
    total[..., :, 1:] -= columns[..., :, :-1]
    return total
