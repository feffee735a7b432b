"""Fields of a CSV file as the values that they stand for."""

from __future__ import annotations

import math

from .units import FLAG, TEXT, unit_of


def typed(column: str, text: str) -> str | int | float | bool | None:
    """The value of a field: None for an empty one and for a number that is none or infinite.

    A field of a column that this version does not know is a number if it reads as one.
    """
    unit = unit_of(column)
    if unit == TEXT:
        return text or None
    if unit == FLAG or text in ("True", "False"):
        return {"True": True, "False": False}.get(text)
    try:
        number = float(text)
    except ValueError:
        return None if unit else text or None
    if not math.isfinite(number):
        return None
    return int(text) if text.lstrip("-").isdigit() else number
