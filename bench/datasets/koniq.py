"""KonIQ-10k: 10,073 authentic photographs with crowd-sourced scores, in the official layout.

Source: Hosu, Lin, Sziranyi & Saupe, "KonIQ-10k: an ecologically valid database for deep learning of blind image quality
assessment", IEEE TIP 2020. MOS from 1 to 5, larger = better.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import BadData, UnknownName
from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import read_table, scores

SCORES = "koniq10k_scores_and_distributions"
SETS = "koniq10k_distributions_sets.csv"
RESOLUTIONS = ("512x384", "1024x768")
MOS = {
    "votes": "MOS",
    "zscore": "MOS (z-scores of the raters, 0 to 100)",
    "sets": "MOS (normalised by the authors, 0 to 100)",
}
"""Which scores -> what they are called in tables."""
_SETS = {"training": "train", "validation": "val", "test": "test"}
_VOTES = ["c1", "c2", "c3", "c4", "c5"]


@register_dataset("koniq10k")
class Koniq10k(Release):
    """KonIQ-10k: authentic distortions, human MOS; images that are not on disk are left out and counted.

    The folder holds the images in 512x384/ or 1024x768/, and koniq10k_scores_and_distributions.csv (also in a folder of
    that name), the authors' koniq10k_distributions_sets.csv, or both. The second has the authors' split, which is used
    where that table is present; without it the split is another one, `split_of` each name (by its SHA-256).

    Args:
        root: see `Release`, as for the arguments that are not here.
        resolution: 512x384 or 1024x768, the folder of the images.
        mos: votes takes the mean of the votes, 1 to 5, which both tables give. The others are normalised, and rank the
            images otherwise: zscore is the column MOS_zscore of the first table, which most public loaders read; sets
            is the column MOS of the second, which the authors' code and pyiqa use. `stds` are of the votes, and NaN
            with the others.

    Attributes:
        official_split: whether the split is the authors'.

    Raises:
        BadData: also when the two tables do not list the same images.
        UnknownName: a split, resolution or mos that does not exist.
    """

    name, title = "koniq10k", "KonIQ-10k"

    def __init__(
        self,
        root: str = "",
        resolution: str = "512x384",
        split: str = "test",
        limit: int = 0,
        crop: int = 0,
        side: int = 0,
        mos: str = "votes",
    ) -> None:
        if resolution not in RESOLUTIONS:
            raise UnknownName("resolution of 'koniq10k'", resolution, RESOLUTIONS)
        if mos not in MOS:
            raise UnknownName("mos of 'koniq10k'", mos, MOS)
        self._resolution, self.marks = resolution, (resolution,)
        self._mos, self.truth = mos, MOS[mos]
        other = next(name for name in RESOLUTIONS if name != resolution)
        table = {"votes": f"{SCORES}.csv or {SETS}", "zscore": f"{SCORES}.csv", "sets": SETS}[mos]
        self.holds = f"{resolution}/ (or choose the other resolution, {other}) and {table}"
        self.official_split = False
        super().__init__(root, split, limit, crop, side)

    def _read(self, base: Path) -> Contents:
        sets = base / SETS
        self.official_split = sets.is_file()
        of_votes = (base / f"{SCORES}.csv", base / SCORES / f"{SCORES}.csv")
        tables = {"votes": (*of_votes, sets), "zscore": of_votes, "sets": (sets,)}[self._mos]
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            raise self._missing(base)
        rows = _ratings(table, self._mos)
        if self.official_split:
            official = _official_split(sets)
            if lacking := [row.image for row in rows if row.image not in official]:
                raise BadData(f"{SETS} does not list {lacking[0]!r} of {table.name}: take both tables from the release")
            rows = [row._replace(split=official[row.image]) for row in rows]
        return Contents(rows, [base / self._resolution])


def _ratings(path: Path, mos: str) -> list[Rating]:
    """Every row of a table with that MOS."""
    if mos != "votes":
        column = {"zscore": "MOS_zscore", "sets": "MOS"}[mos]
        frame = read_table(path, "image_name", column)
        images = frame["image_name"].tolist()
        return list(map(Rating, images, scores(frame[column], images, path, 0, 100)))
    if path.name == SETS:
        frame = read_table(path, "image_name", "SD", *_VOTES)
        votes = frame[_VOTES].apply(pd.to_numeric, errors="coerce")
        means = (votes * np.arange(1, 6)).sum(axis=1, skipna=False) / votes.sum(axis=1, skipna=False)
    else:
        frame = read_table(path, "image_name", "SD", "MOS")
        means = frame["MOS"]
    images = frame["image_name"].tolist()
    rows = zip(images, scores(means, images, path, 1, 5), scores(frame["SD"], images, path, 0, 4), strict=True)
    return [Rating(*row) for row in rows]


def _official_split(path: Path) -> dict[str, str]:
    """Split of every image by the authors' table."""
    frame = read_table(path, "image_name", "set")
    named = dict(zip(frame["image_name"], frame["set"], strict=True))
    if unknown := set(named.values()) - set(_SETS):
        known = ", ".join(_SETS)
        raise BadData(f"table {str(path)!r} has the set {min(unknown)!r}: expected {known}; take it from the release")
    return {image: _SETS[name] for image, name in named.items()}
