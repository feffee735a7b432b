"""Deterministic distortions of 8-bit photographs, five levels each, shared by the embedded data set and the training.

Every kind has one physical strength (a blur radius, a noise deviation, ...) tabulated at levels 0 to 5, where 0 is
the weakest that the kind can be; `distort` takes a level, `distort_strength` any real number between 0 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.ndimage import gaussian_filter

from .errors import BadParameter, UnknownName
from .images import through_codec

LEVELS = 5
"""Number of levels of each kind: 1 is just visible, 5 is severe."""

_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Kind:
    """One kind of distortion.

    Attributes:
        apply: maps image (H,W,3) uint8, physical strength and random generator to an image of the same shape.
        strengths: physical strength at levels 0, 1, ..., 5.
        unit: what the physical strength is.
    """

    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    strengths: tuple[float, float, float, float, float, float]
    unit: str


def _uint8(values: np.ndarray) -> np.ndarray:
    """Float grey levels to uint8, rounded to nearest and clipped."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _gaussian_blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return _uint8(gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="reflect"))


def _white_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return _uint8(image + sigma * rng.standard_normal(image.shape))


def _jpeg(image: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    # Chroma subsampling is fixed: Pillow's default for it has changed with the version.
    return through_codec(image, format="JPEG", quality=round(quality), subsampling="4:2:0")


def _jpeg2000(image: np.ndarray, psnr: float, rng: np.random.Generator) -> np.ndarray:
    # A target PSNR, not a rate: at the same rate a smooth crop stays flawless while a textured one falls apart.
    return through_codec(image, format="JPEG2000", quality_mode="dB", quality_layers=[psnr], irreversible=True)


def _contrast(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    middle = float((image @ _LUMA).mean())
    return _uint8(middle + factor * (image.astype(np.float64) - middle))


def _over_exposure(image: np.ndarray, stops: float, rng: np.random.Generator) -> np.ndarray:
    # A camera multiplies linear light and clips, so the sRGB curve (IEC 61966-2-1) is undone and applied again.
    code = image.astype(np.float64) / 255.0
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    light = np.minimum(light * 2.0**stops, 1.0)
    code = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return _uint8(code * 255.0)


DISTORTIONS: MappingProxyType[str, Kind] = MappingProxyType(
    {
        "gaussian-blur": Kind(_gaussian_blur, (0.0, 0.7, 1.2, 2.0, 3.2, 5.0), "sigma in pixels"),
        "white-noise": Kind(_white_noise, (0.0, 6.0, 12.0, 20.0, 32.0, 50.0), "sigma in grey levels"),
        "jpeg": Kind(_jpeg, (95.0, 45.0, 25.0, 15.0, 9.0, 5.0), "quality factor"),
        "jpeg2000": Kind(_jpeg2000, (42.0, 34.0, 31.0, 28.0, 25.5, 23.0), "target PSNR in dB"),
        "contrast": Kind(_contrast, (1.0, 0.75, 0.56, 0.42, 0.3, 0.2), "factor on the distance to the mean"),
        "over-exposure": Kind(_over_exposure, (0.0, 0.5, 1.0, 1.5, 2.1, 2.8), "stops of linear light"),
    }
)
"""The kinds by name, in the order of every table."""


def distort(image: np.ndarray, kind: str, level: int, rng: np.random.Generator) -> np.ndarray:
    """Distort an image at one of the five levels.

    Args:
        image: (H,W,3) uint8.
        kind: a key of `DISTORTIONS`.
        level: 1 (just visible) to 5 (severe).
        rng: used by `white-noise` only; the other kinds draw nothing from it.

    Returns:
        a new (H,W,3) uint8 array; equal arguments and generator state give equal bytes.

    Raises:
        UnknownName: a kind that does not exist.
        BadParameter: a level outside 1..5, or an image of another type or shape.
    """
    if isinstance(level, bool) or level not in range(1, LEVELS + 1):
        raise BadParameter(f"distortion level {level!r}: expected an integer from 1 to {LEVELS}")
    return distort_strength(image, kind, float(level), rng)


def distort_strength(image: np.ndarray, kind: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Distort an image at a real-valued level: the table's strengths are interpolated linearly between levels.

    Args:
        image: (H,W,3) uint8.
        kind: a key of `DISTORTIONS`.
        strength: 0 to 5; 0 returns an unchanged copy, the integers are the levels of `distort`.
        rng: used by `white-noise` only.

    Returns:
        a new (H,W,3) uint8 array.

    Raises:
        UnknownName: a kind that does not exist.
        BadParameter: a strength outside [0,5], or an image of another type or shape.
    """
    if kind not in DISTORTIONS:
        raise UnknownName("distortion", kind, DISTORTIONS)
    if not 0.0 <= strength <= LEVELS:
        raise BadParameter(f"distortion strength {strength!r}: expected a number from 0 to {LEVELS}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise BadParameter(f"cannot distort {image.dtype} of shape {image.shape}: expected uint8 of shape (H,W,3)")
    if strength == 0.0:
        return image.copy()
    entry = DISTORTIONS[kind]
    value = float(np.interp(strength, np.arange(LEVELS + 1), entry.strengths))
    return entry.apply(image, value, rng)
