"""LIVE In the Wild (CLIVE): authentic photographs with human scores, in the official layout and a fixed split.

Source: Ghadiyaram & Bovik, "Massive online crowdsourced study of subjective and objective picture quality", IEEE TIP
2016. MOS from 0 to 100, larger = better.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from ..errors import Absent, BadData
from ..registry import register_dataset
from .field import FieldDataset, Rating, check_choice, find_base, split_of

RELEASE = "ChallengeDB_release"
_TRAINING_ROWS = 7  # shown to the raters as examples, in Images/trainingImages; their scores are not part of the set


def find_root(root: str = "") -> Path:
    """The folder that holds Images/ and Data/, from `root` or from `$ROBUSTIQA_DATA/clive`.

    Raises:
        Absent: neither is given, or the folder is not an unpacked release.
    """
    base = find_base("clive", root, RELEASE)
    for folder in (base / RELEASE, base):
        if (folder / "Data" / "AllMOS_release.mat").is_file():
            return folder
    raise Absent(
        f"no CLIVE release in {str(base)!r}: expected {RELEASE}/Images and {RELEASE}/Data/AllMOS_release.mat in it; "
        "unpack the official archive there"
    )


@register_dataset("clive")
class Clive(FieldDataset):
    """LIVE In the Wild: authentic distortions, human MOS; images that are not on disk are left out and counted.

    The images come in the order of the digests of their names, so that the first `limit` of them are a fair sample.
    The split is `split_of` the name; `splits/clive.csv` records it.

    Args:
        root: folder with ChallengeDB_release (or that folder itself); empty means `$ROBUSTIQA_DATA/clive`.
        split: train, val, test or all.
        limit: take only the first images; 0 takes all.
        crop: side of the square that is cut from the middle of each photograph, for attacks that would take hours on
            500x500 pixels; 0 takes whole ones, which is what the MOS was given for.

    Raises:
        Absent: the release is not there.
        BadData: its tables are unreadable.
        UnknownName: a split that does not exist.
    """

    def __init__(self, root: str = "", split: str = "test", limit: int = 0, crop: int = 0) -> None:
        check_choice("clive", split, limit, crop)
        folder = find_root(root)
        names, mos, std = (_table(folder, column) for column in ("Images", "MOS", "StdDev"))
        if not len(names) == len(mos) == len(std):
            raise BadData(f"CLIVE's tables have {len(names)}, {len(mos)} and {len(std)} rows: unpack the release again")
        rows = [
            Rating(str(name), float(score), float(spread))
            for name, score, spread in zip(
                names[_TRAINING_ROWS:], mos[_TRAINING_ROWS:], std[_TRAINING_ROWS:], strict=True
            )
            if split in ("all", split_of(str(name)))
        ]
        super().__init__(folder / "Images", rows, split, limit, crop)


def _table(root: Path, column: str) -> np.ndarray:
    """One official table as a flat array: file names (Images) or numbers (MOS, StdDev)."""
    path = root / "Data" / f"All{column}_release.mat"
    try:
        values = scipy.io.loadmat(path)[f"All{column}_release"].ravel()
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise BadData(f"CLIVE's table {str(path)!r} cannot be read ({error}): unpack the release again") from error
    return np.array([np.ravel(v)[0] for v in values]) if values.dtype == object else values
