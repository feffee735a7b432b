"""LIVE In the Wild (CLIVE): authentic photographs with human scores, in the official layout and a fixed split.

Source: Ghadiyaram & Bovik, "Massive online crowdsourced study of subjective and objective picture quality", IEEE TIP
2016. MOS from 0 to 100, larger = better.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.io
import torch
from scipy.io.matlab import MatReadError

from ..errors import BadData, BadParameter, UnknownName
from ..images import load_image
from ..registry import register_dataset
from .base import Dataset, Item

SPLITS = ("train", "val", "test", "all")
RELEASE = "ChallengeDB_release"
_TRAINING_ROWS = 7  # shown to the raters as examples, in Images/trainingImages; their scores are not part of the set


def split_of(image: str) -> str:
    """Split of an image by its official file name: `train` (70 %), `val` (10 %) or `test` (20 %).

    The first 8 hex digits of the SHA-256 of the name, modulo 20: 0-3 is test, 4-5 is val, the rest is train. It
    depends on nothing but the name, so it stays when images are missing; `splits/clive.csv` records it.
    """
    bucket = _order(image) % 20
    return "test" if bucket < 4 else "val" if bucket < 6 else "train"


def _order(image: str) -> int:
    return int(hashlib.sha256(image.encode()).hexdigest()[:8], 16)


def find_root(root: str = "") -> Path:
    """The folder that holds Images/ and Data/, from `root` or from `$ROBUSTIQA_DATA/clive`.

    Raises:
        BadData: neither is given, or the folder is not an unpacked release.
    """
    given = root or os.environ.get("ROBUSTIQA_DATA", "")
    if not given:
        raise BadData(
            "the data set 'clive' needs its files: give clive[root=FOLDER] or set ROBUSTIQA_DATA to the folder that "
            f"holds clive/{RELEASE}"
        )
    base = Path(root) if root else Path(given) / "clive"
    for folder in (base / RELEASE, base):
        if (folder / "Data" / "AllMOS_release.mat").is_file():
            return folder
    raise BadData(
        f"no CLIVE release in {str(base)!r}: expected {RELEASE}/Images and {RELEASE}/Data/AllMOS_release.mat in it; "
        "unpack the official archive there"
    )


@register_dataset("clive")
class Clive(Dataset):
    """LIVE In the Wild: authentic distortions, human MOS; images that are not on disk are left out and counted.

    The images come in the order of the digests of their names, so that the first `limit` of them are a fair sample.

    Args:
        root: folder with ChallengeDB_release (or that folder itself); empty means `$ROBUSTIQA_DATA/clive`.
        split: train, val, test or all.
        limit: take only the first images; 0 takes all.

    Attributes:
        n_absent: images of the split that the tables list and the folder does not hold.
        stds: standard deviation of the ratings of each item, in MOS units.

    Raises:
        BadData: the release is missing or its tables are unreadable.
        UnknownName: a split that does not exist.
    """

    truth_name = "MOS"

    def __init__(self, root: str = "", split: str = "test", limit: int = 0) -> None:
        if split not in SPLITS:
            raise UnknownName("split of 'clive'", split, SPLITS)
        if limit < 0:
            raise BadParameter(f"clive[limit={limit}]: expected 0 (all images) or a positive number")
        self._root = find_root(root)
        names, mos, std = (_table(self._root, column) for column in ("Images", "MOS", "StdDev"))
        if not len(names) == len(mos) == len(std):
            raise BadData(f"CLIVE's tables have {len(names)}, {len(mos)} and {len(std)} rows: unpack the release again")
        rows = [
            (str(name), float(score), float(spread))
            for name, score, spread in zip(
                names[_TRAINING_ROWS:], mos[_TRAINING_ROWS:], std[_TRAINING_ROWS:], strict=True
            )
            if split in ("all", split_of(str(name)))
        ]
        rows.sort(key=lambda row: _order(row[0]))
        present = [row for row in rows if self._path(row[0]).is_file()]
        self.n_absent = len(rows) - len(present)
        if not present:
            raise BadData(
                f"none of the {len(rows)} images of split {split!r} is in {str(self._root / 'Images')!r}: unpack the "
                "official archive there"
            )
        present = present[: limit or None]
        self._items = [Item(name, name, score) for name, score, _ in present]
        self.stds = [spread for _, _, spread in present]

    @cached_property
    def items(self) -> Sequence[Item]:
        """The images of the split that are present."""
        return self._items

    def load(self, index: int) -> torch.Tensor:
        """Image `index` as float32 (3,H,W) in [0,1]; raises `BadImage` when its file is unusable."""
        return load_image(self._path(self._items[index].id))

    @cached_property
    def content_hash(self) -> str:
        """Digest of names, scores and the bytes of every file, computed once."""
        digest = hashlib.sha256()
        for item in self._items:
            file = hashlib.sha256(self._path(item.id).read_bytes()).hexdigest()
            digest.update(f"{item.id}|{item.truth!r}|{file}\n".encode())
        return digest.hexdigest()

    def _path(self, name: str) -> Path:
        return self._root / "Images" / name


def _table(root: Path, column: str) -> np.ndarray:
    """One official table as a flat array: file names (Images) or numbers (MOS, StdDev)."""
    path = root / "Data" / f"All{column}_release.mat"
    try:
        values = scipy.io.loadmat(path)[f"All{column}_release"].ravel()
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise BadData(f"CLIVE's table {str(path)!r} cannot be read ({error}): unpack the release again") from error
    return np.array([np.ravel(v)[0] for v in values]) if values.dtype == object else values
