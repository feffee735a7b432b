"""Small denoising networks, cheap enough for the thousands of noisy copies that a certificate needs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F


class LightDenoiser(nn.Module):
    """A residual U-Net on pixel-unshuffled images, in the manner of FFDNet (Zhang et al., IEEE TIP 2018).

    Everything runs at half the resolution or below, on activations in channels-last memory order; the output is the
    input minus the estimated noise. Any size works: the image is mirrored to a multiple of 8 and the result is cut
    back. The network is blind to the noise level: it is trained for one. About 100 MMAC for 128x128 pixels.

    Args:
        width: channels at half resolution; twice and four times as many at a quarter and an eighth.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w2, w4 = 2 * width, 4 * width
        self.first = nn.Conv2d(3, width, 6, stride=2, padding=2)
        self.down1 = nn.Conv2d(width, w2, 3, stride=2, padding=1)
        self.enter = _convolutions(w2, 1)
        self.down2 = nn.Conv2d(w2, w4, 3, stride=2, padding=1)
        self.coarse = _convolutions(w4, 2)
        self.up2 = nn.Conv2d(w4, w2, 1)
        self.middle = _convolutions(w2, 2)
        self.up1 = nn.Conv2d(w2, width, 1)
        self.fine = _convolutions(width, 3)
        self.last = nn.Conv2d(width, 12, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Denoised images (B,3,H,W) of noisy ones; neither side is clamped to [0,1]."""
        height, width = x.shape[-2:]
        below, right = -height % 8, -width % 8
        x = x.contiguous(memory_format=torch.channels_last)
        noisy = x - 0.5
        if below or right:
            noisy = F.pad(noisy, (0, right, 0, below), mode="reflect" if min(height, width) > 8 else "replicate")
        half = _relu(self.first(noisy))
        quarter = _residual(_relu(self.down1(half)), self.enter)
        eighth = _residual(_relu(self.down2(quarter)), self.coarse)
        quarter = _residual(quarter + F.interpolate(self.up2(eighth), scale_factor=2.0), self.middle)
        half = _residual(half + F.interpolate(self.up1(quarter), scale_factor=2.0), self.fine)
        noise = _shuffle(self.last(half))
        return x - noise[..., :height, :width]


def _convolutions(width: int, number: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(number))


def _relu(fresh: torch.Tensor) -> torch.Tensor:
    """ReLU in the memory of a convolution's result, which nothing else needs: saves a pass over memory."""
    return F.relu(fresh, inplace=True)


def _residual(x: torch.Tensor, convolutions: Iterable[nn.Module]) -> torch.Tensor:
    for conv in convolutions:
        x = x + _relu(conv(x))
    return x


def _shuffle(x: torch.Tensor) -> torch.Tensor:
    """(B,12,H,W) to (B,3,2H,2W), the channels being (row, column, colour): F.pixel_shuffle is 10 times slower here."""
    batch, _, height, width = x.shape
    blocks = x.permute(0, 2, 3, 1).reshape(batch, height, width, 2, 2, 3).permute(0, 1, 3, 2, 4, 5)
    return blocks.reshape(batch, 2 * height, 2 * width, 3).permute(0, 3, 1, 2)
