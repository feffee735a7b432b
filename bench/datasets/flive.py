"""FLIVE (LIVE-FB, PaQ-2-PiQ): 39,810 photographs of other data sets with crowd-sourced scores, in the official layout.

Source: Ying, Niu, Gupta, Mahajan, Ghadiyaram & Bovik, "From patches to pictures (PaQ-2-PiQ): mapping the perceptual
space of picture quality", CVPR 2020. MOS from 0 to 100, larger = better.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import BadData
from ..registry import register_dataset
from .field import Rating
from .release import Contents, Release
from .tables import AGAIN, read_table, scores

TABLE = "labels_image.csv"
TEST = ("labels>640.csv", "labels640.csv")
REST = ("labels<=640_padded.csv", "labels=640_padded.csv")
"""The authors' tables of the test set, and of the rest with `is_valid`: the release drops what is no file name."""
_COPIES = ("JPEGImages__", "VOC2012__")


@register_dataset("flive")
class Flive(Release):
    """FLIVE / PaQ-2-PiQ: authentic distortions, human MOS of the whole pictures; the patches are not used.

    The folder holds labels_image.csv (columns name and mos; also in database/) and the images, in database/ or beside
    it, below voc_emotic_ava/, blur_dataset/ and EE371R/, as the authors' notebook arranges them. The split is the
    authors' where both of their other tables are there: pictures larger than 640 pixels test (labels>640.csv), of the
    rest those with `is_valid` are val (labels<=640_padded.csv); in the repository their names lack < and >. Otherwise
    it is `split_of` the reference. That is the picture itself; a photograph of VOC may come twice, as JPEGImages__X and
    VOC2012__X, which are one content. No deviations are published. For the arguments see `Release`.

    Attributes:
        official_split: whether the split is the authors'.
    """

    name, title = "flive", "FLIVE"
    holds = f"{TABLE} and database/ with voc_emotic_ava/, blur_dataset/ and EE371R/"
    unpacked = ("FLIVE_Database",)
    marks = ()

    def _read(self, base: Path) -> Contents:
        places = (base, base / "database")
        table = _first(places, (TABLE,))
        if table is None:
            raise self._missing(base)
        frame = read_table(table, "name", "mos")
        images = frame["name"].tolist()
        split = _official_split(_first(places, TEST), _first(places, REST), images)
        self.official_split = bool(split)
        mos = scores(frame["mos"], images, table, 0, 100)
        ratings = [
            Rating(image, score, reference=_content(image), split=split.get(image, ""))
            for image, score in zip(images, mos, strict=True)
        ]
        return Contents(ratings, [next(place for place in reversed(places) if place.is_dir())])


def _first(places: tuple[Path, ...], names: tuple[str, ...]) -> Path | None:
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _content(image: str) -> str:
    """The photograph, whichever of its two names it has."""
    folder, _, name = image.rpartition("/")
    for prefix in _COPIES:
        name = name.removeprefix(prefix)
    return f"{folder}/{name}"


def _official_split(test: Path | None, rest: Path | None, images: list[str]) -> dict[str, str]:
    """The authors' split of every image; empty if one of their tables is not there."""
    if test is None or rest is None:
        return {}
    split = dict.fromkeys(read_table(test, "name_image")["name_image"], "test")
    frame = read_table(rest, "name_image", "is_valid")
    for image, valid in zip(frame["name_image"], frame["is_valid"].str.lower(), strict=True):
        if valid not in ("true", "false"):
            raise BadData(f"table {str(rest)!r} says is_valid {valid!r} of {image!r}: expected True or False; {AGAIN}")
        split.setdefault(image, "val" if valid == "true" else "train")
    # As the field reads it: what neither table lists trains.
    return {image: split.get(image, "train") for image in images}
