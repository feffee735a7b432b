"""AGIQA-3K: 2,982 images that six text-to-image models made, with human scores, in the official layout.

Source: Li et al., "AGIQA-3K: an open database for AI-generated image quality assessment", IEEE TCSVT (arXiv
2306.04717). MOS of the perceptual quality from 0 to 5, larger = better.
"""

from __future__ import annotations

from pathlib import Path

from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import read_table, scores

FOLDERS = ("images", "AGIQA-3K", "file", "")
"""Where the images may be, beside data.csv: the archive's own name for the folder is not documented."""


@register_dataset("agiqa3k")
class Agiqa3k(Release):
    """AGIQA-3K: AI-generated images, human MOS of the quality (`mos_quality`, not of the match with the prompt).

    There is no photograph that an image was made from: what is resampled together, and kept in one split, is the
    subject of the prompt, its text up to the first comma ("a tray of sushi, anime style"): all models were given the
    same 300 prompts. There is no official list of a split; it is `split_of` the subject. `stds` are `std_quality`. For
    the arguments see `Release`.
    """

    name, title = "agiqa3k", "AGIQA-3K"
    holds = "data.csv, and the images in images/ or beside it"
    marks, unpacked = ("data.csv",), ("AGIQA-3K",)

    def _read(self, base: Path) -> Contents:
        table = base / "data.csv"
        frame = read_table(table, "name", "prompt", "mos_quality", "std_quality")
        images = frame["name"].tolist()
        mos, std = scores(frame["mos_quality"], images, table), scores(frame["std_quality"], images, table, 0)
        subjects = [" ".join(prompt.split(",")[0].lower().split()) for prompt in frame["prompt"]]
        folder = next(base / name for name in FOLDERS if (base / name).is_dir())
        return Contents(list(map(Rating, images, mos, std, subjects)), [folder])
