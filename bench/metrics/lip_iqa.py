"""A quality network with a known Lipschitz constant: no image within a distance eps moves its score by more than L eps.

Trained with orthogonal layers by `robustiqa train certified-metric --net lip-iqa`, shipped as plain convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import BadParameter
from ..lipschitz import conv_norm_bound, relu_head_bound
from ..registry import register_metric
from .loading import load_weights

TRAINING = "robustiqa train certified-metric --net lip-iqa"

_WIDTHS = (16, 48, 96)  # channels after each halving of the resolution
_HIDDEN = 64
_REDUCTION = 2 ** len(_WIDTHS)

MakeConv = Callable[[int, int, int], nn.Conv2d]


def _plain_conv(before: int, after: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2)


class LipIQA(nn.Module):
    """Convolutions at three scales, their maps pooled to means and standard deviations, and a small head.

    Everything between the layers is 1-Lipschitz: resolution is halved by moving pixels into channels, the activation
    orders pairs of channels, and the pair (mean, standard deviation) over P positions is 1/sqrt(P)-Lipschitz, because
    a map's mean and its rest are orthogonal. So the norms of the layers alone decide the constant of the whole.

    Args:
        conv: makes a convolution of (channels in, channels out, odd kernel) with zero padding that keeps the size.
    """

    concurrent = True

    def __init__(self, conv: MakeConv = _plain_conv) -> None:
        super().__init__()
        before = 3
        scales: list[nn.ModuleList] = []
        for width in _WIDTHS:
            scales.append(nn.ModuleList([conv(4 * before, width, 3 if before == 3 else 1), conv(width, width, 3)]))
            before = width
        self.scales = nn.ModuleList(scales)
        self.hidden = nn.Linear(self.n_features, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, 1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def n_features(self) -> int:
        """Number of pooled statistics that the head sees."""
        return 2 * sum(_WIDTHS)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled statistics of images (B,3,H,W) in [0,1]: (B, n_features); cuts to a multiple of 8."""
        height, width = (side // _REDUCTION * _REDUCTION for side in x.shape[-2:])
        top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
        # Centred, so that the convolutions' zero padding is grey and not a black frame.
        x = x[..., top : top + height, left : left + width] - 0.5
        pooled: list[torch.Tensor] = []
        for i, convs in enumerate(self.scales):
            assert isinstance(convs, nn.ModuleList)
            x = _halved(x)
            for layer in convs:
                x = _folded(layer(x))
            pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
            mean = pixels.mean(1)
            deviation = torch.linalg.vector_norm(pixels - mean[:, None], dim=1) / math.sqrt(pixels.shape[1])
            # A finer scale has more positions, so its statistics may be stretched at no cost to the constant.
            pooled += [2 ** (len(_WIDTHS) - 1 - i) * statistic for statistic in (mean, deviation)]
        return torch.cat(pooled, dim=1)

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of pooled statistics (B, n_features)."""
        return self.out(F.relu(self.hidden(features))).squeeze(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of images (B,3,H,W) in [0,1], about 0-100, larger = better."""
        return self.score(self.features(x))

    def lipschitz(self, height: int, width: int) -> float:
        """Upper bound on |g(x')-g(x)| / |x'-x|_2 over all inputs of a size, in points per unit of l2 distance.

        Computed from the weights at hand, for exact arithmetic: the float32 score adds rounding of some 1e-3 points.

        Raises:
            BadParameter: a side has fewer pixels than one cell of the coarsest scale.
        """
        positions = (height // _REDUCTION) * (width // _REDUCTION)
        if positions == 0:
            raise BadParameter(f"size {height}x{width}: expected at least {_REDUCTION} pixels a side")
        beyond = 0.0
        # From the coarsest scale up to the pixels: a change reaches the statistics of a scale and the scales below it.
        for convs in reversed(self.scales):
            assert isinstance(convs, nn.ModuleList)
            norm = math.prod(conv_norm_bound(layer.weight) for layer in convs if isinstance(layer, nn.Conv2d))
            beyond = norm * math.sqrt(1.0 + beyond**2)
        return relu_head_bound(self.hidden.weight, self.out.weight) * beyond / math.sqrt(positions)


def _halved(x: torch.Tensor) -> torch.Tensor:
    """(B,C,H,W) to (B,4C,H/2,W/2): `pixel_unshuffle` for channels-last memory, with another order of channels."""
    batch, channels, height, width = x.shape
    cells = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
    return cells.reshape(batch, height // 2, width // 2, 4 * channels).permute(0, 3, 1, 2)


def _folded(x: torch.Tensor) -> torch.Tensor:
    """The absolute value of the second half of the channels.

    Up to a rotation of pairs, which the layers around it can learn, this is sorting each pair (Anil et al., ICML 2019).
    """
    first, second = x.chunk(2, dim=1)
    return torch.cat([first, second.abs()], dim=1)


@register_metric("lip-iqa", score_range=(0, 100), bounded=False, min_size=64)
def lip_iqa(weights: str = "") -> LipIQA:
    """A compact 1-Lipschitz-layer CNN whose largest score change is known for every l2 distance.

    Args:
        weights: safetensors file of your own training run; empty means the shipped one.

    Raises:
        BadData: the file is missing, corrupt, or belongs to another network.
        BadParameter: the file is not a safetensors file.
    """
    return load_weights(LipIQA(), weights, "lip-iqa", TRAINING)
