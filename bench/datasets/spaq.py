"""SPAQ: 11,125 photographs of 66 smartphones with human scores, in the official layout.

Source: Fang, Zhu, Zeng, Ma & Wang, "Perceptual quality assessment of smartphone photography", CVPR 2020. MOS from 0 to
100, larger = better.
"""

from __future__ import annotations

from pathlib import Path

from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import read_table, scores

IMAGES = "TestImage"
TABLE = "MOS and Image attribute scores"


@register_dataset("spaq")
class Spaq(Release):
    """SPAQ: smartphone photographs, human MOS; images that are not on disk are left out and counted.

    The folder holds TestImage/*.jpg and the table "Annotations/MOS and Image attribute scores.xlsx", or a CSV of that
    name with the columns "Image name" and "MOS", which is preferred: it needs no openpyxl. There is no official split:
    an image's split is `split_of` its name. The content hash reads every file of the split (gigabytes).

    Args:
        root: see `Release`, as for the arguments that are not here.
        side: the shorter side in pixels after reduction, by default 512, as the authors' models see the photographs
            (theirs is bilinear). 0 leaves all as they are.
    """

    name, title = "spaq", "SPAQ"
    holds = f"{IMAGES}/ and 'Annotations/{TABLE}.xlsx'"
    marks = (IMAGES,)

    def __init__(self, root: str = "", side: int = 512, split: str = "test", limit: int = 0, crop: int = 0) -> None:
        super().__init__(root, split, limit, crop, side)

    def _read(self, base: Path) -> Contents:
        tables = (base / "Annotations" / f"{TABLE}{suffix}" for suffix in (".csv", ".xlsx"))
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            raise self._missing(base)
        frame = read_table(table, "Image name", "MOS")
        images = frame["Image name"].astype(str).tolist()
        return Contents(list(map(Rating, images, scores(frame["MOS"], images, table, 0, 100))), [base / IMAGES])
