"""A quality network with tight interval bounds: its score over a whole l_inf ball of images is bounded in two passes.

Trained with interval bound propagation by `robustiqa train certified-metric --net ibp-iqa`.
"""

from __future__ import annotations

import torch
from torch import nn

from ..registry import register_metric
from .loading import load_weights

TRAINING = "robustiqa train certified-metric --net ibp-iqa"

# (output channels, kernel, stride) of the convolutions. None is padded: a frame would be an edge of its own.
_LAYERS = ((24, 5, 2), (32, 3, 2), (64, 3, 1))
_HIDDEN = 32


class IbpIQA(nn.Module):
    """Convolutions with ReLU, the mean of each map, and a small head: a plain sequence of layers with interval rules.

    Attributes:
        layers: the whole metric, images (B,3,H,W) to scores (B,1) on the 0-100 scale.
    """

    concurrent = True

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        before = 3
        for width, kernel, stride in _LAYERS:
            parts += [nn.Conv2d(before, width, kernel, stride), nn.ReLU()]
            before = width
        parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.layers = nn.Sequential(*parts, nn.Linear(before, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def n_features(self) -> int:
        """Number of pooled statistics that the head sees."""
        return _LAYERS[-1][0]

    @property
    def trunk(self) -> nn.Sequential:
        """The layers from images to pooled statistics (B, n_features)."""
        return nn.Sequential(*list(self.layers)[:-3])

    @property
    def head(self) -> nn.Sequential:
        """The layers from pooled statistics to scores (B,1)."""
        return nn.Sequential(*list(self.layers)[-3:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of images (B,3,H,W) in [0,1], about 0-100, larger = better."""
        return self.layers(x.contiguous(memory_format=torch.channels_last)).squeeze(1)


@register_metric("ibp-iqa", score_range=(0, 100), bounded=False, min_size=64)
def ibp_iqa(weights: str = "") -> IbpIQA:
    """A compact CNN trained for narrow interval bounds on its score under small l_inf changes.

    Args:
        weights: safetensors file of your own training run; empty means the shipped one.

    Raises:
        BadData: the file is missing, corrupt, or belongs to another network.
        BadParameter: the file is not a safetensors file.
    """
    return load_weights(IbpIQA(), weights, "ibp-iqa", TRAINING)
