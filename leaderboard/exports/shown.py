"""Which columns of a table people are shown, under which headers, and how a field is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from .units import FLAG, TEXT, unit_of
from .values import typed

BLOCKS = ("track", "metric", "dataset")
"""Columns that head a block of rows, instead of standing in each of them."""


class Shown(NamedTuple):
    """A column for readers.

    Attributes:
        header: its header.
        value: the column with its value.
        ends: those with the ends of its interval.
        remark: whether a table of a paper does without it where nothing stands in it.
    """

    header: str
    value: str
    ends: tuple[str, str] | None = None
    remark: bool = False


_CHOICE = {
    "summary": (
        Shown("Rank", "rank"), Shown("Defence", "defense"), Shown("SROCC", "srocc_clean"), Shown("PLCC", "plcc_clean"),
        Shown("SROCC attacked", "srocc_attacked"),
        Shown("Worst gain", "worst_gain_mean", ("worst_gain_lo", "worst_gain_hi")),
        Shown("Certified delta", "certified_delta_mean"), Shown("Flags", "flags", remark=True),
    ),
    "tracks": (
        Shown("Rank", "rank", ("rank_lo", "rank_hi")), Shown("Defence", "defense"), Shown("Pool", "pool"),
        Shown("Value", "value", ("value_lo", "value_hi")), Shown("Not ranked because", "reason", remark=True),
    ),
    "neighbours": (
        Shown("Ahead", "ahead"), Shown("Behind", "behind"),
        Shown("Difference", "difference", ("difference_lo", "difference_hi")), Shown("p", "p"),
        Shown("p (Holm)", "p_holm"),
    ),
    "empirical": (
        Shown("Defence", "defense"), Shown("Attack", "attack"), Shown("Norm", "norm"), Shown("eps", "eps"),
        Shown("Direction", "direction"), Shown("Gain", "gain_mean", ("gain_lo", "gain_hi")),
        Shown("Gain, 8 bits", "gain_8bit_mean"), Shown("PSNR", "psnr_mean"), Shown("SSIM", "ssim_mean"),
    ),
    "certified": (
        Shown("Defence", "defense"), Shown("Norm", "norm"), Shown("eps", "eps"), Shown("RMS", "rms"),
        Shown("Kind", "kind"),
        Shown("Certified delta", "certified_delta_mean"), Shown("Worst shift", "empirical_shift_worst_mean"),
        Shown("Tightness", "tightness_max"), Shown("SROCC", "srocc_clean"), Shown("PLCC", "plcc_clean"),
    ),
}  # fmt: skip


def shown_columns(table: str, columns: list[str], chosen: bool) -> tuple[Shown, ...]:
    """What to show of a table: the columns as they are where somebody chose them, or nobody thought about it."""
    if chosen or table not in _CHOICE:
        return tuple(Shown(name, name) for name in columns if chosen or name not in BLOCKS)
    return tuple(one for one in _CHOICE[table] if one.value in columns)


def blocks(frame: pd.DataFrame, shown: tuple[Shown, ...]) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """The rows by what heads them, in order; one block where that stands among the columns."""
    heads = [name for name in BLOCKS if name in frame and name not in {one.value for one in shown}]
    if not heads:
        return [({}, frame)]
    return [(dict(zip(heads, map(str, key), strict=True)), part) for key, part in frame.groupby(heads, sort=False)]


def field(row: Mapping[str, str], one: Shown) -> str:
    """A field for readers: three decimals, "-" for nothing, an interval in brackets."""
    text = _number(one.value, row[one.value])
    if one.ends is None or text == "-":
        return text
    low, high = (_number(name, row[name]) for name in one.ends)
    return text if "-" in (low, high) or low == high == text else f"{text} [{low}, {high}]"


def is_number(one: Shown, rows: list[dict[str, str]]) -> bool:
    """Whether a column holds numbers, which stand on the right."""
    values = [typed(one.value, row[one.value]) for row in rows]
    if unit_of(one.value) in (TEXT, FLAG):
        return False
    return all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)


def _number(column: str, text: str) -> str:
    value = typed(column, text)
    if value is None:
        return text if text in ("inf", "-inf") else "-"
    if isinstance(value, float):
        return f"{value:.6g}" if column in ("eps", "sigma", "certified_eps") else f"{value:.3f}"
    return str(value)
