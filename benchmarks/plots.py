"""The pictures of the page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from robustiqa.bench.files import write_atomically

from .tables import Table

_STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_COLOURS = {"speed": "#0072B2", "cost": "#D55E00"}
_SIDES = {"speed": "speed over the baseline (right is faster)", "cost": "cost over the baseline (right costs more)"}
_ACROSS = 3


def plot_ratios(tables: Sequence[Table], path: Path) -> Path:
    """Every row but the baselines, with its interval: speeds in one panel, costs in another, on a logarithmic axis."""
    panels = [(reads, [table for table in tables if table.reads == reads]) for reads in ("speed", "cost")]
    panels = [(reads, some) for reads, some in panels if some]
    lines = [sum(len(table.rows) - 1 for table in some) for _, some in panels]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.4, 1.2 + 0.27 * sum(lines)), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[n + 2 for n in lines]).ravel()
        for panel, (reads, some) in zip(axes, panels, strict=True):
            _ratios(panel, reads, some)
        return _saved(figure, path)


def _ratios(panel: Axes, reads: str, tables: Sequence[Table]) -> None:
    names: list[str] = []
    for table in tables:
        for row in table.rows:
            if row.name == table.baseline:
                continue
            place, ratio = len(names), row.ratio
            panel.plot([ratio.lo, ratio.hi], [place, place], color=_COLOURS[reads], linewidth=1.2, alpha=0.5)
            panel.plot(ratio.median, place, "o", color=_COLOURS[reads], markersize=5)
            names.append(_plain(f"{table.title} – {row.name}"))
    panel.axvline(1, color="0.4", linestyle="--", linewidth=0.8)
    panel.set_yticks(range(len(names)), names, fontsize=7)
    panel.invert_yaxis()
    if reads == "speed":
        panel.set_xlim(left=0)
    else:
        panel.set_xscale("log")
        _plain_ticks(panel.xaxis)
    panel.set_xlabel(_SIDES[reads])
    panel.grid(alpha=0.25, axis="x")


def plot_growth(tables: Sequence[Table], path: Path) -> Path:
    """A panel a series: the ratios to its first point, with their intervals, beside what is expected (dashed)."""
    across = min(_ACROSS, len(tables))
    down = -(-len(tables) // across)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.2 * across, 2.7 * down), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for panel, table in zip(axes, tables, strict=False):
            _growth(panel, table)
        for panel in axes[len(tables) :]:
            panel.set_visible(False)
        return _saved(figure, path)


def _growth(panel: Axes, table: Table) -> None:
    x = [row.x or 1.0 for row in table.rows]
    ratios = [row.ratio for row in table.rows]
    middle = [r.median for r in ratios]
    ends = [[r.median - r.lo for r in ratios], [r.hi - r.median for r in ratios]]
    panel.plot(x, [(v / x[0]) ** table.expected for v in x], "--", color="0.5", linewidth=1)
    panel.errorbar(x, middle, yerr=ends, fmt="o-", color=_COLOURS["cost"], markersize=4, linewidth=1)
    panel.set_xscale("log")
    panel.set_yscale("log")
    # A flat series needs room to look flat.
    panel.set_ylim(min(0.5, *(r.lo / 1.3 for r in ratios)), max(2.0, *(1.3 * r.hi for r in ratios)))
    _plain_ticks(panel.yaxis)
    panel.set_xticks(x, [f"{v:g}" for v in x])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_ylabel("ratio to the first point", fontsize=8)
    _, _, what = table.title.partition(": against the number of ")
    panel.set_xlabel(_plain(what or table.title), fontsize=8)
    panel.set_title(_plain(table.title.partition(":")[0]), loc="left", fontsize=8)
    panel.grid(alpha=0.25)


def _plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers."""
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: a pair of dollars would begin a formula."""
    return text.replace("`", "").replace("$", r"\$")


def _saved(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return path
