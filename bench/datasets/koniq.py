"""KonIQ-10k: 10,073 authentic photographs with crowd-sourced scores, in the official layout.

Source: Hosu, Lin, Sziranyi & Saupe, "KonIQ-10k: an ecologically valid database for deep learning of blind image quality
assessment", IEEE TIP 2020. MOS from 1 to 5, larger = better.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import Absent, BadData, UnknownName
from ..registry import register_dataset
from .field import FieldDataset, Rating, check_choice, find_base, read_table, scores, split_of

SCORES = "koniq10k_scores_and_distributions"
SETS = "koniq10k_distributions_sets.csv"
RESOLUTIONS = ("512x384", "1024x768")
_SETS = {"training": "train", "validation": "val", "test": "test"}
_VOTES = ["c1", "c2", "c3", "c4", "c5"]


@register_dataset("koniq10k")
class Koniq10k(FieldDataset):
    """KonIQ-10k: authentic distortions, human MOS; images that are not on disk are left out and counted.

    The folder holds the images in 512x384/ or 1024x768/, and koniq10k_scores_and_distributions.csv (also in a folder of
    that name), the authors' koniq10k_distributions_sets.csv, or both. The second has the authors' split, which is used
    where that table is present; without it the split is another one, `split_of` each name (by its SHA-256). The MOS is
    on the scale of the ratings, 1 to 5, whichever table is there: the second's own column MOS is normalised to 0 to
    100, and is replaced by the mean of its distribution of votes.

    Args:
        root: folder of the data set; empty means `$ROBUSTIQA_DATA/koniq10k`.
        resolution: 512x384 or 1024x768, the folder of the images.
        split: train, val, test or all.
        limit: take only the first images, in the order of the digests of their names; 0 takes all.

    Attributes:
        official_split: whether the split is the authors'.

    Raises:
        Absent: tables or images are not there.
        BadData: a table is unreadable, or the two do not list the same images.
        UnknownName: a split or resolution that does not exist.
    """

    def __init__(self, root: str = "", resolution: str = "512x384", split: str = "test", limit: int = 0) -> None:
        check_choice("koniq10k", split, limit)
        if resolution not in RESOLUTIONS:
            raise UnknownName("resolution of 'koniq10k'", resolution, RESOLUTIONS)
        base = find_base("koniq10k", root, f"{resolution} and {SCORES}.csv")
        sets = base / SETS
        self.official_split = sets.is_file()
        tables = (base / f"{SCORES}.csv", base / SCORES / f"{SCORES}.csv", sets)
        table = next((path for path in tables if path.is_file()), None)
        if table is None or not (base / resolution).is_dir():
            raise Absent(
                f"no KonIQ-10k in {str(base)!r}: expected {resolution}/ and {SCORES}.csv or {SETS} in it; unpack the "
                f"official archives there, or choose the other resolution of {' and '.join(RESOLUTIONS)}"
            )
        official = _official_split(sets) if self.official_split else None
        rows = _ratings(table)
        if official is not None and (lacking := [row.image for row in rows if row.image not in official]):
            raise BadData(f"{SETS} does not list {lacking[0]!r} of {table.name}: take both tables from the release")
        of = split_of if official is None else official.__getitem__
        rows = [row for row in rows if split in ("all", of(row.image))]
        super().__init__(base / resolution, rows, split, limit)


def _ratings(path: Path) -> list[Rating]:
    """Every row of a table with its MOS from 1 to 5."""
    if path.name == SETS:
        frame = read_table(path, "image_name", "SD", *_VOTES)
        votes = frame[_VOTES].apply(pd.to_numeric, errors="coerce")
        mos = (votes * np.arange(1, 6)).sum(axis=1, skipna=False) / votes.sum(axis=1, skipna=False)
    else:
        frame = read_table(path, "image_name", "SD", "MOS")
        mos = frame["MOS"]
    images = frame["image_name"].astype(str).tolist()
    rows = zip(images, scores(mos, images, path, 1, 5), scores(frame["SD"], images, path, 0, 4), strict=True)
    return [Rating(*row) for row in rows]


def _official_split(path: Path) -> dict[str, str]:
    """Split of every image by the authors' table."""
    frame = read_table(path, "image_name", "set")
    named = dict(zip(frame["image_name"].astype(str), frame["set"].astype(str), strict=True))
    if unknown := set(named.values()) - set(_SETS):
        known = ", ".join(_SETS)
        raise BadData(f"table {str(path)!r} has the set {min(unknown)!r}: expected {known}; take it from the release")
    return {image: _SETS[name] for image, name in named.items()}
