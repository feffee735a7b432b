"""Tables as text: plain for a terminal, Markdown for the page."""

from __future__ import annotations

import math

from robustiqa.leaderboard.board import escaped
from tabulate import tabulate

from .interleave import Summary
from .tables import Table

_AIMS = {0.0: "flat is 0", 1.0: "linear is 1"}
_HEADS = {"speed": "speed over the baseline", "cost": "cost over the baseline"}


def figure(value: float) -> str:
    """Three digits that count, without an exponent where that stays short."""
    size = abs(value)
    if size < 1e-9:  # rounding of a difference that is none
        return "0"
    if not 1e-4 <= size < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"


def interval(summary: Summary) -> str:
    """Median and its 95 % interval."""
    return f"{figure(summary.median)} [{figure(summary.lo)}, {figure(summary.hi)}]"


def plain(table: Table) -> str:
    """For a terminal."""
    shown = tabulate(_rows(table), "keys", "simple", disable_numparse=True, colalign=_align(table))
    return "\n".join([f"\n{table.title}", shown, *_said(table)])


def markdown(table: Table) -> str:
    """For the page, without heading and explanation: the rows, and below them what is to be said."""
    rows = [{escaped(key): escaped(value) for key, value in row.items()} for row in _rows(table)]
    shown = tabulate(rows, "keys", "pipe", disable_numparse=True, colalign=_align(table)) if rows else "(no figures)"
    return "\n\n".join([shown, *map(escaped, _said(table))])


def _align(table: Table) -> tuple[str, ...]:
    return ("left", "right", "right", "right", "right") if table.rows else ()


def _rows(table: Table) -> list[dict[str, str]]:
    return [
        {
            "": row.name + (" (baseline)" if row.name == table.baseline else ""),
            _HEADS[table.reads]: interval(row.ratio) if row.name != table.baseline else "1",
            "quartiles": f"{figure(row.ratio.q1)} – {figure(row.ratio.q3)}",
            "rounds": str(row.ratio.rounds),
            f"median, {table.unit}": figure(row.reading),
        }
        for row in table.rows
    ]


def _said(table: Table) -> list[str]:
    """Growth, notes and errors, a sentence each."""
    said = []
    if table.growth is not None:
        said.append(f"Grows as x to the power {interval(table.growth)}; {_AIMS[table.expected]}.")
    return said + table.notes + [f"FAILED: {row}: {why}" for row, why in table.errors.items()]
