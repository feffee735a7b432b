"""What a denoiser is trained on: crops of a data set's images, some distorted, with what orders them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...bench.datasets import Dataset, load_dataset
from ...bench.datasets.folder import Folder
from ...bench.distortions import DISTORTIONS, LEVELS, distort_strength
from ...bench.errors import BadData, BadImage
from ...bench.images import to_uint8
from ...bench.registry import registry
from ...bench.training.sources import crop, shrink

_KEPT_BYTES = 4 * 2**30
"""Decoded images are kept in memory up to this size; the others are decoded again whenever they are drawn."""

_SAID = 5
"""Images left out are named one by one up to this number."""


def open_data(text: str) -> Dataset:
    """A data set by its plug-in string, or a folder of images by its path.

    Raises:
        BadData: neither; or a data set whose split would be `test` by default, which nobody means to train on.
    """
    if text.split("[", 1)[0].split(":", 1)[0] not in registry.names("dataset"):
        if not Path(text).is_dir():
            known = ", ".join(registry.names("dataset"))
            raise BadData(f"data {text!r}: no such folder, and no data set of that name (there are {known})")
        return Folder(text)
    _, spec, parameters = registry.resolve("dataset", text)
    if parameters.get("split") == "test" and "split" not in spec.params:
        raise BadData(f"data {text!r} would be its test split: say which one is meant, for example {text}[split=train]")
    return load_dataset(text)


def pixel_digest(image: np.ndarray) -> str:
    """Digest of the pixels (H,W,3) uint8 of an image, whatever its name."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


@dataclass(frozen=True)
class LeftOut:
    """An image that is not trained on, and why."""

    image: str
    reason: str


class Batch(NamedTuple):
    """What a step trains on.

    Attributes:
        clean: (B,3,S,S) in [0,1].
        noise: (B,3,S,S) unit Gaussian noise.
        level: (B,) standard deviation of the noise to be added, pixels in [0,1].
        truth: (B,) human score of the photograph, larger = better; NaN where there is none or where it is distorted.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    level: torch.Tensor
    truth: torch.Tensor


class Material:
    """Crops of the images of a data set that can be read and are large enough.

    The first part of every batch is crops of whole photographs as they are, with their human scores where the data set
    has some. The rest are crops of photographs reduced by a factor of 1 to 2 and then distorted at random, which no
    human has rated: a metric has to keep its answer to distortions behind the denoiser too.

    Args:
        data: the data set.
        side: side of the crops in pixels.
        batch: crops in a batch.
        distort: share of distorted crops, 0 to 1.
        say: prints a line about images that are left out.

    Attributes:
        left_out: images that cannot be read or are smaller than a crop.
        used: digests of the pixels of the others.

    Raises:
        BadData: fewer than two images are left.
    """

    def __init__(
        self, data: Dataset, side: int, batch: int, distort: float, say: Callable[[str], None] = print
    ) -> None:
        self._data, self._side, self._batch = data, side, batch
        self._distorted = round(distort * batch)
        self.left_out: list[LeftOut] = []
        self.used: set[str] = set()
        self._usable: list[int] = []
        self._kept: dict[int, np.ndarray] = {}
        self._bytes = 0
        for index, item in enumerate(data.items):
            try:
                image = self._image(index)
            except BadImage as error:
                self._leave_out(item.id, "cannot be read", say, str(error))
                continue
            if min(image.shape[:2]) < side:
                reason = f"{image.shape[1]}x{image.shape[0]} pixels, smaller than the crop of {side}"
                self._leave_out(item.id, reason, say, f"{item.id}: {reason}")
                self._bytes -= self._kept.pop(index, image[:0]).nbytes
            else:
                self._usable.append(index)
                self.used.add(pixel_digest(image))
        if self.left_out:
            say(f"{len(self.left_out)} of {len(data)} images are left out, {len(self._usable)} are trained on")
        if len(self._usable) < 2:
            raise BadData(
                f"of {len(data)} images only {len(self._usable)} can be read and have {side} pixels a side: give more "
                "or larger images, or a smaller --crop"
            )

    def _leave_out(self, image: str, reason: str, say: Callable[[str], None], sentence: str) -> None:
        """Note an image; the card lists it without the path that the sentence may hold."""
        self.left_out.append(LeftOut(image, reason))
        if len(self.left_out) <= _SAID:
            say(f"left out: {sentence}")

    def __len__(self) -> int:
        return len(self._usable)

    def batch(self, rng: np.random.Generator, levels: tuple[float, float]) -> Batch:
        """A random batch; noise levels are uniform between the two given ones."""
        plain = self._batch - self._distorted
        # Different photographs: two crops of one have the same human score.
        chosen = rng.choice(len(self), min(plain, len(self)), replace=False).tolist()
        chosen += rng.integers(len(self), size=self._batch - len(chosen)).tolist()
        crops, truth = [], []
        for place, which in enumerate(chosen):
            index = self._usable[which]
            image = self._image(index)
            if place < plain:
                score = self._data.items[index].truth
                crops.append(crop(image, self._side, rng))
                truth.append(np.nan if score is None else score)
            else:
                crops.append(self._distort(image, rng))
                truth.append(np.nan)
        clean = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div_(255.0)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
        level = torch.from_numpy(rng.uniform(*levels, size=len(clean))).float()
        return Batch(clean, noise, level, torch.tensor(truth, dtype=torch.float32))

    def centres(self, limit: int) -> torch.Tensor:
        """Centre crops (N,3,S,S) of the first images, for the scale of a metric's scores."""
        parts = []
        for index in self._usable[:limit]:
            image = self._image(index)
            top, left = ((length - self._side) // 2 for length in image.shape[:2])
            parts.append(image[top : top + self._side, left : left + self._side])
        return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).float().div_(255.0)

    def _distort(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        largest = min(2.0, min(image.shape[:2]) / self._side)
        # Cut before it is reduced: the same pixels, for less work.
        factor = float(rng.uniform(1.0, largest))
        part = shrink(crop(image, int(np.ceil(self._side * factor)), rng), factor)
        part = crop(part, self._side, rng)
        return distort_strength(part, str(rng.choice(list(DISTORTIONS))), float(rng.uniform(0, LEVELS)), rng)

    def _image(self, index: int) -> np.ndarray:
        """(H,W,3) uint8."""
        if index in self._kept:
            return self._kept[index]
        image = to_uint8(self._data.load(index))
        if self._bytes + image.nbytes <= _KEPT_BYTES:
            self._kept[index] = image
            self._bytes += image.nbytes
        return image
