"""`robustiqa export`: read the tables that `collect` wrote, and write one of them in another form."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...bench.errors import BadData, BadParameter, UnknownName
from ...bench.plan import read_run
from ...bench.store import Store
from .latex import latex
from .markdown import markdown
from .shown import shown_columns
from .spreadsheet import neutralised
from .units import TEXT, unit_of
from .values import typed

SCHEMA = 1
"""Version of the JSON form."""

BOARD = "leaderboard"
_ONE: dict[str, Callable[..., str]] = {"markdown": markdown, "latex": latex}
FORMATS = ("csv", "markdown", "latex", "json")


def export(root: str | Path, form: str, table: str | None = None, columns: Sequence[str] = ()) -> str:
    """A table of a board, as text.

    Args:
        root: folder of a run that has tables.
        form: "csv", "markdown", "latex" or "json".
        table: its name, such as "tracks"; the summary by default, and all of them in JSON.
        columns: those to show, in order; by default all in CSV and JSON, and a choice for readers in the other forms.

    Raises:
        BadData: the folder is no run, or has no tables.
        UnknownName: no such form, table or column.
        BadParameter: columns of several tables at once.
    """
    if form not in FORMATS:
        raise UnknownName("format", form, FORMATS)
    root = Path(root)
    known = sorted(path.stem for path in (root / BOARD).glob("*.csv"))
    if not known:
        raise BadData(f"{str(root)!r} has no tables in {BOARD!r}: `robustiqa collect {root}` writes them")
    if table is not None and table not in known:
        raise UnknownName("table", table, known)
    if form == "json":
        return _json(root, [table] if table else known, columns)
    frame = _read(root, table or "summary", columns)
    if form == "csv":
        text = {str(name): frame[name].map(neutralised) for name in frame if unit_of(str(name)) in (TEXT, "")}
        return frame.assign(**text).to_csv(index=False, lineterminator="\n")
    shown = shown_columns(table or "summary", list(frame.columns), bool(columns))
    return _ONE[form](frame, shown, table or "summary")


def _read(root: Path, table: str, columns: Sequence[str]) -> pd.DataFrame:
    """A table as it is written, all fields text."""
    path = root / BOARD / f"{table}.csv"
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise BadData(f"table {str(path)!r} cannot be read ({error}): `robustiqa collect` writes it again") from error
    for column in columns:
        if column not in frame:
            raise UnknownName(f"column of {table}", column, map(str, frame.columns))
    return frame[list(columns)] if columns else frame


def _json(root: Path, tables: Sequence[str], columns: Sequence[str]) -> str:
    """All that a program needs to read the tables without this one: numbers as numbers, units, versions."""
    if columns and len(tables) > 1:
        raise BadParameter("columns of all tables at once: say with --table which one they are of")
    record, suite, _ = read_run(Store(root))
    found: dict[str, Any] = {}
    for table in tables:
        frame = _read(root, table, columns)
        rows = [{str(k): typed(str(k), v) for k, v in row.items()} for row in frame.to_dict("records")]
        found[table] = {"columns": {str(name): {"unit": unit_of(str(name)) or None} for name in frame}, "rows": rows}
    versions = {row["rules"] for table in found.values() for row in table["rows"] if row.get("rules") is not None}
    document = {
        "schema": SCHEMA,
        "rules": max(versions, default=None),
        "suite": {"name": suite.name, "seed": suite.seed},
        "robustiqa": record.get("packages", {}).get("robustiqa"),
        "code": record.get("code"),
        "tables": found,
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
