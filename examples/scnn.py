"""S-CNN of DB-CNN as a plug-in: a published network of the field that gives no score, with a head of ours.

W. Zhang, K. Ma, J. Yan, D. Deng, Z. Wang, "Blind Image Quality Assessment Using a Deep Bilinear Convolutional Neural
Network", IEEE TCSVT 30(1), 2020. S-CNN is the half of DB-CNN that knows synthetic distortions: it was trained to tell
39 pairs of distortion and level apart. The network is written anew from its description; the authors' weights are
`scnn.pkl` of https://github.com/zwx8981/DBCNN-PyTorch (MIT), which are not part of this repository. The head, a ridge
regression from its statistics to CLIVE's MOS, is: `scnn_head.safetensors`, see `scnn_head.md`, by `fit_scnn_head.py`.

    robustiqa score photo.png --plugin examples/scnn.py --metric "scnn[weights=scnn.pkl]"
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from robustiqa.bench import register_metric
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.foreign_weights import load_foreign
from torch import nn

HEAD = Path(__file__).with_name("scnn_head.safetensors")
HEAD_SHA256 = "106c18ecdb5309fc0066845af0ab6c5c55df1fc8c2a4c6a58d56b8d5982feb2c"
"""Digest of the head that belongs to this file: so a result's id, which covers this file, covers the head too."""

# (output channels, stride) of the 3x3 convolutions.
_LAYERS = ((48, 1), (48, 2), (64, 1), (64, 2), (64, 1), (64, 2), (128, 1), (128, 1), (128, 2))
_WIDTH = 256
STATISTICS = 2 * 128 + _WIDTH
"""How many numbers the head sees."""
_CLASSES = 39

# Mean and standard deviation of ImageNet's pixels, with which the network was trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SCNN(nn.Module):
    """Nine convolutions with batch norm and ReLU, the mean of each map, two layers, and a classifier.

    The names of the layers are those of the authors' weights file.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, stride in _LAYERS:
            layers += [nn.Conv2d(before, width, 3, stride, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.features = nn.Sequential(*layers)
        layers = []
        for width in (_WIDTH, _WIDTH):
            layers += [nn.Conv2d(before, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.projection = nn.Sequential(*layers)
        self.classifier = nn.Linear(_WIDTH, _CLASSES)
        # A third less time on a CPU than the default memory order.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """What a head sees of images (B,3,H,W) in [0,1]: (B,512).

        Means and standard deviations of the 128 last maps, and the 256 numbers before the classifier.
        """
        mean, std = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        maps = self.features(((x - mean) / std).contiguous(memory_format=torch.channels_last)).flatten(2)
        means = maps.mean(2)
        # The constant bounds the square root's slope for maps that are flat.
        spread = torch.sqrt(maps.var(2, correction=0) + 1e-4)
        return torch.cat([means, spread, self.projection(means[:, :, None, None]).flatten(1)], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B,39) of distortion and level, of images (B,3,H,W) in [0,1]."""
        return self.classifier(self.statistics(x)[:, -_WIDTH:])


class Scored(nn.Module):
    """The network with a linear head on its statistics.

    Args:
        net: the network.
        head: `nn.Linear(STATISTICS, 1)`.
    """

    def __init__(self, net: SCNN, head: nn.Linear) -> None:
        super().__init__()
        self.net, self.head = net, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of images (B,3,H,W) in [0,1], about 0-100, larger = better."""
        return self.head(self.net.statistics(x)).squeeze(1)


@register_metric("scnn", score_range=(0, 100), bounded=False, min_size=32)
def scnn(weights: str, head: str = "") -> Scored:
    """S-CNN of DB-CNN (Zhang et al., TCSVT 2020) with weights of your own and our head, larger = better.

    The range is that of CLIVE's MOS. Nothing keeps a score inside.

    Args:
        weights: the authors' `scnn.pkl`.
        head: safetensors file that `fit_scnn_head.py` wrote; empty means the one beside this file.

    Raises:
        BadData: a file is missing, corrupt, or belongs to another network.
        BadParameter: no weights are given.
    """
    if not weights:
        raise BadParameter("scnn[weights=]: expected the path of scnn.pkl, e.g. scnn[weights=scnn.pkl]")
    net = load_foreign(SCNN(), weights)
    if not head and (not HEAD.is_file() or hashlib.sha256(HEAD.read_bytes()).hexdigest() != HEAD_SHA256):
        raise BadData(f"{str(HEAD)!r} is missing or not the one that belongs to {Path(__file__).name}: get both again")
    return Scored(net, load_foreign(nn.Linear(STATISTICS, 1), head or HEAD)).eval().requires_grad_(False)
