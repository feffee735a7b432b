"""Transfer matrices that lie beside a run: `robustiqa transfer-matrix --out OUT/transfer.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ...bench.errors import BadData
from ..transfer import summarise
from .frames import plain, read_table

PATTERN = "transfer*.csv"
_COLUMNS = {"source", "target", "reference", "gain"}


def matrices(root: Path) -> list[dict[str, Any]]:
    """Mean gains with intervals of every transfer matrix in the run's folder, by file name.

    Raises:
        BadData: a file of that name is no such table.
    """
    found = []
    for path in sorted([*root.glob(PATTERN), *(root / "leaderboard").glob(PATTERN)]):
        gains = read_table(path)
        if not set(gains.columns) >= _COLUMNS or not pd.api.types.is_numeric_dtype(gains["gain"]):
            raise BadData(
                f"{str(path)!r} is no transfer matrix: expected a file of `robustiqa transfer-matrix --out`, with "
                f"columns {', '.join(sorted(_COLUMNS))}; give other files another name"
            )
        table = summarise(gains.dropna(subset=["gain"]))
        names = {key: list(dict.fromkeys(table[key].astype(str))) for key in ("source", "target")}
        cells = {(str(r["source"]), str(r["target"])): r for r in table.to_dict("records")}
        figures = ("gain", "lo", "hi", "n")
        grid = [[plain({k: cells[s, t][k] for k in figures}) if (s, t) in cells else None for t in names["target"]]
                for s in names["source"]]  # fmt: skip
        found.append({"file": path.name, "sources": names["source"], "targets": names["target"], "cells": grid})
    return found
