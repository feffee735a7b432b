"""Reliability checks in the tables: flags of a row, and `checks.csv` with what they mean."""

from __future__ import annotations

from typing import Any

from ..bench.checks.reliability import RULES
from .results import Group

COLUMNS = ("metric", "defense", "dataset", "check", "raised", "value", "threshold", "not_checked", "raised_if",
           "meaning", "advice")  # fmt: skip
"""Columns of `checks.csv`, in order."""

UNCHECKED = "unchecked"
"""Flag of a row whose checks were planned and failed."""


def check_flags(group: Group) -> list[str]:
    """Names of the raised checks; `unchecked` where they could not be done."""
    rows = group.checks()
    if not len(rows):
        return [UNCHECKED] if any(cell.kind == "check" for cell in group.cells) else []
    return [str(name) for name in rows["check"][rows["raised"].astype(bool)]]


def check_rows(group: Group) -> list[dict[str, Any]]:
    """Rows of `checks.csv`: one a check, with its value, and why it was not done where it was not."""
    found = []
    for row in group.checks().to_dict("records"):
        rule = RULES[row["check"]]
        found.append(
            group.key
            | {
                "check": row["check"],
                "raised": bool(row["raised"]),
                "value": row["value"],
                "threshold": row["threshold"],
                "not_checked": row["message"],
                "raised_if": rule.raised_if,
                "meaning": rule.meaning,
                "advice": rule.advice,
            }
        )
    return found
