"""The picture of a tuning: accuracy against worst gain, a panel a family."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..bench.files import write_atomically
from ..bench.spec import parse_spec
from .pareto import accuracy_floor

_ACROSS = 5
_NOISE = 0.1
_GREY, _BLUE, _RED = "0.75", "#1f5fa8", "#c23b22"


def plot_fronts(table: pd.DataFrame, path: Path, keep: float) -> Path:
    """Draw the points of `tuning_table` of one metric; returns the path of the PNG.

    The first panel has all points and the front over all families; each further one a family with two or more points,
    from weak to strong, the others in grey. The chosen point is ringed; the dashed line is the accuracy to be kept.
    """
    usable = table[table["complete"].astype(bool)]
    plain = usable[usable["defense"] == "none"]
    families = [name for name, part in usable.groupby("family", sort=False) if len(part) > 1]
    down = -(-(len(families) + 1) // _ACROSS)
    across = min(_ACROSS, len(families) + 1)
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(2.9 * across, 2.5 * down), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
        _overview(axes[0], usable)
        for panel, name in zip(axes[1:], families, strict=False):
            _family(panel, usable, str(name))
        for panel in axes[: len(families) + 1]:
            if len(plain):
                first = plain.iloc[0]
                panel.plot(first["srocc"], first["gain_own"], marker="*", color="black", markersize=9, zorder=5)
                panel.axvline(accuracy_floor(usable, keep), color="0.5", linestyle="--", linewidth=0.8)
            panel.grid(alpha=0.25)
            # Gains range over three orders of magnitude; those about zero are noise.
            panel.set_yscale("symlog", linthresh=_NOISE, linscale=0.3)
            panel.set_yticks([0, 0.1, 0.2, 0.5, 1, 2, 5, 10], ["0", ".1", ".2", ".5", "1", "2", "5", "10"], minor=False)
            panel.set_yticks([], minor=True)
        if len(usable):
            axes[0].set_ylim(bottom=min(0.0, float(usable["gain_own"].min())) - _NOISE / 4)  # intervals may reach out
        for panel in axes[len(families) + 1 :]:
            panel.set_visible(False)
        threat = table["threat"].iloc[0] if len(table) else ""
        figure.supxlabel("SROCC to the ground truth (development images)")
        figure.supylabel(f"worst gain at {threat}\n(share of R, or of the\ndefended range if smaller)")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110)
    write_atomically(path, buffer.getvalue())
    return path


def _overview(panel: Axes, usable: pd.DataFrame) -> None:
    front = usable[usable["front_all"].astype(bool)].sort_values("srocc")
    panel.plot(usable["srocc"], usable["gain_own"], "o", color=_GREY, markersize=4)
    panel.plot(front["srocc"], front["gain_own"], "o", color=_RED, markersize=4)
    panel.step(front["srocc"], front["gain_own"], where="pre", color=_RED, linewidth=1)
    panel.set_title("all; front in red, undefended: star")


def _family(panel: Axes, usable: pd.DataFrame, name: str) -> None:
    mine = usable[usable["family"] == name]
    own = mine["range_ratio"].clip(upper=1)
    panel.plot(usable["srocc"], usable["gain_own"], "o", color=_GREY, markersize=3)
    panel.errorbar(
        mine["srocc"],
        mine["gain_own"],
        yerr=[(mine["gain_mean"] - mine["gain_lo"]) / own, (mine["gain_hi"] - mine["gain_mean"]) / own],
        fmt="o-",
        color=_BLUE,
        markersize=4,
        linewidth=1,
        elinewidth=0.6,
    )
    for _, row in mine.iterrows():
        family = parse_spec(name).params
        text = " ".join(str(v) for k, v in parse_spec(str(row["defense"])).params.items() if k not in family)
        panel.annotate(text, (row["srocc"], row["gain_own"]), xytext=(3, 3), textcoords="offset points", fontsize=6)
    chosen = mine[mine["chosen"].astype(bool)]
    panel.plot(chosen["srocc"], chosen["gain_own"], "o", markersize=9, markerfacecolor="none", color=_BLUE)
    panel.set_title(name)
