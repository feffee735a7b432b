"""What the eye does not see, and where it looks: thresholds and maps made from the image alone."""

from __future__ import annotations

import torch
from kornia.filters import gaussian_blur2d
from torch.nn import functional as F

from .perceptual import luma

_AROUND = [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 2, 0, 2, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]]
"""Weights of the luminance around a pixel (Chou and Li 1995)."""

_SLOPES = [
    [[0, 0, 0, 0, 0], [1, 3, 8, 3, 1], [0, 0, 0, 0, 0], [-1, -3, -8, -3, -1], [0, 0, 0, 0, 0]],
    [[0, 0, 1, 0, 0], [0, 8, 3, 0, 0], [1, 3, 0, -3, -1], [0, 0, -3, -8, 0], [0, 0, -1, 0, 0]],
    [[0, 0, 1, 0, 0], [0, 0, 3, 8, 0], [-1, -3, 0, 3, 1], [0, -8, -3, 0, 0], [0, 0, -1, 0, 0]],
    [[0, 1, 0, -1, 0], [0, 3, 0, -3, 0], [0, 8, 0, -8, 0], [0, 3, 0, -3, 0], [0, 1, 0, -1, 0]],
]
"""The four directions in which the slope of the luminance is taken (Chou and Li 1995)."""


def noticeable(x: torch.Tensor) -> torch.Tensor:
    """Just noticeable differences (B,1,H,W) of images (B,3,H,W) in [0,1], by their luma (Chou and Li 1995).

    The larger of what the luminance around a pixel hides and what the contrast there hides.
    """
    padded = F.pad(255 * luma(x), (2, 2, 2, 2), mode="replicate")
    around = F.conv2d(padded, x.new_tensor(_AROUND)[None, None] / 32)
    slopes = F.conv2d(padded, x.new_tensor(_SLOPES)[:, None] / 16).abs().amax(1, keepdim=True)
    contrast = slopes * (1e-4 * around + 0.115) + 0.5 - 0.01 * around
    dark = 17 * (1 - (around / 127).clamp(0.0, 1.0).sqrt()) + 3
    luminance = torch.where(around <= 127, dark, 3 / 128 * (around - 127) + 3)
    return torch.maximum(contrast, luminance) / 255


def salient(x: torch.Tensor) -> torch.Tensor:
    """Where (B,1,H,W) the spectral residual exceeds three times its mean (Hou and Zhang, CVPR 2007).

    As there at a scale of 64 pixels for the smaller side.
    """
    size = [round(64 * side / min(x.shape[2:])) for side in x.shape[2:]]
    spectrum = torch.fft.fft2(F.interpolate(luma(x), size, mode="bilinear", antialias=True, align_corners=False))
    log = spectrum.abs().clamp_min(1e-12).log()
    residual = log - F.avg_pool2d(F.pad(log, (1, 1, 1, 1), mode="circular"), 3, stride=1)
    energy = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle())).abs().square()
    smooth = gaussian_blur2d(energy, (15, 15), (2.5, 2.5))
    found = smooth > 3 * smooth.mean((1, 2, 3), keepdim=True)
    return F.interpolate(found.to(x), x.shape[2:], mode="nearest") > 0


def high_frequencies(x: torch.Tensor) -> torch.Tensor:
    """(B,1,H,W): the luma less its 3x3 mean, with standard deviation 1 (0 where nothing is left)."""
    y = luma(x)
    left = y - F.avg_pool2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return left / left.std((1, 2, 3), correction=0, keepdim=True).clamp_min(1e-6)
