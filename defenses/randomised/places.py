"""Where a window lies, drawn at random: what cropping and padding share."""

from __future__ import annotations


def place(number: float, window: int, whole: int) -> int:
    """First row or column of a window in a longer side, each place alike likely for `number` uniform in [0,1)."""
    return int(number * (whole - window + 1))
