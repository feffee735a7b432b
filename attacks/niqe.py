"""NIQE: how far the statistics of an image are from those of pristine photographs.

Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", IEEE Signal Processing Letters
20(3), 2013, after the authors' published code where paper and code differ. The model of pristine photographs is one
that the project fitted itself (`weights/niqe.md`), so values are not those of the authors' model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy.ndimage import correlate1d
from scipy.special import gamma

from ..bench.errors import BadData, BadImage
from .perceptual import luma

PATCH = 96
"""Side of a patch in pixels."""

SMALLEST = 32
"""Smallest side of an image: two patches of 16 pixels."""

FEATURES = 36
"""Of a patch: 18 at each of two scales."""

SHARP = 0.75
"""Patches of a pristine photograph count if they are this share as sharp as its sharpest."""

MODEL = Path(__file__).parent / "weights" / "niqe.safetensors"
"""The shipped model of pristine photographs; its card is the `.md` beside it."""

_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_WINDOW = np.exp(-0.5 * np.square(np.arange(-3, 4) / (7 / 6)))
_WINDOW /= _WINDOW.sum()
_SHAPES = np.arange(0.2, 10.0005, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))


class Pristine(NamedTuple):
    """A Gaussian of the features of pristine patches: `mean` (36,) and `covariance` (36,36)."""

    mean: np.ndarray
    covariance: np.ndarray


class Patches(NamedTuple):
    """What an image's patches look like: `features` (N,36) and `sharpness` (N,), the mean local deviation."""

    features: np.ndarray
    sharpness: np.ndarray


def niqe(image: torch.Tensor, pristine: Pristine | None = None) -> float:
    """NIQE of an image (3,H,W) in [0,1]: 0 at best, larger = less natural.

    The distance sqrt(d^T ((S1 + S2) / 2)^-1 d) of the image's patches to the pristine ones, d the difference of the
    means, S1 and S2 the covariances (pseudo-inverse).

    Args:
        image: the image.
        pristine: model to compare with; none for the shipped one.

    Returns:
        infinity where no two patches have any texture.

    Raises:
        BadImage: the image is too small for two patches of 16 pixels a side.
    """
    model = pristine or shipped()
    features = patches(image).features
    if len(features) < 2:
        return float("inf")
    d = features.mean(0) - model.mean
    covariance = (np.cov(features, rowvar=False) + model.covariance) / 2
    return float(np.sqrt(max(0.0, d @ np.linalg.pinv(covariance, hermitian=True) @ d)))


def patches(image: torch.Tensor) -> Patches:
    """Features of the patches of an image (3,H,W) in [0,1], without those that have no texture at all.

    Patches are 96 pixels wide, side by side from the top left corner, and what is left over is cut off, as in the
    authors' code. On an image narrower than two of them they are half as wide as its shorter side, rounded down to an
    even number: there are always four or more, but the statistics of small ones are less certain.

    Raises:
        BadImage: a side is shorter than 32 pixels.
    """
    height, width = image.shape[1:]
    if min(height, width) < SMALLEST:
        raise BadImage(f"NIQE of an image of {width}x{height} px: expected at least {SMALLEST}x{SMALLEST}")
    side = min(PATCH, min(height, width) // 4 * 2)
    grey = 255.0 * luma(image[None].detach().cpu().double())[0, 0].numpy()
    grey = grey[: height // side * side, : width // side * side]
    coefficients, deviation = mscn(grey)
    half = np.asarray(
        Image.fromarray(grey.astype(np.float32)).resize(
            (grey.shape[1] // 2, grey.shape[0] // 2), Image.Resampling.BICUBIC
        ),
        dtype=np.float64,
    )
    features = np.hstack([_described(_tiles(coefficients, side)), _described(_tiles(mscn(half)[0], side // 2))])
    textured = np.isfinite(features).all(1)
    return Patches(features[textured], _tiles(deviation, side).mean((1, 2))[textured])


def mscn(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean-subtracted contrast-normalised coefficients of grey levels (H,W) in [0,255], and the local deviations.

    (I - m) / (s + 1), with m and s the mean and standard deviation in a Gaussian window of 7x7 and sigma 7/6.
    """
    mean = _smooth(grey)
    deviation = np.sqrt(np.abs(_smooth(grey * grey) - mean * mean))
    return (grey - mean) / (deviation + 1), deviation


def aggd(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asymmetric generalised Gaussians fitted to rows (N,K) by moments (Lasmar, Stitou and Berthoumieu 2009).

    The density falls as exp(-(|v| / beta)^alpha), with one beta left of 0 and one right of it. On symmetric data both
    are equal, and it is the generalised Gaussian.

    Returns:
        alpha, beta left, beta right, each (N,); NaN for a row without values on both sides of 0.
    """
    squared, below, above = np.square(values), values < 0, values > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt((squared * below).sum(1) / below.sum(1))
        right = np.sqrt((squared * above).sum(1) / above.sum(1))
        skew = left / right
        flat = np.abs(values).mean(1) ** 2 / squared.mean(1)
        ratio = flat * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        alpha = np.interp(ratio, _RATIOS, _SHAPES)
        scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, left * scale, right * scale


def fit(images: Iterable[torch.Tensor]) -> Pristine:
    """The model of pristine photographs (3,H,W): a Gaussian of the features of their sharp patches.

    Raises:
        BadData: fewer sharp patches than features, which leaves the covariance without a full rank.
    """
    chosen = []
    for image in images:
        found = patches(image)
        if len(found.sharpness):
            chosen.append(found.features[found.sharpness > SHARP * found.sharpness.max()])
    features = np.concatenate([np.empty((0, FEATURES)), *chosen])
    if len(features) <= FEATURES:
        raise BadData(f"{len(features)} sharp patches do not make a model of pristine photographs: give more images")
    return Pristine(features.mean(0), np.cov(features, rowvar=False))


def save(model: Pristine, path: Path) -> None:
    """Write a model as safetensors."""
    save_file({name: np.ascontiguousarray(value) for name, value in model._asdict().items()}, path)


@functools.cache
def shipped() -> Pristine:
    """The model that comes with the package."""
    return Pristine(**load_file(MODEL))


def _smooth(values: np.ndarray) -> np.ndarray:
    return correlate1d(correlate1d(values, _WINDOW, 0, mode="nearest"), _WINDOW, 1, mode="nearest")


def _tiles(values: np.ndarray, side: int) -> np.ndarray:
    """(H,W) as (N,side,side), H and W multiples of the side."""
    rows, columns = values.shape[0] // side, values.shape[1] // side
    return values.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def _described(tiles: np.ndarray) -> np.ndarray:
    """18 features (N,18): shape and mean scale of the coefficients; of the products of neighbours in four directions
    shape, mean, left and right scale."""
    alpha, left, right = aggd(tiles.reshape(len(tiles), -1))
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        alpha, left, right = aggd((tiles * np.roll(tiles, shift, (1, 2))).reshape(len(tiles), -1))
        features += [alpha, (right - left) * gamma(2 / alpha) / gamma(1 / alpha), left, right]
    return np.stack(features, axis=1)
