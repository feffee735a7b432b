"""The picture of a board in brief: accuracy against worst gain, and certified bounds against what attacks found."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..bench.files import write_atomically
from .brief import pictured
from .report.blocks import threat_text

STYLES = {
    "undefended": ("X", "#000000"),
    "empirical deterministic": ("o", "#0072B2"),
    "empirical randomised": ("s", "#009E73"),
    "certified randomised": ("D", "#D55E00"),
    "certified deterministic": ("^", "#CC79A7"),
}
"""Pool -> marker and colour: kinds differ in both, in the palette of Okabe and Ito."""

_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
_FOUND, _BOUND, _GREY = "#0072B2", "#D55E00", "0.55"
_NEAR, _BESIDE = 1.2, 0.1
"""Ratio of gains and difference of SROCCs below which the lower of two points has its name underneath."""
_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 9}


def plot_brief(table: pd.DataFrame, certified: pd.DataFrame, path: Path) -> Path:
    """Draw a board whose rows `brief` has made; the same figures give the same bytes with the same matplotlib.

    Left, of the first metric on the data set that its accuracy was measured on (or the first that was attacked): SROCC
    against the worst gain that ranks. Right, of that metric: the certified delta for every certified defence and l2
    budget, and the largest shift that attacks found there, if there were any; both mean over images.

    Args:
        table: of `brief`.
        certified: the rows of certified.csv.
        path: the PNG.
    """
    left = pictured(table)
    right = certified[
        (certified["metric"] == table["metric"].iloc[0])
        & (certified["kind"] == "population")
        & (certified["norm"] == "l2")
        & np.isfinite(certified["certified_delta_mean"].astype(float))
    ]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.4, 4.3), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, width_ratios=(1.2, 1)) if len(right) else [figure.subplots()]
        _accuracy(panels[0], left)
        if len(right):
            _bounds(panels[1], right, dict(zip(table["defense"], table["label"], strict=True)))
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=150, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return path


def _accuracy(panel: Axes, rows: pd.DataFrame) -> None:
    """SROCC against worst gain, each point with its intervals and its name."""
    for pool, (marker, colour) in STYLES.items():
        mine = rows[rows["pool"] == pool]
        if mine.empty:
            continue
        ends = {"xerr": _reach(mine, "srocc"), "yerr": _reach(mine, "gain")}
        panel.errorbar(mine["srocc"], mine["gain"], **ends, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.4)
        panel.plot(mine["srocc"], mine["gain"], marker, color=colour, markersize=6.5, label=pool)
    above = None
    for row in rows.sort_values("gain", ascending=False, kind="stable").to_dict("records"):
        near = (
            above is not None and above["gain"] < _NEAR * row["gain"] and abs(above["srocc"] - row["srocc"]) < _BESIDE
        )
        panel.annotate(str(row["label"]), (row["srocc"], row["gain"]), xytext=(5, -11 if near else 5),
                       textcoords="offset points", fontsize=8)  # fmt: skip
        above = row
    first = rows.iloc[0]
    panel.set_yscale("log")
    _plain_ticks(panel.yaxis)
    panel.grid(alpha=0.25)
    panel.set_title(f"Attacked at {first['threat']}\n{first['metric']}, {first['dataset']}", **_TITLE)
    panel.set_xlabel(f"SROCC to {first['truth']}, {first['accuracy_dataset']} (right is better)")
    panel.set_ylabel("worst gain in R, or in the defended range (down is better)")
    panel.legend(fontsize=8, frameon=False, loc="best")


def _bounds(panel: Axes, rows: pd.DataFrame, labels: dict[str, str]) -> None:
    """A line a defence and budget from what attacks found to the bound that nothing crosses."""
    rows = rows.sort_values(["eps", "certified_delta_mean"], ascending=[False, False], kind="stable")
    names = []
    for place, row in enumerate(rows.to_dict("records")):
        found, bound = row["empirical_shift_worst_mean"], row["certified_delta_mean"]
        panel.plot([found, bound], [place, place], color=_GREY, linewidth=1.2, zorder=1)
        panel.plot(found, place, "o", color=_FOUND, markersize=6.5, label=None if place else "found by attacks")
        panel.plot(bound, place, "|", color=_BOUND, markersize=16, markeredgewidth=3,
                   label=None if place else "certified: nothing is beyond")  # fmt: skip
        names.append(f"{labels.get(str(row['defense']), row['defense'])}\n{threat_text('l2', row['eps'])}")
    panel.set_yticks(range(len(names)), names)
    panel.set_xscale("log")
    _plain_ticks(panel.xaxis)
    panel.grid(alpha=0.25, axis="x")
    panel.set_title(f"Certified, and found by attacks\n{rows['metric'].iloc[0]}, {rows['dataset'].iloc[0]}", **_TITLE)
    panel.set_xlabel("mean shift of the score in units of R (left is better)")
    panel.set_ylim(-0.6, len(names) + 0.2)
    panel.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)


def _reach(rows: pd.DataFrame, name: str) -> Any:
    """Lengths of the error bars, downwards and upwards."""
    below, above = rows[name] - rows[f"{name}_lo"], rows[f"{name}_hi"] - rows[name]
    return np.nan_to_num(np.clip([below, above], 0, None))


def _plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers."""
    axis.set_major_locator(FixedLocator(_TICKS))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("0.", ".", 1)))
