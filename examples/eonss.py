"""EONSS as a plug-in: a published metric of the field, with weights that you bring yourself.

Z. Wang, S. Athar, Z. Wang, "Blind Quality Assessment of Multiply Distorted Images Using Deep Neural Networks", ICIAR
2019. The network is written anew from its description; the authors' weights are `EONSS_model.pt` of
https://github.com/icbcbicc/EONSS-demo (BSD-2-Clause), which are not part of this repository.

    robustiqa score photo.png --plugin examples/eonss.py --metric "eonss[weights=EONSS_model.pt]"

It takes noise for what it is: behind smoothing scores are low without a denoiser of its own, which is trained by

    robustiqa train denoiser --plugin examples/eonss.py --metric "eonss[weights=EONSS_model.pt]" --data FOLDER
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from robustiqa.bench import register_metric
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.foreign_weights import load_foreign
from torch import nn
from torch.nn import functional as F

PATCH = 235
"""Side of a patch in pixels: the only size that the network takes."""

STRIDE = 128
"""Distance of neighbouring patches in pixels."""

LEAST_BETA = 1e-12
"""Smallest offset of a GDN's denominator: below it, the cube of 1/sqrt(.) in the gradient could leave float32."""


# Patches in one pass. On a CPU more are slower: the memory of larger tensors is fetched from the system each time.
_AT_ONCE_CPU, _AT_ONCE = 16, 256


class GDN(nn.Module):
    """Generalised divisive normalisation: y_j = x_j / sqrt(beta_j + sum_i gamma_ij x_i^2) (Balle et al., ICLR 2016).

    Args:
        channels: C.

    Attributes:
        beta: (C,), positive.
        gamma: (C,C), not negative: so the denominator is positive for every input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(0.1 * torch.eye(channels))
        self.beta = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised maps (B,C,H,W) of maps (B,C,H,W)."""
        # The sum over channels is a 1x1 convolution; its weight has the output channel first.
        return x * torch.rsqrt(F.conv2d(x * x, self.gamma.t()[:, :, None, None], self.beta))


class EONSS(nn.Module):
    """Four convolutions with GDN and max-pooling, and two layers on the 64 numbers that are left of a patch.

    Images are cut into patches, whose scores are averaged: every image on its own, without randomness. The names of the
    layers are those of the authors' weights file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gdn1 = nn.Conv2d(3, 8, 5, stride=2, padding=2), GDN(8)
        self.conv2, self.gdn2 = nn.Conv2d(8, 16, 5, stride=2, padding=2), GDN(16)
        self.conv3, self.gdn3 = nn.Conv2d(16, 32, 5, stride=2, padding=2), GDN(32)
        self.conv4, self.gdn4 = nn.Conv2d(32, 64, 3), GDN(64)
        self.st2_fc1, self.st2_gdn1 = nn.Conv2d(64, 256, 1), GDN(256)
        self.st2_fc2 = nn.Conv2d(256, 1, 1)
        # A quarter less time on a CPU than the default memory order.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def score_patches(self, patches: torch.Tensor) -> torch.Tensor:
        """Scores (P,) of patches (P,3,235,235) in [0,1]."""
        y = patches.contiguous(memory_format=torch.channels_last)
        for conv, gdn in (
            (self.conv1, self.gdn1),
            (self.conv2, self.gdn2),
            (self.conv3, self.gdn3),
            (self.conv4, self.gdn4),
        ):
            y = F.max_pool2d(gdn(conv(y)), 2)
        return self.st2_fc2(self.st2_gdn1(self.st2_fc1(y))).flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of images (B,3,H,W) in [0,1], H and W at least 235; larger = better."""
        at_once = _AT_ONCE_CPU if x.device.type == "cpu" else _AT_ONCE
        return torch.cat([self._score_few(images, at_once) for images in x.split(at_once)])

    def _score_few(self, x: torch.Tensor, at_once: int) -> torch.Tensor:
        """Scores (B,) of images (B,3,H,W), B being `at_once` at most, with about that many patches in a pass."""
        places = corners(*x.shape[-2:])
        step = at_once // len(x)
        scores = [self.score_patches(cut(x, places[k : k + step])) for k in range(0, len(places), step)]
        # The mean is over the patches of one image: they lie len(x) apart.
        return torch.cat(scores).reshape(len(places), len(x)).mean(0)


def corners(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns where patches start: 0, 128, 256, ... as long as they are whole.

    A rest at the right and at the bottom is not seen.
    """
    rows, columns = range(0, height - PATCH + 1, STRIDE), range(0, width - PATCH + 1, STRIDE)
    return [(i, j) for i in rows for j in columns]


def cut(x: torch.Tensor, places: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Patches (P*B,3,235,235) of images (B,3,H,W): the first place of all images, then the second of all, and so on."""
    # Slices and not Tensor.unfold, whose backward pass is slower.
    return torch.cat([x[:, :, i : i + PATCH, j : j + PATCH] for i, j in places])


@register_metric("eonss", score_range=(-5, 25), bounded=False, min_size=PATCH)
def eonss(weights: str) -> EONSS:
    """EONSS (Wang et al., ICIAR 2019) with weights of your own, larger = better.

    The range -5 to 25 is nominal: clean photographs score about 23.6, JPEG of quality 5 about 1, noise of standard
    deviation 60 about -4. Nothing keeps a score inside.

    Args:
        weights: the authors' `EONSS_model.pt`, or a file of that layout.

    Raises:
        BadData: the file is missing, corrupt, or belongs to another network.
        BadParameter: no file is given.
    """
    if not weights:
        raise BadParameter("eonss[weights=]: expected the path of EONSS_model.pt, e.g. eonss[weights=EONSS_model.pt]")
    net = load_foreign(EONSS(), weights)
    for name, value in net.named_parameters():
        least = {"beta": LEAST_BETA, "gamma": 0.0}.get(name.rsplit(".", 1)[-1], -torch.inf)
        if not bool((value >= least).all()):
            raise BadData(f"weights {weights!r} are not those of EONSS ({name!r} holds values too small for a "
                          "denominator): give the path of EONSS_model.pt")  # fmt: skip
    return net
