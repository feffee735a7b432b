"""Groups of one crop at rising strengths of one distortion: what the metric learns type, level and order from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import convolve1d, gaussian_filter, uniform_filter
from scipy.signal import fftconvolve

from ..distortions import DISTORTIONS, LEVELS, Kind
from .sources import crop, pick, procedural, shrink

VERSIONS = 4
"""Versions of a crop in a group: the crop itself, then three of rising strength."""

_LUMA = np.array([0.299, 0.587, 0.114])


def _uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _motion_blur(image: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    radius = int(np.ceil(length / 2))
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return _filtered(image, np.clip(length / 2 + 0.5 - abs(along), 0, 1) * np.clip(1.0 - abs(across), 0, 1))


def _defocus(image: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    n = int(np.ceil(radius)) + 1
    y, x = np.mgrid[-n : n + 1, -n : n + 1]
    return _filtered(image, np.clip(radius + 0.5 - np.hypot(x, y), 0, 1))


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    n = kernel.shape[0] // 2
    padded = np.pad(image.astype(np.float64), ((n, n), (n, n), (0, 0)), mode="reflect")
    return _uint8(fftconvolve(padded, (kernel / kernel.sum())[..., None], mode="valid", axes=(0, 1)))


def _impulse(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    u = rng.random(image.shape)
    return np.where(u < share / 2, 0, np.where(u > 1 - share / 2, 255, image)).astype(np.uint8)


def _sensor_noise(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    # Shot noise grows with the square root of the light; demosaicing then correlates neighbouring pixels.
    noise = gaussian_filter(rng.standard_normal(image.shape), (0.7, 0.7, 0))
    return _uint8(image + amount * 2.5 * noise * np.sqrt(0.1 + image / 255.0))


def _under_exposure(image: np.ndarray, stops: float, rng: np.random.Generator) -> np.ndarray:
    dark = 255.0 * (image / 255.0) ** (1 + 0.15 * stops) * 2.0 ** (-stops / 2.2)
    return _uint8(dark + 1.2 * stops * rng.standard_normal(image.shape))


def _desaturation(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    grey = (image @ _LUMA)[..., None]
    return _uint8(grey + factor * (image - grey))


def _colour_cast(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    tilt = rng.standard_normal(3)
    tilt = (tilt - tilt.mean()) / np.abs(tilt - tilt.mean()).max()
    return _uint8(image * (1 + amount * tilt))


def _sharpening(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    smooth = gaussian_filter(image.astype(np.float64), (1.3, 1.3, 0))
    return _uint8(image + amount * (image - smooth))


def _upscaled(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    small = Image.fromarray(shrink(image, factor))
    method = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST)[rng.integers(3)]
    return np.asarray(small.resize((image.shape[1], image.shape[0]), method))


def _posterised(image: np.ndarray, levels: float, rng: np.random.Generator) -> np.ndarray:
    step = 255.0 / (levels - 1)
    return _uint8(np.rint(image / step) * step)


def _haze(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    ramp = np.linspace(1.3, 0.7, image.shape[0])[:, None, None]
    veil = np.clip(share * ramp, 0, 0.95)
    return _uint8(image * (1 - veil) + rng.uniform(150, 230) * veil)


def _ghost(image: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    weights = np.zeros(2 * int(np.ceil(shift)) + 1)
    weights[0] += 0.5
    weights[-1] += 0.5
    return _uint8(convolve1d(image.astype(np.float64), weights, axis=1, mode="reflect"))


TRAINING_KINDS: MappingProxyType[str, Kind] = MappingProxyType(
    {
        **DISTORTIONS,
        "motion-blur": Kind(_motion_blur, (1.0, 3.0, 6.0, 10.0, 16.0, 24.0), "length in pixels"),
        "defocus": Kind(_defocus, (0.3, 1.2, 2.0, 3.2, 5.0, 8.0), "radius in pixels"),
        "impulse-noise": Kind(_impulse, (0.0, 0.005, 0.015, 0.04, 0.1, 0.2), "share of values"),
        "sensor-noise": Kind(_sensor_noise, (0.0, 6.0, 12.0, 20.0, 32.0, 50.0), "sigma in grey levels"),
        "under-exposure": Kind(_under_exposure, (0.0, 1.0, 2.0, 3.2, 4.6, 6.0), "stops"),
        "desaturation": Kind(_desaturation, (1.0, 0.75, 0.5, 0.3, 0.12, 0.0), "factor on the chroma"),
        "colour-cast": Kind(_colour_cast, (0.0, 0.08, 0.16, 0.26, 0.4, 0.6), "relative gain"),
        "sharpening": Kind(_sharpening, (0.0, 1.0, 2.0, 3.5, 6.0, 10.0), "unsharp amount"),
        "upscaled": Kind(_upscaled, (1.0, 1.6, 2.2, 3.2, 4.6, 7.0), "factor"),
        "posterised": Kind(_posterised, (64.0, 20.0, 12.0, 8.0, 5.0, 3.0), "grey levels"),
        "haze": Kind(_haze, (0.0, 0.2, 0.35, 0.5, 0.65, 0.8), "share of the veil"),
        "ghost": Kind(_ghost, (0.0, 1.0, 2.0, 3.5, 5.5, 8.0), "shift in pixels"),
    }
)
"""The kinds of `DISTORTIONS`, and more that cameras and transmission cause; only training uses the latter."""


class Groups(NamedTuple):
    """A pool of training images.

    Attributes:
        images: (N,VERSIONS,S,S,3) uint8.
        kinds: (N,) index into `TRAINING_KINDS`; a chain of two carries the first one's.
        chains: (N,) bool, whether a second kind was applied after the first.
        strengths: (N,VERSIONS) float32, 0 to 5, rising.
        similarity: (N,VERSIONS) float32, SSIM to the group's first image.
    """

    images: np.ndarray
    kinds: np.ndarray
    chains: np.ndarray
    strengths: np.ndarray
    similarity: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """(N,VERSIONS) pseudo-quality on a 0-100 scale: half from the level, half from SSIM."""
        return 78.0 - 60.0 * (0.5 * self.strengths / LEVELS + 0.5 * (1.0 - self.similarity))


def make_groups(photographs: Sequence[np.ndarray], n: int, size: int, seed: int) -> Groups:
    """Build a pool of `n` groups; each group has its own generator, so that the pool does not depend on threads.

    Args:
        photographs: (H,W,3) uint8 images to cut from, at full scale.
        n: number of groups.
        size: side of the crops in pixels.
        seed: seed of the pool.
    """

    def one(index: int) -> tuple[np.ndarray, int, bool, np.ndarray, np.ndarray]:
        rng = np.random.default_rng((seed, index))
        reference = _cut(pick(photographs, rng), size, rng) if rng.random() < 0.88 else procedural(rng, size)
        names = list(TRAINING_KINDS)
        # Half of the groups have the kinds that are evaluated; the others broaden what the features respond to.
        first = int(rng.integers(len(DISTORTIONS) if rng.random() < 0.5 else len(names)))
        chain = [(names[first], 1.0)]
        if rng.random() < 0.25:
            chain = [
                (names[first], rng.uniform(0.4, 0.9)),
                (names[int(rng.integers(len(names)))], rng.uniform(0.3, 0.9)),
            ]
        strengths = np.array([0.0, rng.uniform(0.5, 2.0), rng.uniform(2.0, 3.5), rng.uniform(3.5, 5.0)])
        draw = int(rng.integers(2**62))  # one draw for all strengths: the same angle, the same noise field
        versions = [reference]
        for strength in strengths[1:]:
            image = reference
            for name, share in chain:
                entry = TRAINING_KINDS[name]
                value = float(np.interp(strength * share, np.arange(LEVELS + 1), entry.strengths))
                image = entry.apply(image, value, np.random.default_rng(draw))
            versions.append(image)
        similarity = np.array([1.0] + [_ssim(reference, image) for image in versions[1:]])
        return np.stack(versions), first, len(chain) > 1, strengths, similarity

    # Filled in place: a pool is gigabytes, and stacking a list of parts would hold it twice.
    groups = Groups(
        np.empty((n, VERSIONS, size, size, 3), np.uint8),
        np.empty(n, np.int64),
        np.empty(n, bool),
        np.empty((n, VERSIONS), np.float32),
        np.empty((n, VERSIONS), np.float32),
    )
    with ThreadPoolExecutor(2) as pool:
        for index, parts in enumerate(pool.map(one, range(n))):
            for array, part in zip(groups, parts, strict=True):
                array[index] = part
    return groups


def _cut(photograph: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A crop at a random scale; a photograph that has become too small is taken at its largest possible reduction."""
    factor = min(float(rng.choice([1.0, 1.5, 2.0, 3.0], p=[0.3, 0.2, 0.35, 0.15])), min(photograph.shape[:2]) / size)
    return crop(shrink(photograph, factor), size, rng)


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of the luma with an 8x8 box window: a training target only, about ten times faster than the exact one."""
    x, y = a @ _LUMA, b @ _LUMA
    mx, my = uniform_filter(x, 8), uniform_filter(y, 8)
    vx, vy = uniform_filter(x * x, 8) - mx * mx, uniform_filter(y * y, 8) - my * my
    cov = uniform_filter(x * y, 8) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))
