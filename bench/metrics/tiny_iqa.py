"""The embedded metric: a compact fully convolutional quality network, trained by `robustiqa train metric`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..registry import register_metric
from .loading import FOLDER, load_weights

WEIGHTS = FOLDER / "tiny-iqa.safetensors"
"""The shipped weights; their model card is the `.md` beside them."""

# (output channels, kernel, stride) of the convolutions; the statistics after those in _POOLED reach the head.
_LAYERS = ((16, 6, 2), (32, 3, 2), (32, 3, 1), (64, 3, 2), (64, 3, 1), (128, 3, 2), (128, 3, 1))
_POOLED = (2, 4, 6)
_HIDDEN = 64


class TinyIQA(nn.Module):
    """Seven convolutions whose feature maps are pooled to means and standard deviations at three scales.

    Activations run in channels-last memory order, which halves the time on a CPU. The output is a linear layer on the
    0-100 scale of CLIVE's MOS, without a squashing function: it has a gradient everywhere and may leave the scale.
    """

    concurrent = True

    def __init__(self) -> None:
        super().__init__()
        channels = [3, *(width for width, _, _ in _LAYERS)]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, kernel, stride, padding=(kernel - 1) // 2)
            for before, (width, kernel, stride) in zip(channels, _LAYERS, strict=False)
        )
        self.hidden = nn.Linear(self.n_features, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, 1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def n_features(self) -> int:
        """Number of pooled statistics that the head sees."""
        return 2 * sum(_LAYERS[i][0] for i in _POOLED)

    def features(self, x: torch.Tensor, norms: Sequence[nn.Module] | None = None) -> torch.Tensor:
        """Pooled statistics of images (B,3,H,W) in [0,1]: (B, n_features).

        Args:
            x: the images; an odd side is extended by repeating its last row or column.
            norms: one module for each convolution, applied before the ReLU; training passes batch norms, which are
                folded into the convolutions on export.
        """
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        # Centred, so that the convolutions' zero padding is grey and not a black frame.
        x = x.contiguous(memory_format=torch.channels_last) - 0.5
        pooled: list[torch.Tensor] = []
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = F.relu(norms[i](x) if norms is not None else x, inplace=True)
            if i in _POOLED:
                # Two plain means over a view of the same memory: torch.var_mean takes 15 times as long here.
                pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
                mean, square = pixels.mean(1), pixels.square().mean(1)
                # The constant bounds the square root's slope for channels that are flat.
                pooled += [mean, torch.sqrt((square - mean.square()).clamp_min(0) + 1e-4)]
        return torch.cat(pooled, dim=1)

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of pooled statistics (B, n_features)."""
        # Weights start near zero, so the offset and the factor put an untrained network on the scale.
        return 50.0 + 20.0 * self.out(F.relu(self.hidden(features))).squeeze(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of images (B,3,H,W) in [0,1], about 0-100, larger = better."""
        return self.score(self.features(x))


@register_metric("tiny-iqa", score_range=(0, 100), bounded=False, min_size=64)
def tiny_iqa(weights: str = "") -> TinyIQA:
    """The embedded compact CNN, trained on synthetic distortions and on CLIVE's human scores.

    Args:
        weights: safetensors file of your own training run; empty means the shipped one.

    Raises:
        BadData: the file is missing, corrupt, or belongs to another network.
        BadParameter: the file is not a safetensors file.
    """
    return load_weights(TinyIQA(), weights, "tiny-iqa", "robustiqa train metric")
