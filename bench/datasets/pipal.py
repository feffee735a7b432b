"""PIPAL: results of image restoration for 200 photographs, 116 each, with Elo scores, in the official layout.

Source: Gu et al., "PIPAL: a large-scale image quality assessment dataset for perceptual image restoration", ECCV 2020.
Elo scores of pairwise comparisons, around 1400, larger = better.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import BadData
from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import AGAIN, read_lines, scores

FOLDERS = ("Distortion_1", "Distortion_2", "Distortion_3", "Distortion_4", "Train_Dist", "Train_Distort", "Dist_Imgs")
"""Where the distorted images may be: the four folders of the release, or one into which users have merged them."""


@register_dataset("pipal")
class Pipal(Release):
    """PIPAL: super-resolution, denoising and GAN results, Elo score; only the public training set (23,200 images).

    The authors' validation and test scores are not public, so theirs is no split here: it is `split_of` the reference,
    A0001 of A0001_00_00.bmp. The tables Train_Label/*.txt have lines "name,score"; no deviations are published. For the
    arguments see `Release`.
    """

    name, title = "pipal", "PIPAL"
    holds = "Train_Label/*.txt and Distortion_1/ to Distortion_4/"
    marks, unpacked = ("Train_Label",), ("PIPAL",)
    truth = "Elo score"

    def _read(self, base: Path) -> Contents:
        tables = sorted((base / "Train_Label").glob("*.txt"))
        if not tables:
            raise self._missing(base)
        return Contents([row for table in tables for row in _ratings(table)], [base / name for name in FOLDERS])


def _ratings(table: Path) -> list[Rating]:
    rows = [line.rsplit(",", 1) for line in read_lines(table)]
    if wrong := [row for row in rows if len(row) != 2]:
        raise BadData(f"table {str(table)!r} has the line {wrong[0][0]!r}: expected name,score; {AGAIN}")
    images = [name.strip() for name, _ in rows]
    found = scores([value for _, value in rows], images, table)
    return [Rating(name, score, reference=name.split("_")[0]) for name, score in zip(images, found, strict=True)]
