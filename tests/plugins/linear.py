"""A linear metric, where every attack's optimum and every certificate is known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from robustiqa.bench import register_denoiser, register_metric
from torch import nn


class Linear(nn.Module):
    """offset + scale * <w, x> with fixed weights w, cut to the image's size."""

    def __init__(self, scale: float = 1.0, offset: float = 3.0) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset
        weights = torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(7)) / 100
        self.register_buffer("w", weights)

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """The weights (3,H,W) for images of x's size."""
        return self.scale * self.get_buffer("w")[:, : x.shape[2], : x.shape[3]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return self.offset + (x * self.weights(x)).sum((1, 2, 3))


register_metric("linear")(Linear)
register_metric("linear-dmos", lower_better=True)(Linear)


@register_metric("bounded", score_range=(0, 1), bounded=True)
class Bounded(Linear):
    """A sigmoid of the linear metric: cannot leave [0,1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return super().forward(x).sigmoid()


@register_metric("bright-nan")
class BrightNan(Linear):
    """NaN for images brighter than 0.6 on average: a metric that breaks on some images only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return torch.where(x.mean((1, 2, 3)) > 0.6, torch.nan, super().forward(x))


@register_metric("two-outputs")
class TwoOutputs(Linear):
    """Returns (B,2): a wrong shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,2)."""
        return super().forward(x)[:, None].repeat(1, 2)


@register_metric("no-gradient")
class NoGradient(Linear):
    """A metric that leaves the graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return super().forward(x).detach()


@register_metric("wave")
class Wave(Linear):
    """sin of a steep linear function: noise turns it into a uniform phase, so its smoothed median does not move."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return torch.sin(100 * super().forward(x))


register_metric("ranged", score_range=(2, 4))(Linear)


@register_metric("clamped", score_range=(2, 4), bounded=True)
class Clamped(Linear):
    """The linear metric, cut off at the ends of a range that it promises to keep."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return super().forward(x).clamp(2.0, 4.0)


@register_metric("bowl")
class Bowl(nn.Module):
    """Minus the squared distance to an image of 0.53: its maximum lies inside a ball, not on it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return -(x - 0.53).square().sum((1, 2, 3))


@register_metric("counting")
class Counting(Linear):
    """Counts the images that it scores, in `seen`."""

    seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        self.seen += len(x)
        return super().forward(x)


@register_denoiser("box")
def box(sigma: float) -> nn.Module:
    """A 3x3 mean."""
    net = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    net.trained_sigma = 0.12  # type: ignore[assignment]
    return net


@register_denoiser("no-network")
def no_network(sigma: float) -> float:
    """Not a module."""
    return sigma


class _Bad(nn.Module):
    """What no denoiser may be."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W), with a fault."""
        if self.fault == "shrink":
            return x[..., ::2, ::2]
        return 0 * x + x.mean(0, keepdim=True) if self.fault == "batch-mean" else x + torch.rand_like(x)


def _faulty(fault: str) -> Callable[[float], nn.Module]:
    def factory(sigma: float) -> nn.Module:
        """A denoiser with a fault."""
        return _Bad(fault)

    return factory


for _fault in ("shrink", "batch-mean", "noisy"):
    register_denoiser(_fault)(_faulty(_fault))


@register_metric("nan-gradient")
class NanGradient(Linear):
    """The linear metric plus 0 * sqrt(0): finite scores, NaN gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return super().forward(x) + ((x - x.detach()).abs().sum((1, 2, 3))).sqrt()


register_metric("linear-64", min_size=64)(Linear)
register_metric("half-open", score_range=(0, float("inf")))(Linear)
register_metric("liar", score_range=(0, 1), bounded=True)(Linear)
register_metric("half-liar", score_range=(4, float("inf")), bounded=True)(Linear)
