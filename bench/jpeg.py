"""JPEG by Pillow, and what gradients see of it: a defence, and attacks that have to survive a file format."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from .errors import BadParameter
from .images import from_uint8, straight_through, through_codec, to_uint8

Surrogate = Literal["diffjpeg", "identity"]
"""Gradient of the compression: kornia's differentiable JPEG (a codec with a differentiable rounding, some 40 dB away
from Pillow's), or that of the identity."""
MOST = 95
"""Highest quality that Pillow recommends."""


def compress(x: torch.Tensor, quality: int) -> torch.Tensor:
    """Images (B,3,H,W), rounded to 8 bits, encoded (4:2:0) and decoded by Pillow."""
    options = {"format": "JPEG", "quality": quality, "subsampling": "4:2:0"}
    return torch.stack([from_uint8(through_codec(to_uint8(image), **options)) for image in x]).to(x)


def compress_surrogate(x: torch.Tensor, quality: int, surrogate: Surrogate = "diffjpeg") -> torch.Tensor:
    """`compress` to the bit, with the gradient of a surrogate (BPDA)."""
    return straight_through(compress(x, quality), x if surrogate == "identity" else diffjpeg(x, quality))


def check_jpeg(what: str, quality: int, surrogate: str) -> None:
    """Raise `BadParameter` for a quality or surrogate that there is not; `what` names the plug-in."""
    check_quality(what, quality)
    if surrogate not in get_args(Surrogate):
        raise BadParameter(f"{what}[surrogate={surrogate}]: expected {' or '.join(get_args(Surrogate))}")


def check_quality(what: str, quality: int) -> None:
    """Raise `BadParameter` for a quality that there is not; `what` names the plug-in."""
    if not 1 <= quality <= MOST:
        raise BadParameter(f"{what}[quality={quality}]: expected 1 to {MOST}")


def diffjpeg(x: torch.Tensor, quality: int) -> torch.Tensor:
    """Differentiable JPEG of kornia, images padded with their border to whole 16 px blocks."""
    from kornia.enhance import jpeg_codec_differentiable  # 2 s of import that only attacks on JPEG need

    height, width = x.shape[2:]
    padded = torch.nn.functional.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    qualities = torch.full((x.shape[0],), float(quality), dtype=x.dtype, device=x.device)
    return jpeg_codec_differentiable(padded, qualities)[..., :height, :width]
