"""SPAQ: 11,125 photographs of 66 smartphones with human scores, in the official layout.

Source: Fang, Zhu, Zeng, Ma & Wang, "Perceptual quality assessment of smartphone photography", CVPR 2020. MOS from 0 to
100, larger = better.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from ..errors import Absent, BadParameter
from ..images import MIN_SIDE, from_uint8, to_uint8
from ..registry import register_dataset
from .field import FieldDataset, Rating, check_choice, find_base, read_table, scores, split_of

IMAGES = "TestImage"
TABLE = "MOS and Image attribute scores"


@register_dataset("spaq")
class Spaq(FieldDataset):
    """SPAQ: smartphone photographs, human MOS; images that are not on disk are left out and counted.

    The folder holds TestImage/*.jpg and the table "Annotations/MOS and Image attribute scores.xlsx", or a CSV of that
    name with the columns "Image name" and "MOS", which is preferred: it needs no openpyxl. There is no official split:
    an image's split is `split_of` its name. The content hash reads every file of the split (gigabytes).

    Args:
        root: folder of the data set; empty means `$ROBUSTIQA_DATA/spaq`.
        side: the shorter side in pixels after reduction, as the authors' models see the photographs (theirs is
            bilinear, this one Pillow's antialiased bicubic); smaller ones are never enlarged. 0 leaves all as they are.
        split: train, val, test or all.
        limit: take only the first images, in the order of the digests of their names; 0 takes all.

    Raises:
        Absent: table or images are not there, or openpyxl is needed and not installed.
        BadData: the table is unreadable.
        UnknownName: a split that does not exist.
    """

    def __init__(self, root: str = "", side: int = 512, split: str = "test", limit: int = 0) -> None:
        check_choice("spaq", split, limit)
        if side != 0 and side < MIN_SIDE:
            raise BadParameter(f"spaq[side={side}]: expected 0 (images as they are) or at least {MIN_SIDE}")
        self.side = side
        base = find_base("spaq", root, f"{IMAGES} and Annotations")
        tables = (base / "Annotations" / f"{TABLE}{suffix}" for suffix in (".csv", ".xlsx"))
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            raise Absent(
                f"no SPAQ in {str(base)!r}: expected {IMAGES}/ and 'Annotations/{TABLE}.xlsx' in it; unpack the "
                "official archives there"
            )
        frame = read_table(table, "Image name", "MOS")
        images = frame["Image name"].astype(str).tolist()
        ratings = map(Rating, images, scores(frame["MOS"], images, table, 0, 100))
        rows = [row for row in ratings if split in ("all", split_of(row.image))]
        super().__init__(base / IMAGES, rows, split, limit)

    def load(self, index: int) -> torch.Tensor:
        """Image `index`, reduced, as float32 (3,H,W) in [0,1]; raises `BadImage` when its file is unusable."""
        image = super().load(index)
        height, width = image.shape[1:]
        shorter = min(height, width)
        if not 0 < self.side < shorter:
            return image
        size = (width * self.side // shorter, height * self.side // shorter)
        reduced = Image.fromarray(to_uint8(image)).resize(size, Image.Resampling.BICUBIC)
        return from_uint8(np.asarray(reduced))

    @cached_property
    def content_hash(self) -> str:
        """Digest of names, scores, the bytes of every file, and what is done to them."""
        return hashlib.sha256(f"{self.side}|{super().content_hash}".encode()).hexdigest()
