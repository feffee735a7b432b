"""A board in brief: for every metric a row a defence, with accuracy, gains and bounds, as a README shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from ..bench.errors import BadData
from ..bench.suite import Headline
from .board import escaped
from .compare import srocc_interval
from .report.blocks import short_names, threat_text
from .report.frames import read_table
from .results import Group, read_results
from .rules import L2, LINF

COLUMNS = (
    "metric", "dataset", "defense", "label", "pool", "n_images", "n_references", "accuracy_dataset", "truth",
    "n_rated", "srocc", "srocc_lo", "srocc_hi", "threat", "gain", "gain_lo", "gain_hi", "rank", "rank_lo", "rank_hi",
    "reason", "other_threat", "other", "other_lo", "other_hi", "certified_threat", "certified", "found",
)  # fmt: skip
"""Columns of `brief`, in order."""

TITLES = {
    "place": "place", "defense": "defence", "accuracy": "SROCC", "gain": "worst gain, {threat}",
    "other": "worst gain, {other_threat}", "certified": "certified, {certified_threat}", "found": "attacks found there",
}  # fmt: skip
"""Columns of a table of `sections`; those without a figure are left out."""


def brief(root: Path) -> pd.DataFrame:
    """The rows of a board whose tables `collect` has written: one for each defence, metric and attacked data set.

    Args:
        root: folder of the run.

    Returns:
        columns `COLUMNS`, in the order of the board: `gain`, the value by which the headline track ranks, and its
        place (`reason` where there is none); `other`, that of the other norm's track; `certified`, the mean
        certified delta at the headline's budget, and `found`, the mean over the images of the largest shift that
        attacks reached there. `srocc` is that on the metric's largest data set with a ground truth, which may be
        another one than that attacked, with a 95 % interval over reference photographs. `pool` is that of a certified
        defence also on data sets on which no certificates were asked for.
    """
    results = read_results(root)
    headline = results.suite.headline
    tracks, certified = (read_table(root / "leaderboard" / f"{name}.csv") for name in ("tracks", "certified"))
    rows = []
    for metric in dict.fromkeys(group.metric for group in results.groups):
        mine = tracks[tracks["metric"] == metric]
        groups = [group for group in results.groups if group.metric == metric]
        judged = _judged(groups)
        main, other = (LINF, L2) if headline.norm == "linf" else (L2, LINF)
        first = mine[(mine["track"] == main) & (mine["n_images"] > 0)]
        proven = {str(row["defense"]): row["pool"] for row in _records(mine) if row["pool"].startswith("certified")}
        labels = short_names([str(name) for name in dict.fromkeys(mine["defense"])])
        for row in _records(first):
            key = {name: row[name] for name in ("metric", "dataset", "defense")}
            rows.append(
                key
                | {"label": labels[str(row["defense"])], "pool": proven.get(str(row["defense"]), row["pool"])}
                | {name: row[name] for name in ("n_images", "n_references", "rank", "rank_lo", "rank_hi", "reason")}
                | _value(row, "gain", "threat")
                | _value(next(iter(_same(mine[mine["track"] == other], key)), None), "other", "other_threat")
                | _bound(_same(certified, key), headline)
                | _accuracy(judged.get(str(row["defense"])))
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _judged(groups: Sequence[Group]) -> dict[str, Group]:
    """By defence, the line of the board by which a metric's accuracy is told: on its largest rated data set."""
    sizes: dict[str, int] = {}
    for group in groups:
        if np.isfinite(group.accuracy.srocc):
            sizes[group.dataset] = max(sizes.get(group.dataset, 0), len(group.clean))
    largest = max(sizes, key=lambda name: sizes[name], default=None)
    return {group.defense: group for group in groups if group.dataset == largest}


def _same(table: pd.DataFrame, key: dict[str, Any]) -> list[dict[str, Any]]:
    if table.empty:
        return []
    return _records(table[(table[list(key)] == pd.Series(key)).all(axis=1)])


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _value(row: dict[str, Any] | None, name: str, threat: str) -> dict[str, Any]:
    """What a row of a track says, under the names of `COLUMNS`; nothing where there is none, or it was not attacked."""
    if row is None or not row["n_images"]:
        return {}
    return {name: row["value"], f"{name}_lo": row["value_lo"], f"{name}_hi": row["value_hi"],
            threat: threat_text(row["norm"], row["eps"])}  # fmt: skip


def _bound(rows: Sequence[dict[str, Any]], headline: Headline) -> dict[str, Any]:
    for row in rows:
        if row["kind"] == "population" and row["norm"] == "l2" and np.isclose(row["eps"], headline.certified_eps):
            return {"certified": row["certified_delta_mean"], "found": row["empirical_shift_worst_mean"],
                    "certified_threat": threat_text("l2", row["eps"])}  # fmt: skip
    return {}


