"""Rows of the tables by name: what each shows, the part of the suite that it needs, and whether two are the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..bench.errors import BadData, BadParameter
from ..bench.plan import Cell, read_run
from ..bench.store import Store
from ..bench.suite import AttackEntry, Suite
from .empirical import is_standard

ROW = "row"
"""Column with the id of a row, the last one of a table."""

GROUP = ("metric", "defense", "dataset")
KEYS = {
    "summary": (*GROUP, "threat"),
    "empirical": (*GROUP, "attack", "norm", "eps", "direction"),
    "threats": (*GROUP, "norm", "eps", "direction"),
    "certified": (*GROUP, "norm", "eps", "kind"),
}
"""Table -> the columns that say what a row is about."""

NOT_ITS_OWN = {"rank": "its place among the other rows", "seconds": "time on this machine"}
"""Columns that the same work need not give again, and what they are."""

_DIGITS = 10


def with_rows(table: str, frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The table with the ids of its rows: made of what a row shows and of the seed, not of its figures or its place.

    A table of another kind than in `KEYS`, or without rows, is returned as it is.
    """
    if table not in KEYS or frame.empty:
        return frame
    keys = frame[list(KEYS[table])].to_dict("records")
    return frame.assign(**{ROW: [_id(table, {str(k): v for k, v in row.items()}, seed) for row in keys]})


def _id(table: str, row: Mapping[str, Any], seed: int) -> str:
    """`s-3f9a1c02d7`: the table's initial, and the start of a digest."""
    shown = [repr(float(row[key])) if key == "eps" else str(row[key]) for key in KEYS[table]]
    return f"{table[0]}-{hashlib.sha256(json.dumps([table, seed, *shown]).encode()).hexdigest()[:_DIGITS]}"


class Row(NamedTuple):
    """A row of a board as it is on disk.

    Attributes:
        id: in column `row`.
        table: name of the table.
        values: column -> text; "" for an empty field.
    """

    id: str
    table: str
    values: dict[str, str]


def find_row(root: Path, text: str) -> Row:
    """The row of a run's board with this id, or with the only id that begins so.

    Raises:
        BadData: the folder is no run, has no tables, or one that cannot be read.
        BadParameter: there is no such row, or there are several.
    """
    found = {row.id: row for row in read_rows(root) if row.id.startswith(text)}
    if text in found:
        return found[text]
    if len(found) == 1:
        return next(iter(found.values()))
    what = f"begins several rows: {', '.join(sorted(found)[:5])}" if found else "is none of its rows"
    raise BadParameter(
        f"{text!r} {what}; the ids are in the column {ROW!r} of the tables in {str(root / 'leaderboard')!r}"
    )


def read_rows(root: Path) -> Iterator[Row]:
    """The rows of a run's tables; boards that were written before rows had ids get them now."""
    _, suite, _ = read_run(Store(root))
    paths = [root / "leaderboard" / f"{table}.csv" for table in KEYS]
    if not any(path.is_file() for path in paths):
        raise BadData(f"{str(root)!r} has no tables: `robustiqa collect` writes them")
    for table, path in zip(KEYS, paths, strict=True):
        if not path.is_file():
            continue
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            frame = with_rows(table, frame, suite.seed)
        except (OSError, ValueError, KeyError) as error:
            raise BadData(
                f"table {str(path)!r} cannot be read ({error}): `robustiqa collect` writes it again"
            ) from error
        for values in frame.to_dict("records"):
            yield Row(values[ROW], table, {str(column): text for column, text in values.items()})


def needed_suite(suite: Suite, cells: Sequence[Cell], row: Row) -> Suite:
    """The part of a suite that a row is made of: its cells have the same ids there.

    The scores of the undefended metric, whose spread is the unit R, are part of every plan.

    Args:
        suite: what was run.
        cells: what was planned.
        row: of the board of that run.
    """
    mine = [cell for cell in cells if all(getattr(cell, key) == row.values[key] for key in GROUP) and _needs(row, cell)]
    kinds = {cell.kind for cell in mine}
    attacked = dict.fromkeys((c.attack, c.norm, c.eps[0], c.direction) for c in mine if c.kind == "attack")
    return suite.model_copy(
        update={
            "name": f"{suite.name} {row.id}",
            "description": f"What row {row.id} of {row.table}.csv is made of.",
            "metrics": (row.values["metric"],),
            "defenses": (row.values["defense"],),
            "datasets": (row.values["dataset"],),
            "pairs": (),
            "attacks": tuple(
                AttackEntry.model_validate({"attack": name, f"{norm}": (eps,), "directions": (direction,)})
                for name, norm, eps, direction in attacked
            ),
            "certify": suite.certify if "certify" in kinds else None,
            "checks": suite.checks if "check" in kinds else None,
        }
    )


def _needs(row: Row, cell: Cell) -> bool:
    """Whether a row is made of a cell of its defended metric, among others."""
    if row.table == "summary" or cell.kind == "score":
        return True
    if cell.kind == "certify":
        return row.table == "certified"
    if (
        cell.kind != "attack"
        or cell.norm != row.values["norm"]
        or not np.isclose(cell.eps[0], float(row.values["eps"]))
    ):
        return False
    if row.table == "certified":
        return True
    if cell.direction != row.values["direction"]:
        return False
    # `above_standard_share` holds an attack against the standard one.
    return row.table == "threats" or cell.attack == row.values["attack"] or is_standard(cell.attack or "")


class Column(NamedTuple):
    """One field of a row, as stored and as computed again, and whether they are the same."""

    column: str
    stored: str
    again: str
    same: bool


def compare_rows(stored: Row, again: Row, tolerance: float) -> list[Column]:
    """Every column of the row's own, in the order of the table.

    Numbers a and b are the same if |a - b| <= tolerance * max(1, |a|), and with a tolerance of 0 if they are written
    alike: tables have six digits. What only one of the two has is not the same.
    """
    names = dict.fromkeys((*stored.values, *again.values))
    pairs = [(name, stored.values.get(name, ""), again.values.get(name, "")) for name in names]
    return [Column(name, a, b, _same(a, b, tolerance)) for name, a, b in pairs if name not in {ROW, *NOT_ITS_OWN}]


def _same(a: str, b: str, tolerance: float) -> bool:
    if a == b:
        return True
    try:
        x, y = float(a), float(b)
    except ValueError:
        return False
    return tolerance > 0 and math.isfinite(x) and abs(x - y) <= tolerance * max(1.0, abs(x))
