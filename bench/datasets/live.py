"""LIVE Image Quality Assessment Database, release 2: 29 photographs in 779 distorted versions, in the official layout.

Source: Sheikh, Sabir & Bovik, "A statistical evaluation of recent full reference image quality assessment algorithms",
IEEE TIP 2006. DMOS on a scale of about 0 to 100, larger = worse.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import BadData
from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import AGAIN, read_mat, same_length, scores

RELEASE = "databaserelease2"
REALIGNED, RAW, REFERENCES = "dmos_realigned.mat", "dmos.mat", "refnames_all.mat"
COUNTS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
"""Folder -> number of its images img1.bmp, img2.bmp, ...; the rows of the tables are in this order."""


@register_dataset("live")
class Live(Release):
    """LIVE release 2: five synthetic distortions, DMOS negated; the reference is the pristine photograph.

    203 of the 982 rows are unchanged copies of the references (`orgs` is 1); they are left out, which leaves 779. The
    scores are those of dmos_realigned.mat (`dmos_new`, with `dmos_std` as `stds`), or of dmos.mat where the first is
    not there (`dmos`, without deviations): they differ, and `truth_name` says which. There is no official split; it is
    by reference, in `splits/live.csv`. For the arguments see `Release`.
    """

    name, title = "live", "LIVE release 2"
    holds = f"{RELEASE}/ with {', '.join(COUNTS)}, {REFERENCES} and {REALIGNED} or {RAW}"
    marks, unpacked = (*COUNTS, REFERENCES), (RELEASE,)
    pinned_split = True

    def _read(self, base: Path) -> Contents:
        table = base / REALIGNED
        if table.is_file():
            self.truth = "DMOS (negated), realigned"
            dmos, std, copies = read_mat(table, "dmos_new", "dmos_std", "orgs")
        elif (table := base / RAW).is_file():
            self.truth = "DMOS (negated)"
            dmos, copies = read_mat(table, "dmos", "orgs")
            std = np.full(len(dmos), np.nan)
        else:
            raise self._missing(base)
        (references,) = read_mat(base / REFERENCES, "refnames_all")
        images = [f"{folder}/img{k}.bmp" for folder, count in COUNTS.items() for k in range(1, count + 1)]
        same_length(table, dmos, references, images)
        if strange := set(copies.tolist()) - {0, 1}:
            raise BadData(f"table {str(table)!r} has the value {min(strange)} in orgs: expected 0 and 1; {AGAIN}")
        mos = [-value for value in scores(dmos, images, table)]
        contents = [Path(str(name)).stem for name in references]
        rows = map(Rating, images, mos, std.tolist(), contents)
        return Contents([row for row, copy in zip(rows, copies, strict=True) if not copy], [base])
