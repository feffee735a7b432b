"""LIVE In the Wild (CLIVE): authentic photographs with human scores, in the official layout and a fixed split.

Source: Ghadiyaram & Bovik, "Massive online crowdsourced study of subjective and objective picture quality", IEEE TIP
2016. MOS from 0 to 100, larger = better.
"""

from __future__ import annotations

from pathlib import Path

from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import read_mat, same_length, scores

RELEASE = "ChallengeDB_release"
_TRAINING_ROWS = 7  # shown to the raters as examples, in Images/trainingImages; their scores are not part of the set


@register_dataset("clive")
class Clive(Release):
    """LIVE In the Wild: authentic distortions, human MOS; images that are not on disk are left out and counted.

    The release has no split: an image's is `split_of` its name; `splits/clive.csv` records it. For the arguments see
    `Release`; `stds` are standard deviations of the ratings.
    """

    name, title = "clive", "CLIVE release"
    holds = f"{RELEASE}/Images and {RELEASE}/Data/AllMOS_release.mat"
    marks, unpacked = ("Data/AllMOS_release.mat",), (RELEASE,)

    def _read(self, base: Path) -> Contents:
        columns = {name: base / "Data" / f"All{name}_release.mat" for name in ("Images", "MOS", "StdDev")}
        names, mos, std = (read_mat(path, f"All{name}_release")[0] for name, path in columns.items())
        same_length(columns["MOS"], names, mos, std)
        images = [str(name) for name in names]
        truth, spread = scores(mos, images, columns["MOS"], 0, 100), scores(std, images, columns["StdDev"], 0)
        return Contents(list(map(Rating, images, truth, spread))[_TRAINING_ROWS:], [base / "Images"])
