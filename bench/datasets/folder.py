"""A folder of one's own images, with an optional table of scores."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from ..errors import BadData, BadParameter, UnknownName
from ..registry import register_dataset
from .field import FieldDataset, Rating
from .names import SUFFIXES, Finder
from .tables import read_csv


@register_dataset("folder")
class Folder(FieldDataset):
    """Every image file of a folder, in the order of the names; scores from a CSV if one is named.

    Args:
        root: the folder.
        table: CSV inside the folder (comma, semicolon or tab; BOM and line ends do not matter), with a row an image;
            "" for all images of the folder, without ground truth.
        image: column with the file name, relative to the folder of the images; its case may differ from the file's, and
            the suffix may be missing. An image that is not there fails when it is loaded.
        score: column with the score; "" for none.
        reference: column that says which photograph an image was made from; "" if each is its own.
        lower_better: whether the column is a DMOS, which is then negated.
        images: folder inside `root` that holds the images; "" for `root` itself.
        std: column with the standard deviations of the scores; "" for none.
        split_column: column with the split of each image; "" for none.
        split: the rows to take, by that column; all takes every row.
        crop: see `FieldDataset`.
        side: see `FieldDataset`.

    Raises:
        BadData: the folder or a usable table is not there, an image is named twice, or versions of one photograph are
            in two splits.
        UnknownName: a column or split that does not exist.
    """

    def __init__(
        self,
        root: str,
        table: str = "",
        image: str = "image",
        score: str = "mos",
        reference: str = "",
        lower_better: bool = False,
        images: str = "",
        std: str = "",
        split_column: str = "",
        split: str = "all",
        crop: int = 0,
        side: int = 0,
    ) -> None:
        folder = Path(root)
        if not folder.is_dir():
            state = "is a file" if folder.exists() else "does not exist"
            raise BadData(f"folder {root!r} {state}: give the folder that holds the images")
        inside = _confined(folder, images, "images")
        if not inside.is_dir():
            raise BadData(f"folder {str(inside)!r} does not exist: name a folder of {root!r} that holds the images")
        if split != "all" and not (table and split_column):
            raise BadParameter(f"folder[split={split}] needs the column that says so: give table= and split_column=")
        if table:
            rows = _read(folder / table, image, score, reference, std, split_column, lower_better)
            rows = _of_split(rows, split, folder / table)
        else:
            rows = [Rating(p.name, None) for p in sorted(inside.iterdir()) if _is_image(p)]
            if not rows:
                raise BadData(f"folder {str(inside)!r} holds no image files ({', '.join(sorted(SUFFIXES))})")
        truth = None if not (table and score) else "DMOS (negated)" if lower_better else "MOS"
        super().__init__(rows, _paths(inside, rows, table), truth, crop, side)


def _is_image(path: Path) -> bool:
    """Whether it is an image by its name; a hidden one is not: macOS puts ._a.png beside a.png, which is none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _confined(folder: Path, name: str, what: str) -> Path:
    """A path inside the folder; raises `BadData` for one that leads out of it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadData(f"{what} names {name!r}, which is outside the folder: use names inside it")
    return path


def _paths(folder: Path, rows: list[Rating], table: str) -> list[Path]:
    """The file of each row, there or not; two rows of one file are an error."""
    find = Finder(folder)
    seen: dict[Path, str] = {}
    for row in rows:
        path = find(row.image) or _confined(folder, row.image, table)
        if path in seen:
            raise BadData(f"{table} names a file twice, as {seen[path]!r} and as {row.image!r}: keep one row an image")
        seen[path] = row.image
    return list(seen)


def _read(path: Path, image: str, score: str, reference: str, std: str, split: str, lower_better: bool) -> list[Rating]:
    """The rows of a table, in its order."""
    try:
        frame = read_csv(path)
    except (OSError, ValueError) as error:
        raise BadData(f"table {str(path)!r} cannot be read as CSV: {error}") from error
    for column in filter(None, (image, score, reference, std, split)):
        if column not in frame:
            raise UnknownName(f"column of {path.name}", column, map(str, frame.columns))
    if frame.empty:
        raise BadData(f"table {str(path)!r} has no rows: expected one an image")
    sign = -1.0 if lower_better else 1.0
    return [
        Rating(
            name := str(row[image]),
            sign * _number(path, name, row[score], "score") if score else None,
            _number(path, name, row[std], "standard deviation") if std else math.nan,
            str(row[reference]) if reference else "",
            str(row[split]) if split else "",
        )
        for row in frame.to_dict("records")
    ]


def _number(path: Path, image: str, value: object, what: str) -> float:
    if value == "":
        raise BadData(f"{path.name} gives {image!r} no {what}: fill it in, or leave the row out")
    number = float(pd.to_numeric(str(value).strip(), errors="coerce"))
    if not math.isfinite(number):
        raise BadData(f"{path.name} gives {image!r} the {what} {value!r}: expected a number")
    return number


def _of_split(rows: list[Rating], split: str, table: Path) -> list[Rating]:
    """The rows of a split, once no photograph is in two."""
    if split == "all":
        return rows
    known: dict[str, str] = {}
    for row in rows:
        if known.setdefault(row.content, row.split) != row.split:
            raise BadData(
                f"{table.name} has {row.content!r} in the splits {known[row.content]!r} and {row.split!r}: keep the "
                "versions of one photograph in one split"
            )
    if split not in known.values():
        raise UnknownName(f"split of {table.name}", split, {*known.values(), "all"})
    return [row for row in rows if row.split == split]
