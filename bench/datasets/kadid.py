"""KADID-10k: 81 pristine photographs in 125 distorted versions each, with crowd-sourced scores, in the official layout.

Source: Lin, Hosu & Saupe, "KADID-10k: a large-scale artificially distorted IQA database", QoMEX 2019. The release calls
its scores DMOS, but they are quality, from 1 to 5: its page says "high value of DMOS corresponds to higher visual
quality", and in the table the first level of a distortion scores above the fifth (I01_01_01 4.57, I01_01_05 1.1).
"""

from __future__ import annotations

from pathlib import Path

from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import read_table, scores


@register_dataset("kadid10k")
class Kadid10k(Release):
    """KADID-10k: 25 synthetic distortions at five levels; its "DMOS" is larger for better images, and taken as it is.

    The reference is the pristine photograph (I01 to I81), which lies among the images and is no item: it has no score.
    There is no official split; it is by reference, in `splits/kadid10k.csv`. `stds` are the table's column "var", which
    is no variance but the standard deviation of the ratings: thirty ratings of 4 and 5 with mean 4.57 have one of .496,
    which is what it gives. For the arguments see `Release`.
    """

    name, title = "kadid10k", "KADID-10k"
    holds = "images/ and dmos.csv"
    marks, unpacked = ("images", "dmos.csv"), ("kadid10k",)
    truth = "MOS (the release's DMOS, larger = better)"
    pinned_split = True

    def _read(self, base: Path) -> Contents:
        table = base / "dmos.csv"
        frame = read_table(table, "dist_img", "ref_img", "dmos", "var")
        images = frame["dist_img"].tolist()
        mos, std = scores(frame["dmos"], images, table, 1, 5), scores(frame["var"], images, table, 0, 4)
        references = [Path(name).stem for name in frame["ref_img"]]
        return Contents(list(map(Rating, images, mos, std, references)), [base / "images"])
