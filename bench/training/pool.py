"""What is trained on: images of a data set or folder that can be read and are large enough, and crops of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..datasets import Dataset, load_dataset
from ..datasets.folder import Folder
from ..errors import Absent, BadData, BadImage, BadParameter, BadScore, RobustIQAError
from ..images import to_uint8
from ..measures import score_range
from ..registry import registry
from ..spec import Spec, parse_spec
from .sources import crop
from .views import tensor

AUTO = "auto"
"""Stands for the split val of a data set that is trained on in its split train."""

_KEPT_BYTES = 4 * 2**30
"""Decoded images are kept in memory up to this size; the others are decoded again whenever they are drawn."""

_SAID = 5
"""Images left out are named one by one up to this number."""

Score = Callable[[torch.Tensor], torch.Tensor]
"""(B,3,H,W) in [0,1] to scores (B,)."""


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


def training_data(text: str) -> Dataset:
    """As `open_data`; where the data set is not on this machine, the error says what else can be given."""
    try:
        return open_data(text)
    except Absent as error:
        raise Absent(f"{error}; or give --data FOLDER, with images of your own") from error


def held_out(data: str, validation: str) -> str:
    """Data set or folder to watch a training on `data` by; empty for none."""
    if validation != AUTO:
        return validation
    spec = parse_spec(data) if data.endswith("]") else Spec("")
    return str(Spec(spec.name, {**spec.params, "split": "val"})) if spec.params.get("split") == "train" else ""


def data_name(data: str) -> str:
    """A data set for a model card: folders without the path to them."""
    return Path(data).name if Path(data).is_dir() else data


def pixel_digest(image: np.ndarray) -> str:
    """Digest of the pixels (H,W,3) uint8 of an image, whatever its name."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


@dataclass(frozen=True)
class LeftOut:
    """An image that is not trained on, and why."""

    image: str
    reason: str


class Pool:
    """Images of a data set that can be read and are large enough to cut crops from.

    Args:
        data: the data set.
        side: side of the crops in pixels.
        say: prints a line about images that are left out.

    Attributes:
        left_out: images that cannot be read or are smaller than a crop.
        used: digests of the pixels of the others.

    Raises:
        BadData: fewer than two images are left.
    """

    def __init__(self, data: Dataset, side: int, say: Callable[[str], None] = print) -> None:
        self._data, self._side = data, side
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
                "or larger images, or train on smaller crops"
            )

    def _leave_out(self, image: str, reason: str, say: Callable[[str], None], sentence: str) -> None:
        """Note an image; the card lists it without the path that the sentence may hold."""
        self.left_out.append(LeftOut(image, reason))
        if len(self.left_out) <= _SAID:
            say(f"left out: {sentence}")

    def __len__(self) -> int:
        return len(self._usable)

    def crops(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        """Random crops (count,3,S,S) in [0,1], of different images as far as there are enough."""
        return tensor(np.stack([crop(self._image(index), self._side, rng) for index in self._drawn(count, count, rng)]))

    def centres(self, limit: int) -> torch.Tensor:
        """Centre crops (N,3,S,S) of the first images, for the scale of a metric's scores."""
        parts = []
        for index in self._usable[:limit]:
            image = self._image(index)
            top, left = ((length - self._side) // 2 for length in image.shape[:2])
            parts.append(image[top : top + self._side, left : left + self._side])
        return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2).float().div_(255.0)

    def about(self, name: str) -> list[str]:
        """Lines of a model card about the images, `name` being what the user called them."""
        data = self._data
        lines = [
            f"`{data_name(name)}`: {len(self)} of {len(data)} images, content hash `{data.content_hash}`; "
            f"{data.truth_name or 'no human score'}"
        ]
        listed = "; ".join(f"{row.image} ({row.reason})" for row in self.left_out[:20])
        return lines + ([f"left out {len(self.left_out)} images: {listed}"] if self.left_out else [])

    def _drawn(self, count: int, distinct: int, rng: np.random.Generator) -> list[int]:
        """Random images by their index in the data set; the first `distinct` of them differ if there are enough."""
        chosen = rng.choice(len(self), min(distinct, len(self)), replace=False).tolist()
        chosen += rng.integers(len(self), size=count - len(chosen)).tolist()
        return [self._usable[which] for which in chosen]

    def _image(self, index: int) -> np.ndarray:
        """(H,W,3) uint8."""
        if index in self._kept:
            return self._kept[index]
        image = to_uint8(self._data.load(index))
        if self._bytes + image.nbytes <= _KEPT_BYTES:
            self._kept[index] = image
            self._bytes += image.nbytes
        return image


def score_span(score: Score, pool: Pool, device: torch.device) -> float:
    """Range p99 - p1 of a metric's scores of clean crops: the unit of scores in a loss.

    Raises:
        BadScore: the metric fails on a batch.
        BadParameter: its scores do not differ, or are not finite.
    """
    try:
        with torch.no_grad():
            parts = [score(part.to(device)).double().cpu() for part in pool.centres(256).split(8)]
    except RobustIQAError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise BadScore(f"the metric fails on a batch of crops ({type(error).__name__}: {reason}): repair it") from error
    low, high = score_range(torch.cat(parts).numpy())
    if not (math.isfinite(high - low) and high > low):
        raise BadParameter(
            f"the metric scores the training crops from {low:g} to {high:g}: its range is no unit; check it with "
            "`robustiqa score`"
        )
    return high - low


def has_gradient(score: Score, crops: torch.Tensor) -> bool:
    """Whether a score has a gradient in the image that is finite and not zero everywhere."""
    x = crops.requires_grad_(True)
    scores = score(x).sum()
    gradient = torch.autograd.grad(scores, x)[0] if scores.requires_grad else torch.zeros(1)
    return bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())
