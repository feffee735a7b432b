"""Reading the tables of releases: CSV, .xlsx, lines of text, MATLAB; what is damaged is named in one sentence."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import scipy.io

from ..errors import Absent, BadData

AGAIN = "unpack the release again"


def read_table(path: Path, *columns: str, sheet: str | None = None) -> pd.DataFrame:
    """An official table, CSV (comma, semicolon or tab) or .xlsx, that has these columns.

    Args:
        path: the file.
        columns: what it must have.
        sheet: name of the sheet of an .xlsx on which the table stands somewhere, below and beside empty cells (CSIQ);
            its header is then the first row that has the columns, in a CSV of that sheet too.

    Raises:
        Absent: it is an .xlsx and openpyxl, which reads those, is not installed.
        BadData: it cannot be read, or a column is missing.
    """
    try:
        if path.suffix != ".xlsx":
            frame = read_csv(path, header=sheet is None)
        elif sheet is None:
            frame = pd.read_excel(path)
        else:
            frame = pd.read_excel(path, sheet_name=sheet, header=None)
    except ImportError as error:
        raise Absent(
            f"table {str(path)!r} needs openpyxl: pip install openpyxl, or save the table as {path.stem}.csv beside it"
        ) from error
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise BadData(f"table {str(path)!r} cannot be read ({error}): {AGAIN}") from error
    if sheet is not None:
        return _below_header(frame, columns, path)
    for column in columns:
        if column not in frame:
            found = ", ".join(map(str, frame.columns))
            raise BadData(f"table {str(path)!r} has no column {column!r}, only {found}: {AGAIN}")
        check_once(frame, column, path)
    return frame


def check_once(frame: pd.DataFrame, column: str, path: Path) -> None:
    """Raise `BadData` where several columns have this name: nobody can tell which one is meant."""
    if list(frame.columns).count(column) > 1:
        raise BadData(f"table {str(path)!r} has several columns {column!r}: give each a name of its own")


def read_csv(path: Path, *, header: bool = True) -> pd.DataFrame:
    """A CSV as text, with or without BOM, any line ends, separated by what its first line has most of: comma, ; or tab.

    Args:
        path: the file.
        header: whether its first line names the columns.

    Returns:
        the table; its columns are called as in the file, so that two may have one name.

    Raises:
        OSError, ValueError: it cannot be read, or a row has more values than there are names.
    """
    names: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            separator = max(",;\t", key=file.readline().count)
        if header:
            names = _names(path, separator)
    except UnicodeDecodeError as error:
        raise ValueError("it is not in UTF-8: save it again as CSV in UTF-8") from error
    with warnings.catch_warnings():
        # What is lost are the empty ends of the rows.
        warnings.simplefilter("ignore", pd.errors.ParserWarning)
        frame = pd.read_csv(
            path,
            encoding="utf-8-sig",
            sep=separator,
            header=0 if header else None,
            dtype=str,  # the image "007" is not 7
            keep_default_na=False,  # and "NA" may be one
            index_col=False,  # a separator at the end of the rows makes no index
        )
    # pandas calls the second column of a name "mos.1".
    return frame.set_axis(names, axis=1) if header else frame


def _names(path: Path, separator: str) -> list[str]:
    """The header; raises `ValueError` for a row that is longer: pandas drops its end, and 3,5 would become 3."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator)
        names = next((row for row in rows if row), [])
        for row in rows:
            if any(row[len(names) :]):
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} values for {len(names)} columns: write numbers with a point, "
                    f"and names that hold {separator!r} in quotes"
                )
    return names


def _below_header(cells: pd.DataFrame, columns: Sequence[str], path: Path) -> pd.DataFrame:
    """The columns below the first row that names them all, without empty rows; raises `BadData` if none does."""
    for row in range(len(cells)):
        names = [str(value) for value in cells.iloc[row]]
        if set(columns) <= set(names):
            below = cells.iloc[row + 1 :].set_axis(names, axis=1).loc[:, list(columns)]
            return below[~(below.isna() | (below == "")).all(axis=1)]
    raise BadData(f"table {str(path)!r} has no row with the column names {', '.join(columns)}: {AGAIN}")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, stripped; raises `BadData` when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise BadData(f"table {str(path)!r} cannot be read ({error}): {AGAIN}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_mat(path: Path, *names: str) -> list[np.ndarray]:
    """Variables of a MATLAB file as flat arrays of one length; a cell array of strings as an array of text.

    Raises:
        BadData: it cannot be read, has no variable of a name, or arrays of different lengths.
    """
    try:
        content = scipy.io.loadmat(path, variable_names=list(names))
        arrays = [_flat(content[name]) for name in names]
    # What scipy's parser stumbles over in a damaged file is of any class: zlib.error, IndexError, AttributeError, ...
    except Exception as error:
        reason = f"no variable {error}" if isinstance(error, KeyError) else error
        raise BadData(f"table {str(path)!r} cannot be read ({reason}): {AGAIN}") from error
    same_length(path, *arrays)
    return arrays


def same_length(path: Path, *columns: Sequence[object] | np.ndarray) -> None:
    """Raise `BadData` unless columns, which may be of several files, belong to the same rows."""
    if len(set(map(len, columns))) > 1:
        lengths = " and ".join(str(len(column)) for column in columns)
        raise BadData(f"table {str(path)!r} and those that go with it have {lengths} rows: {AGAIN}")


def _flat(values: np.ndarray) -> np.ndarray:
    values = values.ravel()
    return np.array([np.ravel(cell)[0] for cell in values]) if values.dtype == object else values


def scores(
    values: Sequence[str] | pd.Series | np.ndarray,
    images: Sequence[str],
    path: Path,
    low: float = -math.inf,
    high: float = math.inf,
) -> list[float]:
    """A column as numbers.

    Raises:
        BadData: the first value that is no number, is infinite, or lies outside [low, high], with its image.
    """
    column = np.asarray(values, dtype=object)
    found = np.asarray(pd.to_numeric(column, errors="coerce"), dtype=float)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= low) & (found <= high)))
    if len(wrong):
        bounds = f" from {low:g} to {high:g}" if math.isfinite(high - low) else ""
        raise BadData(
            f"table {str(path)!r} gives {images[wrong[0]]!r} the score {column[wrong[0]]}: expected a number{bounds}; "
            f"{AGAIN}"
        )
    return found.tolist()
