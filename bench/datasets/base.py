"""What a data set is to the suite: images in [0,1], their reference, and a named ground truth."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch

from ..errors import BadImage
from ..seeds import image_key


@dataclass(frozen=True)
class Item:
    """One image of a data set.

    Attributes:
        id: unique in the data set, stable across releases.
        reference: id of the photograph that it was made from; equal ids are resampled together in intervals.
        truth: quality, larger = better (a DMOS is negated by the loader), or None where there is none.
    """

    id: str
    reference: str
    truth: float | None


class Dataset(ABC):
    """A finite, ordered set of images.

    Attributes:
        truth_name: what the ground truth is: "MOS" for human scores, otherwise what it stands in for, e.g.
            "pseudo-MOS (SSIM)"; None without ground truth. Every table prints it.
        n_absent: images that belong to the set and are not on this machine; `items` are without them, and a plan says
            so.
        image_licences: photographs (`Item.reference`) whose images anybody may publish, with their licence in words;
            only these stand in a report unless its user says otherwise.
    """

    truth_name: str | None = None
    n_absent: int = 0
    image_licences: Mapping[str, str] = MappingProxyType({})

    @cached_property
    def items(self) -> Sequence[Item]:
        """The images in a fixed order; a subclass builds them here, or sets the attribute."""
        raise NotImplementedError(f"{type(self).__name__} has no items")

    @abstractmethod
    def load(self, index: int) -> torch.Tensor:
        """Image `index` as float32 (3,H,W) in [0,1]; raises `BadImage` when its file is unusable."""

    def image_size(self, index: int) -> tuple[int, int] | None:
        """Height and width of image `index`, in either order, if that is known without decoding it, else None.

        A plan asks it, to tell beforehand which images will be errors.

        Raises:
            BadImage: its file is unusable, as far as that can be told.
        """
        return None

    @cached_property
    def content_hash(self) -> str:
        """Digest of items and pixels; a subclass with files on disk can hash these instead, which is faster."""
        digest = hashlib.sha256()
        for index, item in enumerate(self.items):
            try:
                key = image_key(self.load(index))
            except BadImage:
                key = "unreadable"
            digest.update(f"{item.id}|{item.reference}|{item.truth!r}|{key}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.items)
