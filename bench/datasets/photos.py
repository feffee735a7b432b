"""The embedded data set: natural photographs that scikit-image installs, and their distorted versions.

Nothing is downloaded. The ground truth is a *pseudo-MOS*, the SSIM of each version to its reference: a full-reference
measure, not a human opinion, and named so in every table.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import skimage
import torch
from PIL import Image

from ..distortions import DISTORTIONS, LEVELS, distort
from ..errors import BadData, BadParameter
from ..images import from_uint8, ssim
from ..registry import register_dataset
from ..seeds import derive_seed
from .base import Dataset, Item
from .split import sample

_CROPS = {
    "astronaut": ("astronaut.png", (20, 150)),
    "chelsea": ("chelsea.png", (22, 110)),
    "coffee": ("coffee.png", (70, 200)),
    "rocket": ("rocket.jpg", (165, 195)),
    "motorcycle": ("motorcycle_left.png", (150, 300)),
}
"""Photograph -> file in scikit-image's wheel and top-left corner (row, column) of its 256 px crop."""
_DEVELOPMENT = ("coffee", "motorcycle")


@register_dataset("photos")
class Photos(Dataset):
    """Five photographs of scikit-image, each as reference and distorted; pseudo-MOS (SSIM) as ground truth.

    Args:
        size: side of the crops in pixels: 256, or 128 for the centre of the 256 px crop.
        subset: "full" (every type at all five levels, 31 versions a photograph), "quick" (four types at one level,
            types and levels rotating over the photographs, 5 versions a photograph), or "references" (the five
            photographs themselves).
        split: "dev" (two of the photographs), "test" (the other three) or "all": what is chosen on the first has not
            seen the second.
        limit: take only so many of these versions, the first in the order of the digests of their ids; 0 takes all.
    """

    truth_name = "pseudo-MOS (SSIM)"
    # As scikit-image says of each; of the motorcycle (Middlebury stereo benchmark) it says nothing.
    image_licences = MappingProxyType({
        "astronaut": "public domain (NASA)", "chelsea": "CC0 (Stefan van der Walt)", "coffee": "CC0 (Rachel Michetti)",
        "rocket": "public domain (SpaceX)",
    })  # fmt: skip

    def __init__(self, size: int = 128, subset: str = "full", split: str = "all", limit: int = 0) -> None:
        if size not in (128, 256):
            raise BadParameter(f"photos[size={size}]: expected 128 or 256")
        if subset not in ("full", "quick", "references"):
            raise BadParameter(f"photos[subset={subset}]: expected full, quick or references")
        if split not in ("all", "dev", "test"):
            raise BadParameter(f"photos[split={split}]: expected all, dev or test")
        self.size, self.subset, self.split = size, subset, split
        versions = self._all_versions()
        self._versions = [versions[index] for index in sample([name for name, *_ in versions], limit, "photos")]

    def _all_versions(self) -> list[tuple[str, str, str, int]]:
        """(id, photograph, distortion type, level); level 0 is the reference itself."""
        versions = []
        for p, photo in enumerate(_CROPS):
            if self.split != "all" and (photo in _DEVELOPMENT) != (self.split == "dev"):
                continue
            versions.append((f"{photo}/reference", photo, "reference", 0))
            for t, kind in enumerate(DISTORTIONS if self.subset != "references" else ()):
                levels = range(1, LEVELS + 1)
                if self.subset == "quick":
                    levels = [1 + (p + t) % LEVELS] if (t - p) % len(DISTORTIONS) < 4 else []
                versions += [(f"{photo}/{kind}-{level}", photo, kind, level) for level in levels]
        return versions

    @cached_property
    def _references(self) -> dict[str, np.ndarray]:
        return {photo: _crop(photo, self.size) for photo in _CROPS}

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        """Every image as (H,W,3) uint8; the noise of a version depends on its id alone."""
        arrays = []
        for name, photo, kind, level in self._versions:
            reference = self._references[photo]
            rng = np.random.default_rng(derive_seed("photos", self.size, name))
            arrays.append(distort(reference, kind, level, rng) if level else reference)
        return arrays

    @cached_property
    def items(self) -> Sequence[Item]:
        """Versions in a fixed order, photograph by photograph; truth is 100 times the SSIM to the reference."""
        found = []
        for (name, photo, _, _), array in zip(self._versions, self._arrays, strict=True):
            truth = 100.0 * ssim(from_uint8(array), from_uint8(self._references[photo]))
            found.append(Item(name, photo, truth))
        return found

    def load(self, index: int) -> torch.Tensor:
        """Image `index` as float32 (3,H,W) in [0,1]."""
        return from_uint8(self._arrays[index])

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of every image."""
        return self.size, self.size

    @cached_property
    def content_hash(self) -> str:
        """Digest of the pixels: a codec library that encodes otherwise makes another data set."""
        digest = hashlib.sha256()
        for (name, *_), array in zip(self._versions, self._arrays, strict=True):
            digest.update(name.encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def _crop(photo: str, size: int) -> np.ndarray:
    """The crop of one photograph as (size,size,3) uint8."""
    file, (top, left) = _CROPS[photo]
    version = importlib.metadata.version("scikit-image")
    path = Path(skimage.__file__).parent / "data" / file
    if not path.is_file():
        raise BadData(f"scikit-image {version} lacks {file}: reinstall it (pip install scikit-image)")
    with Image.open(path) as image:
        array = np.asarray(image.convert("RGB"))
    margin = (256 - size) // 2
    top, left = top + margin, left + margin
    crop = array[top : top + size, left : left + size]
    if crop.shape != (size, size, 3):
        raise BadData(f"{file} of scikit-image {version} is {array.shape}: not the photograph that is cut")
    return np.ascontiguousarray(crop)
