"""DnCNN weights of others, in the layout of KAIR (https://github.com/cszn/KAIR, MIT), e.g. its `dncnn_25.pth`.

K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image
Denoising", IEEE Transactions on Image Processing 26(7), 2017. The weights are not part of this package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from ...bench.errors import BadData, BadParameter
from ...bench.foreign_weights import fill, read_state

_EXPECTED = "expected the plain DnCNN of KAIR, e.g. dncnn_25.pth: convolutions with biases, a ReLU between them"


class KairDnCNN(nn.Module):
    """A DnCNN without batch norm: convolutions with ReLU between them predict the noise.

    Where the noise level of the training is known, stronger noise is brought to it by scaling the intensities:
    D(x) = s * denoise(x / s), s = sigma / made_for. For the noise this is exact; the image's range is then [0, 1/s] and
    not the [0,1] of the training, which does little harm: KAIR's dncnn_25 (.098) reaches 29.9 dB at sigma .12 and
    26.4 dB at .25 on photographs, 26.9 and 14.6 dB as it is. For weaker noise values would exceed 1, which harms (27.8
    dB at .06, 30.8 dB as it is), so there the network is applied as it is. A certificate holds all the same: the module
    is a fixed function of the noisy image.

    Args:
        shapes: shape (out, in, k, k) of each convolution's weight, the first one first.
        made_for: noise level of the training, pixels in [0,1]; None where it is not known, and nothing is scaled.
        sigma: noise level to be removed, pixels in [0,1].

    Attributes:
        channels: 1 for a grey network, which is applied to each colour on its own, or 3.
        made_for: as given.
        scale: s, at least 1; 1 where `made_for` is not known.
        trained_sigma: `made_for` where the noise is weaker; None where the network is scaled to it or nothing is known.
    """

    concurrent = True

    def __init__(self, shapes: Sequence[Sequence[int]], made_for: float | None, sigma: float) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for after, before, kernel, _ in shapes:
            # The ReLU works in the memory of the convolution's result, which nothing else needs.
            parts += [nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*parts[:-1])
        self.channels = int(shapes[0][1])
        self.made_for = made_for
        self.scale = 1.0 if made_for is None else max(1.0, sigma / made_for)
        self.trained_sigma = made_for if made_for is not None and sigma < made_for else None
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        """Denoised images (B,3,H,W) of noisy ones; neither side is clamped to [0,1]."""
        z = noisy / self.scale
        if self.channels == 1:
            z = z.flatten(0, 1)[:, None]
        noise = self.model(z.contiguous(memory_format=torch.channels_last))
        # s * (x / s - noise), without rounding x.
        return noisy - self.scale * noise.reshape(noisy.shape)


def load_kair(path: Path, sigma: float) -> KairDnCNN:
    """A DnCNN in evaluation mode, without trainable parameters; the file's tensors say how large it is.

    KAIR names its files by the noise level of the training in grey levels (`dncnn_25.pth`), which is not written in the
    file: a number after the last underscore or hyphen is taken for it. Without one, the network is applied as it is.

    Args:
        path: a .pth file with the tensors `model.0.weight`, `model.0.bias`, `model.2.weight`, ...
        sigma: standard deviation of the noise, pixels in [0,1].

    Raises:
        BadData: the file is missing, corrupt, or of another network.
        BadParameter: sigma is not positive.
    """
    if not 0 < sigma < float("inf"):
        raise BadParameter(f"DnCNN: got sigma {sigma:g}, expected a positive number (pixels in [0,1])")
    state = read_state(path)
    return fill(KairDnCNN(_shapes(path, state), level_of_name(path), sigma), state, path, prefix="")


def level_of_name(path: Path) -> float | None:
    """The noise level, pixels in [0,1], that a file name of KAIR's ends with, or None.

    `dncnn_25.pth` is 25/255; `dncnn3.pth`, a blind network, and numbers beyond 255, which count steps, are none.
    """
    match = re.search(r"[_-](\d+)$", path.stem)
    grey_levels = int(match[1]) if match else 0
    return grey_levels / 255 if 1 <= grey_levels <= 255 else None


def _shapes(path: Path, state: Mapping[str, torch.Tensor]) -> list[tuple[int, ...]]:
    """Shapes of the convolutions' weights, in order; `BadData` unless they make one chain from image to image."""
    layers = len(state) // 2
    expected = {f"model.{2 * i}.{part}" for i in range(layers) for part in ("weight", "bias")}
    if odd := sorted(state.keys() ^ expected):
        raise _foreign(path, f"tensor {odd[0]!r} is {'missing' if odd[0] in expected else 'unknown'}")
    if layers < 2:
        raise _foreign(path, f"it has {layers} layers")
    shapes = [tuple(state[f"model.{2 * i}.weight"].shape) for i in range(layers)]
    channels = shapes[0][1] if len(shapes[0]) == 4 else 0
    before = channels
    for i, shape in enumerate(shapes):
        bias = tuple(state[f"model.{2 * i}.bias"].shape)
        if len(shape) != 4 or shape[1] != before or shape[2] != shape[3] or shape[2] % 2 == 0 or bias != shape[:1]:
            raise _foreign(path, f"layer {i} has weights {shape} and biases {bias}")
        before = shape[0]
    if channels not in (1, 3) or before != channels:
        raise _foreign(path, f"it maps {channels} channels to {before}, not 1 to 1 or 3 to 3")
    return shapes


def _foreign(path: Path, why: str) -> BadData:
    return BadData(f"denoiser weights {str(path)!r} are of another network ({why}): {_EXPECTED}")
