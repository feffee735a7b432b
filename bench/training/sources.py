"""Licence-clean material to train on: CLIVE's training photographs at several scales, and procedural images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, zoom

from ..datasets.clive import Clive
from ..images import to_uint8


def shrink(image: np.ndarray, factor: float) -> np.ndarray:
    """(H,W,3) uint8 scaled down by `factor` >= 1 with Lanczos filtering; hides most of a camera's own artefacts."""
    if factor <= 1.0:
        return image
    size = (max(1, round(image.shape[1] / factor)), max(1, round(image.shape[0] / factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def clive_photographs(root: str, split: str = "train", limit: int = 0) -> tuple[list[np.ndarray], np.ndarray, str]:
    """CLIVE's images of a split as (H,W,3) uint8, their MOS (N,), and the data set's content hash."""
    data = Clive(root, split=split, limit=limit)
    images = [to_uint8(data.load(i)) for i in range(len(data))]
    return images, np.array([item.truth for item in data.items], dtype=np.float32), data.content_hash


def procedural(rng: np.random.Generator, size: int) -> np.ndarray:
    """A random synthetic image (size,size,3) uint8: dead leaves, coloured noise, or a gradient with a grating."""
    make = (dead_leaves, dead_leaves, coloured_noise, gradient)[rng.integers(4)]
    return make(rng, size)


def dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Overlapping discs with radii of density r^-3: edges at every scale, as in photographs (Lee et al., IJCV 2001)."""
    scale = 2  # drawn twice as large and reduced, so that the edges are smooth
    canvas = Image.new("RGB", (size * scale, size * scale), tuple(int(v) for v in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(canvas)
    smallest, largest = 2.0 * scale, size * scale / 2.5
    palette = rng.integers(0, 256, (12, 3))
    for _ in range(500):
        u = rng.random()
        radius = (smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5
        x, y = rng.random(2) * size * scale
        colour = np.clip(palette[rng.integers(12)] + rng.integers(-30, 31, 3), 0, 255)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(int(v) for v in colour))
    image = np.asarray(canvas.resize((size, size), Image.Resampling.BOX)).astype(np.float64)
    return _grain(image, rng)


def coloured_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise with a power spectrum of 1/f^a, a in [1.4, 2.4], with correlated channels: a cloud-like texture."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1.0
    amplitude = frequency ** -rng.uniform(0.7, 1.2)
    white = np.fft.rfft2(rng.standard_normal((3, size, size)))
    planes = np.fft.irfft2(white * amplitude, s=(size, size))
    planes = (planes - planes.mean((1, 2), keepdims=True)) / planes.std((1, 2), keepdims=True)
    mixed = np.tensordot(np.eye(3) * rng.uniform(0.2, 1.0) + rng.uniform(0.2, 0.8), planes, axes=1)
    mixed *= rng.uniform(25, 50) / mixed.std()
    return _clip(mixed.transpose(1, 2, 0) + rng.uniform(70, 180, 3))


def gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth colour field with a faint grating: large flat regions, as in skies and walls."""
    field = np.stack([np.asarray(zoom(rng.uniform(20, 235, (4, 4)), size / 4, order=3)) for _ in range(3)], axis=2)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 40)
    y, x = np.mgrid[0:size, 0:size]
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    return _grain(field + rng.uniform(0, 40) * wave[..., None], rng)


def crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of `size` pixels, or the whole side where the image is smaller; flipped half of the time."""
    height, width = image.shape[:2]
    top, left = (int(rng.integers(0, max(side - size, 0) + 1)) for side in (height, width))
    part = image[top : top + size, left : left + size]
    return np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part)


def pick(images: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """One of the images, uniformly."""
    return images[int(rng.integers(len(images)))]


def _grain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A little smooth texture: perfectly flat regions never occur in photographs."""
    noise = gaussian_filter(rng.standard_normal(image.shape), (rng.uniform(0.7, 2.0),) * 2 + (0,))
    return _clip(image + rng.uniform(2, 10) * noise / noise.std())


def _clip(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
