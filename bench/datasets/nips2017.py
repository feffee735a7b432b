"""The development set of the NIPS 2017 adversarial competition: 1,000 photographs of 299x299 pixels, no human scores.

Source: Kurakin et al., "Adversarial attacks and defences competition", 2018 (arXiv 1804.00097). Attacks on metrics of
image quality are often measured on it.
"""

from __future__ import annotations

from pathlib import Path

from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import read_table

TABLES = ("images.csv", "dev_dataset.csv")
"""The table as the archive calls it, and as the repository of the competition does."""


@register_dataset("nips2017")
class Nips2017(Release):
    """NIPS 2017 adversarial development set: an attack set without human scores; correlations need another one.

    The folder holds images/ID.png and the table images.csv (or dev_dataset.csv), of which the column ImageId is used.
    It has no split, and the field attacks all of it: the default is all; otherwise it is `split_of` the id. For the
    other arguments see `Release`.
    """

    name, title = "nips2017", "NIPS 2017 development set"
    holds = "images/ and images.csv"
    marks = ("images",)
    truth = None

    def __init__(self, root: str = "", split: str = "all", limit: int = 0, crop: int = 0, side: int = 0) -> None:
        super().__init__(root, split, limit, crop, side)

    def _read(self, base: Path) -> Contents:
        table = next((base / name for name in TABLES if (base / name).is_file()), None)
        if table is None:
            raise self._missing(base)
        ids = read_table(table, "ImageId")["ImageId"]
        return Contents([Rating(f"{name}.png", None) for name in ids], [base / "images"])
