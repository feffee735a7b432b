"""TID2013: 25 photographs in 120 distorted versions each, with human scores, in the official layout.

Source: Ponomarenko et al., "Image database TID2013: peculiarities, results and perspectives", Signal Processing: Image
Communication 30, 2015. MOS from 0 to 9 (won comparisons), larger = better.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import BadData
from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import AGAIN, read_lines, same_length, scores


@register_dataset("tid2013")
class Tid2013(Release):
    """TID2013: 24 synthetic distortions at five levels, human MOS; the reference is the pristine photograph.

    File names differ in case from the table's here and there (I01_11_1.BMP), which does not matter. There is no
    official split; it is by reference, in `splits/tid2013.csv`. `stds` are `mos_std.txt`, where that file is there:
    the standard error of the MOS, not the deviation of a rating (a MOS of 16/38 has .0801 = sqrt(16/38 22/38 / 38)).
    References are crops of the Kodak photographs, which other sets use too. For the arguments see `Release`.
    """

    name, title = "tid2013", "TID2013"
    holds = "distorted_images/ and mos_with_names.txt"
    marks, unpacked = ("distorted_images", "mos_with_names.txt"), ("tid2013",)
    pinned_split = True

    def _read(self, base: Path) -> Contents:
        table, deviations = base / "mos_with_names.txt", base / "mos_std.txt"
        rows = [line.split(maxsplit=1) for line in read_lines(table)]
        if wrong := [row for row in rows if len(row) != 2]:
            raise BadData(f"table {str(table)!r} has the line {wrong[0][0]!r}: expected a MOS and a name; {AGAIN}")
        images = [name for _, name in rows]
        mos = scores([value for value, _ in rows], images, table, 0, 9)
        std = [float("nan")] * len(rows)
        if deviations.is_file():
            same_length(deviations, rows, lines := read_lines(deviations))
            std = scores(lines, images, deviations, 0, 9)
        references = [name.split("_")[0].lower() for name in images]
        return Contents(list(map(Rating, images, mos, std, references)), [base / "distorted_images"])