def _accuracy(group: Group | None) -> dict[str, Any]:
    if group is None:
        return {}
    found = srocc_interval(group)
    return {"accuracy_dataset": group.dataset, "truth": group.truth_name, "n_rated": len(group.clean),
            "srocc": found.value, "srocc_lo": found.lo, "srocc_hi": found.hi}  # fmt: skip


def sections(table: pd.DataFrame) -> str:
    """Markdown: a heading, a line and a table for each metric and attacked data set of `brief`."""
    parts = []
    for (metric, dataset), block in table.groupby(["metric", "dataset"], sort=False):
        first = block.iloc[0]
        photographs = f"{first['n_images']} images of {first['n_references']} photographs"
        if first["n_images"] == first["n_references"]:
            photographs = f"{first['n_images']} photographs"
        judged = block[block["srocc"].notna()]
        accuracy = " There is no ground truth to judge accuracy by."
        if len(judged):
            rated = judged.iloc[0]
            accuracy = f" SROCC: {rated['truth']} of `{rated['accuracy_dataset']}` ({int(rated['n_rated'])} images)."
        heading = f"**`{escaped(str(metric))}`, attacked on `{escaped(str(dataset))}`** ({photographs})."
        parts += [heading + accuracy, "", _table(block), ""]
    return "\n".join(parts)


def _table(block: pd.DataFrame) -> str:
    cells = pd.DataFrame({
        "place": [_place(row) for row in block.to_dict("records")],
        "defense": [f"`{escaped(str(name))}`" for name in block["defense"]],
        "accuracy": _with_interval(block, "srocc"),
        "gain": _with_interval(block, "gain"),
        "other": _with_interval(block, "other"),
        "certified": [_figure(value) for value in block["certified"]],
        "found": [_figure(value) for value in block["found"]],
    })  # fmt: skip
    shown = [name for name in TITLES if (cells[name] != "–").any()]
    words = {name: _first(block[name]) for name in ("threat", "other_threat", "certified_threat")}
    titles = [TITLES[name].format(**words) for name in shown]
    right = ["left" if name == "defense" else "right" for name in shown]
    return tabulate(cells[shown].to_numpy().tolist(), titles, "pipe", disable_numparse=True, colalign=right)


def _first(column: pd.Series) -> str:
    there = column.dropna()
    return str(there.iloc[0]) if len(there) else ""


def _place(row: Any) -> str:
    if pd.isna(row["rank"]):
        return "–"
    lo, hi = int(row["rank_lo"]), int(row["rank_hi"])
    return f"{int(row['rank'])} [{lo}–{hi}]" if lo < hi else str(int(row["rank"]))


def _with_interval(block: pd.DataFrame, name: str) -> list[str]:
    found = []
    for value, lo, hi in zip(block[name], block[f"{name}_lo"], block[f"{name}_hi"], strict=True):
        between = "" if pd.isna(lo) else f" [{_figure(lo)}, {_figure(hi)}]"
        found.append(_figure(value) + between)
    return found


def _figure(value: Any) -> str:
    """Two digits after the point, the minus of typography; a dash for no figure."""
    if pd.isna(value):
        return "–"
    text = "∞" if np.isinf(value) else f"{abs(value):.2f}"
    return f"−{text}" if value < 0 and text != "0.00" else text


def described(table: pd.DataFrame) -> str:
    """What the picture of a board shows, in words, for those who do not see it."""
    first = pictured(table)
    metric, dataset, threat = (first[name].iloc[0] for name in ("metric", "dataset", "threat"))
    points = [f"{row['label']} {_figure(row['gain'])} at SROCC {_figure(row['srocc'])}"
              for row in first.sort_values("gain", kind="stable").to_dict("records")]  # fmt: skip
    certified = table[table["certified"].notna() & (table["metric"] == metric)]
    bounds = [f"{row['label']} {_figure(row['certified'])}, found {_figure(row['found'])}"
              for row in certified.to_dict("records")]  # fmt: skip
    text = f"Worst gain against accuracy, {metric} on {dataset}, {threat}: {'; '.join(points)}."
    return escaped(
        text + (f" Certified shift at {_first(table['certified_threat'])}: {'; '.join(bounds)}." if bounds else "")
    )


def pictured(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that the picture's left half shows: of the first metric, those with both figures, on one data set.

    On the one that accuracy was measured on too, or on crops of it, if that was attacked; else on the first.
    """
    mine = table[(table["metric"] == table["metric"].iloc[0]) & table["srocc"].notna() & table["gain"].notna()]
    if mine.empty:
        raise BadData("the board has no row with both accuracy and worst gain: nothing can be drawn")
    family = mine["dataset"].str.split("[").str[0] == mine["accuracy_dataset"].str.split("[").str[0]
    chosen = mine[family] if family.any() else mine
    return chosen[chosen["dataset"] == chosen["dataset"].iloc[0]]
