"""A table as Markdown."""

from __future__ import annotations

import pandas as pd
from tabulate import tabulate

from ..board import escaped
from .shown import Shown, blocks, field, is_number


def markdown(frame: pd.DataFrame, shown: tuple[Shown, ...], table: str) -> str:
    """A heading and a pipe table for each block of rows (track, metric, data set)."""
    lines = []
    for head, part in blocks(frame, shown):
        rows = [{str(k): str(v) for k, v in row.items()} for row in part.to_dict("records")]
        cells = [[escaped(field(row, one)) for one in shown] for row in rows]
        align = ["right" if is_number(one, rows) else "left" for one in shown]
        headers = [escaped(one.header) for one in shown]
        title = ", ".join(escaped(text) for text in head.values()) or table
        grid = tabulate(cells, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=align) if rows else "-"
        lines += [f"## {title}", "", grid, ""]
    return "\n".join(lines)
