"""Images that lie in files: their human scores, and the one policy of reducing and cropping them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..errors import BadParameter
from ..images import MIN_SIDE, check_size, file_size, from_uint8, load_image, to_uint8
from .base import Dataset, Item


class Rating(NamedTuple):
    """A row of a table.

    Attributes:
        image: file name, as the release writes it; unique.
        mos: human score, larger = better; None where the set has none.
        std: spread of the score as published, NaN if it is not; see `FieldDataset.stds`.
        reference: the pristine content that it was made from; empty if it is its own.
        split: where the release has a split of its own; empty if not.
    """

    image: str
    mos: float | None
    std: float = float("nan")
    reference: str = ""
    split: str = ""

    @property
    def content(self) -> str:
        """What is resampled together, and never parted by a split."""
        return self.reference or self.image


class FieldDataset(Dataset):
    """Image files with scores, reduced and cropped alike in every data set.

    Args:
        ratings: rows in the order of the items.
        paths: their files.
        truth: what the scores are; None for none.
        crop: side in pixels of the square that is cut from the middle of each image, for attacks that would take hours
            on whole ones; 0 takes whole images. What is smaller is a `BadImage`.
        side: the shorter side in pixels to which larger images are reduced before that (Pillow's antialiased bicubic);
            smaller ones are never enlarged, 0 leaves all as they are.

    Attributes:
        grey: whether grey files are taken, as three equal channels.
        truth_name: what the scores are; it says so where they were given for the whole image, or for one larger than
            the one that is loaded.
        stds: spread of each item's score as published, NaN if it is not: standard deviation of the ratings in units of
            one rating, unless the data set says otherwise.

    Raises:
        BadParameter: a crop or side that is no size of a photograph.
    """

    grey: bool = False

    def __init__(
        self, ratings: Sequence[Rating], paths: Sequence[Path], truth: str | None, crop: int = 0, side: int = 0
    ) -> None:
        for name, value in (("crop", crop), ("side", side)):
            if value != 0 and value < MIN_SIDE:
                raise BadParameter(f"{name}={value}: expected 0 (images as they are) or at least {MIN_SIDE} pixels")
        self.crop, self.side = crop, side
        self._paths = paths
        self.items = [Item(row.image, row.content, row.mos) for row in ratings]
        self.stds = [row.std for row in ratings]
        shown = " whole" * bool(crop), " before reduction" * bool(side)
        self.truth_name = f"{truth} of the{shown[0]} image{shown[1]}" if truth and any(shown) else truth

    def load(self, index: int) -> torch.Tensor:
        """Image `index` as float32 (3,H,W) in [0,1]; raises `BadImage` when its file is unusable, or too small."""
        path = self._paths[index]
        image = self._reduced(load_image(path, grey=self.grey))
        if not self.crop:
            return image
        self._check_crop(image.shape[1], image.shape[2], path)
        top, left = ((length - self.crop) // 2 for length in image.shape[1:])
        return image[:, top : top + self.crop, left : left + self.crop].contiguous()

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of image `index` by its header, as it is loaded; raises `BadImage` as far as that tells."""
        path = self._paths[index]
        height, width = self._reduced_size(*file_size(path, grey=self.grey))
        if not self.crop:
            return height, width
        self._check_crop(height, width, path)
        return self.crop, self.crop

    def _check_crop(self, height: int, width: int, path: Path) -> None:
        check_size(height, width, self.crop, f"image {str(path)!r}")

    def _reduced_size(self, height: int, width: int) -> tuple[int, int]:
        shorter = min(height, width)
        if not 0 < self.side < shorter:
            return height, width
        return height * self.side // shorter, width * self.side // shorter

    def _reduced(self, image: torch.Tensor) -> torch.Tensor:
        height, width = self._reduced_size(image.shape[1], image.shape[2])
        if (height, width) == tuple(image.shape[1:]):
            return image
        small = Image.fromarray(to_uint8(image)).resize((width, height), Image.Resampling.BICUBIC)
        return from_uint8(np.asarray(small))

    @cached_property
    def content_hash(self) -> str:
        """Digest of names, references, scores, the bytes of every file and what is done to them, computed once.

        A file that is not there counts as empty, and fails when loaded.
        """
        done = "".join(f"{name} {value}\n" for name, value in (("side", self.side), ("crop", self.crop)) if value)
        digest = hashlib.sha256(done.encode())
        for item, path in zip(self.items, self._paths, strict=True):
            file = hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()
            of = f"|{item.reference}" if item.reference != item.id else ""
            digest.update(f"{item.id}{of}|{item.truth!r}|{file}\n".encode())
        return digest.hexdigest()
