"""CSIQ: 30 photographs in 866 distorted versions, with scores of 35 observers, in the official layout.

Source: Larson & Chandler, "Most apparent distortion: full-reference image quality assessment and the role of strategy",
Journal of Electronic Imaging 19(1), 2010. DMOS from 0 to 1, larger = worse.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import BadData
from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import AGAIN, read_table, scores

TABLE, SHEET = "csiq.DMOS", "all_by_image"
_FILES = {
    "noise": "awgn/{}.AWGN.{}.png",
    "jpeg": "jpeg/{}.JPEG.{}.png",
    "jpeg 2000": "jpeg2000/{}.jpeg2000.{}.png",
    "fnoise": "fnoise/{}.fnoise.{}.png",
    "blur": "blur/{}.BLUR.{}.png",
    "contrast": "contrast/{}.contrast.{}.png",
}
"""Type of distortion in the table -> files below dst_imgs, of a photograph at a level; their case does not matter."""


@register_dataset("csiq")
class Csiq(Release):
    """CSIQ: six synthetic distortions at three to five levels, DMOS negated; the reference is the pristine photograph.

    The table is the sheet all_by_image of csiq.DMOS.xlsx, with its header below empty rows (columns image, dst_type,
    dst_lev, dmos_std, dmos), or that sheet saved as csiq.DMOS.csv, which is preferred: it needs no openpyxl. There is
    no official split; it is by reference, in `splits/csiq.csv`. `stds` are the column dmos_std. For the arguments see
    `Release`.
    """

    name, title = "csiq", "CSIQ"
    holds = f"dst_imgs/ with a folder a distortion, and {TABLE}.xlsx"
    marks, unpacked = ("dst_imgs",), ("CSIQ",)
    truth = "DMOS (negated)"
    pinned_split = True

    def _read(self, base: Path) -> Contents:
        tables = (base / f"{TABLE}{suffix}" for suffix in (".csv", ".xlsx"))
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            raise self._missing(base)
        frame = read_table(table, "image", "dst_type", "dst_lev", "dmos_std", "dmos", sheet=SHEET)
        references = frame["image"].astype(str).tolist()
        levels = scores(frame["dst_lev"], references, table, 1, 5)
        images = []
        for reference, kind, level in zip(references, frame["dst_type"].astype(str), levels, strict=True):
            if kind not in _FILES:
                known = ", ".join(_FILES)
                raise BadData(f"table {str(table)!r} has the distortion {kind!r}: expected {known}; {AGAIN}")
            images.append(_FILES[kind].format(reference, int(level)))
        mos = [-value for value in scores(frame["dmos"], images, table, 0, 1)]
        std = scores(frame["dmos_std"], images, table, 0, 1)
        return Contents(list(map(Rating, images, mos, std, references)), [base / "dst_imgs"])
