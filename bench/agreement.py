"""Whether two results of one cell are the same: exactly but for times, or up to the rounding of another machine."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from .records import SCHEMA

CONDITIONS = ("seconds", "batch")
"""Columns that say how it went, not what came out."""

TOLERANCE = 1e-4
"""Relative difference that another processor, thread count or batch size may make after many steps of an attack."""

_SCORES = frozenset(
    [
        *("clean", "clean_lo", "clean_hi", "attacked", "attacked_lo", "attacked_hi", "attacked_8bit"),
        *("attacked_8bit_lo", "attacked_8bit_hi", "gain", "gain_8bit", "score", "lo", "hi", "family_lo", "family_hi"),
        "spread",
    ]
)
"""Columns on the metric's scale: a gain is a difference of two scores, and as exact as they are."""


class Agreement(NamedTuple):
    """How two results compare.

    Attributes:
        largest: largest relative difference of a number; 0 for equal results.
        problem: where they do not agree, in words; "" if they do.
    """

    largest: float
    problem: str


def agreement(first: pa.Table, second: pa.Table, tolerance: float = TOLERANCE) -> Agreement:
    """Compare the rows of two results of one cell.

    Images that failed in one of them are left out: another machine may have had the memory. Text, counts and flags have
    to be equal; numbers differ by at most `tolerance` of the largest one in their column, scores, bounds and gains of
    the largest of all of those.

    Args:
        first, second: as `Store.read_cell` gives them.
        tolerance: relative; 0 for equal.
    """
    columns = [name for name in SCHEMA.names if name not in CONDITIONS]
    if first.select(columns).equals(second.select(columns)):
        return Agreement(0.0, "")
    a, b = (table.select(columns).to_pandas() for table in (first, second))
    bad = {*a.loc[a["status"] != "ok", "image"], *b.loc[b["status"] != "ok", "image"]}
    a, b = (table[~table["image"].isin(bad)].reset_index(drop=True) for table in (a, b))
    if len(a) != len(b):
        return Agreement(np.inf, f"{len(a)} and {len(b)} rows of the same images")
    scores = [name for name in columns if name in _SCORES]
    common = _largest(a[scores].to_numpy(float), b[scores].to_numpy(float))
    largest = 0.0
    for name in columns:
        x, y = a[name], b[name]
        if pa.types.is_floating(SCHEMA.field(name).type):
            u, v = x.to_numpy(float), y.to_numpy(float)
            scale = common if name in _SCORES else _largest(u, v)
            apart = _apart(u, v) / (scale or 1.0)
            largest = max(largest, float(apart.max(initial=0.0)))
            wrong = apart > tolerance
        else:
            wrong = ~((x == y) | (x.isna() & y.isna())).to_numpy(bool)
        if wrong.any():
            k = int(np.argmax(wrong))
            return Agreement(np.inf, f"column {name} of image {a['image'][k]!r} is {_shown(x[k])} and {_shown(y[k])}")
    return Agreement(largest, "")


def _largest(*values: np.ndarray) -> float:
    return max((float(np.abs(v[np.isfinite(v)]).max(initial=0.0)) for v in values), default=0.0)


def _apart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """|u - v|; 0 where both are the same infinity or both NaN, infinite where one only is."""
    same = (u == v) | (np.isnan(u) & np.isnan(v))
    finite = np.isfinite(u) & np.isfinite(v)
    apart = np.full(u.shape, np.inf)
    apart[finite] = np.abs(u[finite] - v[finite])
    apart[same] = 0.0
    return apart


def _shown(value: Any) -> str:
    return "empty" if pd.isna(value) else f"{value!r}" if isinstance(value, str) else f"{value}"
