"""A folder of one's own images, with an optional table of scores."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pandas as pd

from ..errors import BadData, BadParameter, UnknownName
from ..registry import register_dataset
from .field import FieldDataset, Rating
from .names import SUFFIXES, Finder
from .split import sample
from .tables import check_once, read_csv


class _Usual(str):
    """The name of a column that the user has not given: one that was given needs a table."""


@register_dataset("folder")
class Folder(FieldDataset):
    """Every image file of a folder, in the order of the names; scores from a CSV if one is named.

    Args:
        root: the folder.
        table: CSV inside the folder (comma, semicolon or tab; BOM and line ends do not matter), with a row an image;
            "" for all images of the folder, without ground truth.
        image: column with the file name, relative to the folder of the images; its case may differ from the file's, and
            the suffix may be missing. An image that is not there fails when it is loaded, and `plan` says so. Names of
            columns may differ in case, too.
        score: column with the score; "" for none.
        reference: column that says which photograph an image was made from; "" if each is its own.
        lower_better: whether the column is a DMOS, which is then negated.
        images: folder inside `root` that holds the images; "" for `root` itself.
        std: column with the standard deviations of the scores; "" for none.
        split_column: column with the split of each image; "" for none.
        split: the rows to take, by that column; all takes every row.
        crop: see `FieldDataset`.
        side: see `FieldDataset`.
        limit: take only so many of these images, the first in the order of the digests of their names, which stay in
            the table's order; 0 takes all.

    Raises:
        BadData: the folder or a usable table is not there or not inside it, a column or an image is there twice, or
            versions of one photograph are in two splits.
        BadParameter: options that need a table or a column, without it; limit, crop or side out of range.
        UnknownName: a column or split that does not exist.
    """

    def __init__(
        self,
        root: str,
        table: str = "",
        image: str = _Usual("image"),
        score: str = _Usual("mos"),
        reference: str = "",
        lower_better: bool = False,
        images: str = "",
        std: str = "",
        split_column: str = "",
        split: str = "all",
        crop: int = 0,
        side: int = 0,
        limit: int = 0,
    ) -> None:
        folder = _existing(root)
        given = {"image": image, "score": score, "reference": reference, "std": std, "split_column": split_column}
        _check_options(table, given, lower_better)
        inside = _confined(folder, images, "images")
        if not inside.is_dir():
            raise BadData(f"folder {str(inside)!r} does not exist: name a folder of {root!r} that holds the images")
        if split != "all" and not (table and split_column):
            raise BadParameter(f"folder[split={split}] needs the column that says so: give table= and split_column=")
        if table:
            path = _table(folder, table)
            rows = _read(path, image, score, reference, std, split_column, lower_better)
            rows = _of_split(rows, split, path)
        else:
            rows = [Rating(p.name, None) for p in sorted(inside.iterdir()) if _is_image(p)]
            if not rows:
                raise BadData(f"folder {str(inside)!r} holds no image files ({', '.join(sorted(SUFFIXES))})")
        rows = [rows[index] for index in sample([row.image for row in rows], limit, "folder")]
        truth = None if not (table and score) else "DMOS (negated)" if lower_better else "MOS"
        super().__init__(rows, _paths(inside, rows, table), truth, crop, side)


def _is_image(path: Path) -> bool:
    """Whether it is an image by its name; a hidden one is not: macOS puts ._a.png beside a.png, which is none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _existing(root: str) -> Path:
    """The folder of the images; raises `BadData` if it is none."""
    if not root:
        raise BadData("folder[root=] names no folder: give the one that holds the images (root=. for the present one)")
    folder = Path(root)
    if folder.exists() and not folder.is_dir():
        raise BadData(f"{root!r} is a file: give the folder that holds it as root=, and a CSV as table=")
    if not folder.is_dir():
        raise BadData(f"folder {root!r} does not exist: give the folder that holds the images")
    return folder


def _check_options(table: str, columns: dict[str, str], lower_better: bool) -> None:
    """Raise `BadParameter` for options that would not be looked at."""
    if not table:
        given = [f"{name}=" for name, column in columns.items() if column and not isinstance(column, _Usual)]
        given += ["lower_better="] * lower_better
        if given:
            raise BadParameter(f"folder without table= has no scores, and {', '.join(given)} would have no effect: "
                               "name the CSV in the folder as table=, or leave that out")  # fmt: skip
    elif not columns["image"]:
        raise BadParameter("folder[image=] names no column: give the one with the files' names")


def _confined(folder: Path, name: str, what: str, advice: str = "use names inside it") -> Path:
    """A path inside the folder, by its name: a link in the folder may lead anywhere.

    Raises:
        BadData: the name leads out of the folder.
    """
    path = Path(os.path.normpath(name))
    if path.is_absolute() or path.drive or ".." in path.parts:
        raise BadData(f"{what} names {name!r}, which is outside the folder {str(folder)!r}: {advice}")
    return folder / path


def _table(folder: Path, name: str) -> Path:
    """The file of the table; raises `BadData` if there is none."""
    path = _confined(
        folder, name, "table", "put the table there, or give as root= a folder that holds both, and as images= the one "
        "of the images in it",
    )  # fmt: skip
    if path.is_file():
        return path
    there = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".csv", ".tsv", ".txt"))
    found = f"there are {', '.join(there[:5])}" if there else "there is no .csv in it"
    raise BadData(f"folder {str(folder)!r} has no table {name!r}: {found}; give table= relative to the folder")


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
    image, score, reference, std, split = (_column(frame, name, path) for name in (image, score, reference, std, split))
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


def _column(frame: pd.DataFrame, name: str, path: Path) -> str:
    """The column of a name as the table writes it, in whatever case; "" for none.

    Raises:
        UnknownName: there is none.
        BadData: there are several, and none or more than one is written exactly so.
    """
    if not name or name in frame:
        found = [name]
    else:
        found = [column for column in frame.columns if column.strip().casefold() == name.strip().casefold()]
    if not found:
        raise UnknownName(f"column of {path.name}", name, map(str, frame.columns))
    if len(set(found)) > 1:
        several = " and ".join(map(repr, found))
        raise BadData(f"{path.name} has the columns {several}: write {name!r} as the one you mean")
    check_once(frame, found[0], path)
    return found[0]


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
