"""What the data sets of the field share: where their files are, a split by name, tables, and images that are absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch

from ..errors import Absent, BadData, BadParameter, UnknownName
from ..images import MIN_SIDE, check_size, load_image
from .base import Dataset, Item

SPLITS = ("train", "val", "test", "all")


def split_of(image: str) -> str:
    """Split of an image by its official file name: `train` (70 %), `val` (10 %) or `test` (20 %).

    The first 8 hex digits of the SHA-256 of the name, modulo 20: 0-3 is test, 4-5 is val, the rest is train. It
    depends on nothing but the name, so it stays when images are missing.
    """
    bucket = _order(image) % 20
    return "test" if bucket < 4 else "val" if bucket < 6 else "train"


def _order(image: str) -> int:
    return int(hashlib.sha256(image.encode()).hexdigest()[:8], 16)


class Rating(NamedTuple):
    """An image of a release by its file name, its MOS, and the standard deviation of its ratings (NaN if not given)."""

    image: str
    mos: float
    std: float = float("nan")


class FieldDataset(Dataset):
    """Photographs with human scores, each its own reference; those that are not on disk are left out and counted.

    The images come in the order of the digests of their names, so that the first `limit` of them are a fair sample.

    Args:
        folder: where the image files are.
        ratings: rows of the release's table that belong to the split.
        split: its name, for the error message.
        limit: take only the first images; 0 takes all.
        crop: side in pixels of the square that is cut from the middle of each image; 0 takes whole images. Scores were
            given for whole ones, and `truth_name` says so.

    Attributes:
        n_absent: images of the split that the table lists and the folder does not hold.
        stds: standard deviation of the ratings of each item, in units of a single rating; NaN if not published.

    Raises:
        Absent: none of the images is on disk.
    """

    truth_name = "MOS"

    def __init__(self, folder: Path, ratings: Sequence[Rating], split: str, limit: int, crop: int = 0) -> None:
        self._folder, self._crop = folder, crop
        if crop:
            self.truth_name = "MOS of the whole image"
        present = [row for row in sorted(ratings, key=lambda row: _order(row.image)) if (folder / row.image).is_file()]
        self.n_absent = len(ratings) - len(present)
        if not present:
            raise Absent(
                f"none of the {len(ratings)} images of split {split!r} is in {str(folder)!r}: unpack the official "
                "archive there"
            )
        present = present[: limit or None]
        self.items = [Item(row.image, row.image, row.mos) for row in present]
        self.stds = [row.std for row in present]

    def load(self, index: int) -> torch.Tensor:
        """Image `index` as float32 (3,H,W) in [0,1]; raises `BadImage` when its file is unusable, or too small."""
        path = self._folder / self.items[index].id
        image = load_image(path)
        if not self._crop:
            return image
        check_size(image.shape[1], image.shape[2], self._crop, f"image {str(path)!r}")
        top, left = ((side - self._crop) // 2 for side in image.shape[1:])
        return image[:, top : top + self._crop, left : left + self._crop].contiguous()

    @cached_property
    def content_hash(self) -> str:
        """Digest of names, scores and the bytes of every file, computed once."""
        digest = hashlib.sha256(f"crop {self._crop}\n".encode() if self._crop else b"")
        for item in self.items:
            file = hashlib.sha256((self._folder / item.id).read_bytes()).hexdigest()
            digest.update(f"{item.id}|{item.truth!r}|{file}\n".encode())
        return digest.hexdigest()


def check_choice(name: str, split: str, limit: int, crop: int = 0) -> None:
    """Raise `UnknownName` or `BadParameter` for a split, limit or crop that the data set `name` does not have."""
    if split not in SPLITS:
        raise UnknownName(f"split of {name!r}", split, SPLITS)
    if limit < 0:
        raise BadParameter(f"{name}[limit={limit}]: expected 0 (all images) or a positive number")
    if crop != 0 and crop < MIN_SIDE:
        raise BadParameter(f"{name}[crop={crop}]: expected 0 (whole images) or at least {MIN_SIDE} pixels")


def find_base(name: str, root: str, holds: str) -> Path:
    """The folder of a data set: `root`, or `$ROBUSTIQA_DATA/NAME` if that is empty.

    Args:
        name: of the data set, which is also the name of its folder.
        root: what the user gave.
        holds: what the folder holds in the official layout, for the error message.

    Raises:
        Absent: neither is given.
    """
    data = os.environ.get("ROBUSTIQA_DATA", "")
    if not (root or data):
        raise Absent(
            f"the data set {name!r} needs its files: give {name}[root=FOLDER] or set ROBUSTIQA_DATA to the folder that "
            f"holds {name}/{holds}"
        )
    return Path(root) if root else Path(data) / name


def read_table(path: Path, *columns: str) -> pd.DataFrame:
    """An official table, CSV or .xlsx, that has these columns.

    Raises:
        Absent: it is an .xlsx and openpyxl, which reads those, is not installed.
        BadData: it cannot be read, or a column is missing.
    """
    try:
        frame = pd.read_excel(path) if path.suffix == ".xlsx" else pd.read_csv(path, encoding="utf-8-sig")
    except ImportError as error:
        raise Absent(
            f"table {str(path)!r} needs openpyxl: pip install openpyxl, or save the table as {path.stem}.csv beside it"
        ) from error
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise BadData(f"table {str(path)!r} cannot be read ({error}): unpack the release again") from error
    for column in columns:
        if column not in frame:
            found = ", ".join(map(str, frame.columns))
            raise BadData(f"table {str(path)!r} has no column {column!r}, only {found}: unpack the release again")
    return frame


def scores(values: pd.Series, images: Sequence[str], path: Path, low: float, high: float) -> list[float]:
    """A column as numbers; raises `BadData` for the first that is none, or that lies outside [low, high]."""
    found = np.asarray(pd.to_numeric(values, errors="coerce"), dtype=float)
    wrong = np.flatnonzero(~((found >= low) & (found <= high)))
    if len(wrong):
        raise BadData(
            f"table {str(path)!r} gives {images[wrong[0]]!r} the score {values.iloc[wrong[0]]}: expected a number from "
            f"{low:g} to {high:g}; unpack the release again"
        )
    return found.tolist()
