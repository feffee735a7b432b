"""The network of a trained attack: from an image, or from fixed noise, to a perturbation within a budget."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..bench.api import Threat
from .projection import stretched


class PerturbationGenerator(nn.Module):
    """The U-Net of Shumitskaya et al. (arXiv 2305.15544, authors' code), three of its eight levels and narrower.

    4x4 convolutions of stride 2 with instance norm on the way down, transposed ones on the way up, skips between them;
    no dropout. In linf the last layer is tanh times eps, as theirs; in l2 its output is scaled to length eps. Any size
    works: the image is mirrored to a multiple of 8, and the result is cut back.

    Args:
        threat: norm and budget.
        width: channels at half resolution, doubled at each further level; theirs has 64.
    """

    def __init__(self, threat: Threat, width: int = 16) -> None:
        super().__init__()
        self.threat = threat
        w2, w4 = 2 * width, 4 * width
        # Every convolution of the way up, but for the first, also sees the level that it returns to.
        down, up = ((3, width), (width, w2), (w2, w4)), ((w4, w2), (w4, width), (w2, 3))
        self.down = nn.ModuleList(nn.Conv2d(*channels, 4, stride=2, padding=1) for channels in down)
        self.up = nn.ModuleList(nn.ConvTranspose2d(*channels, 4, stride=2, padding=1) for channels in up)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Perturbations (B,3,H,W) for images (B,3,H,W) in [0,1]."""
        raw = self.output(x)
        return self.threat.eps * raw.tanh() if self.threat.norm == "linf" else stretched(raw, self.threat)

    def output(self, x: torch.Tensor) -> torch.Tensor:
        """What the last convolution returns, (B,3,H,W)."""
        height, width = x.shape[-2:]
        mode = "reflect" if min(height, width) >= 8 else "replicate"
        x = F.pad(x - 0.5, (0, -width % 8, 0, -height % 8), mode=mode)
        x = x.contiguous(memory_format=torch.channels_last)
        first = self.down[0](x)
        second = _normalised(self.down[1](F.leaky_relu(first, 0.2)))
        third = _normalised(self.down[2](F.leaky_relu(second, 0.2)))
        h = _normalised(self.up[0](F.relu(third)))
        h = _normalised(self.up[1](F.relu(torch.cat([h, second], dim=1))))
        return self.up[2](F.relu(torch.cat([h, first], dim=1)))[..., :height, :width]


def initialise_generator(net: nn.Module, seed: int) -> None:
    """Normal weights of standard deviation .02 (Radford et al. 2016), which leave tanh far from saturation; no bias."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02, generator=generator)
        else:
            nn.init.zeros_(parameter)


def _normalised(x: torch.Tensor) -> torch.Tensor:
    """Instance norm (B,C,H,W); torch's own refuses maps of a single value."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * torch.rsqrt((x - mean).square().mean((2, 3), keepdim=True) + 1e-5)
