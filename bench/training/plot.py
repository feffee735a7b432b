"""The curves of a training as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import write_atomically

_HIDDEN = ("step", "seconds_per_step")


def plot_log(out: Path, stage: str) -> Path:
    """Draw `OUT/STAGE.csv` and, where there is one, `OUT/STAGE-validation.csv`, a panel a column; returns the PNG."""
    panels: list[tuple[str, pd.DataFrame, str]] = []
    for suffix, what in (("", "training"), ("-validation", "validation")):
        path = out / f"{stage}{suffix}.csv"
        if path.exists():
            table = pd.read_csv(path)
            panels += [(what, table, column) for column in table.columns if column not in _HIDDEN]
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.2 * across, 2.4 * down), layout="constrained")
        FigureCanvasAgg(figure)
        for place, (what, table, column) in enumerate(panels):
            axes = figure.add_subplot(down, across, place + 1)
            dots = "o-" if what == "validation" else "-"
            axes.plot(table["step"], table[column], dots, color="C0" if what == "training" else "C1", markersize=3)
            axes.set_title(f"{what}: {column}")
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110)
    path = out / f"{stage}.png"
    write_atomically(path, buffer.getvalue())
    return path
