"""The tables of a run as the page needs them: read with tolerance, and as plain data for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...bench.errors import BadData, first_line

SIGNIFICANT = 6
"""Digits of a figure on the page: those of the CSV files."""


def read_table(path: Path) -> pd.DataFrame:
    """A CSV of the run; an empty table where it is not there.

    Raises:
        BadData: it is no CSV.
    """
    if not path.is_file():
        return pd.DataFrame()
    try:
        # Names such as "none" or "null" are names.
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise BadData(f"{str(path)!r} is no table ({first_line(error)}): write it again with `robustiqa collect`"
                      ) from error  # fmt: skip


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain data."""
    return [plain(row, exact=True) for row in table.to_dict("records")]


def only(rows: Iterable[Mapping[str, Any]], **where: Any) -> list[Any]:
    """Those rows that have these values; a column that is not there fits nothing."""
    return [row for row in rows if all(row.get(key) == value for key, value in where.items())]


def plain(value: Any, exact: bool = False) -> Any:
    """What JSON can hold: nothing for NaN, the words "inf" and "-inf" for what is unbounded; six digits, or `exact`."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, exact) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, exact) for item in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):  # numpy's own kinds
        value = value.item()
    if not isinstance(value, float):
        return value if isinstance(value, (str, bool, int)) else str(value)
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value if exact else float(f"{value:.{SIGNIFICANT}g}")


def words(value: Any) -> str:
    """Text of a cell; nothing for an empty one."""
    return value if isinstance(value, str) else ""
