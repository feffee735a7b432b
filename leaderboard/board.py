"""Tables as Markdown, and the sections of the board that show the tracks."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
from tabulate import tabulate

from .rules import EFFICIENCY, RULES_VERSION, TRACKS
from .summary import eps_text

_TRACK = {
    "places": "rank", "pool_place": "in pool", "defense": "defence", "pool": "pool", "value": "value",
    "interval": "95% interval", "p": "p to the next", "reason": "without a place because",
}  # fmt: skip
_STABILITY = {
    "track": "track", "across": "across", "within": "of", "n_rankings": "rankings", "n_entrants": "entrants",
    "kendall_w": "Kendall's W", "p": "p", "tau_mean": "mean tau", "tau_min": "least tau",
}  # fmt: skip


def escaped(text: str) -> str:
    """Text that stays text in a cell of a Markdown table: no column, tag, link or line of its own."""
    text = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("|", "\\|").replace("](", "]\\(")


def table(frame: pd.DataFrame, columns: dict[str, str]) -> str:
    """A Markdown table of some columns, by their headers."""
    if frame.empty:
        return "(none)"
    cells = frame[list(columns)].astype(object).to_numpy().tolist()
    right = ["left" if frame[c].dtype.kind not in "ifu" and c != "rank" else "right" for c in columns]
    return tabulate(
        [[_shown(value) for value in row] for row in cells],
        headers=list(columns.values()),
        tablefmt="pipe",
        disable_numparse=True,
        colalign=right,
    )


def _shown(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else escaped(str(value))


def track_sections(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Lines of Markdown: every track with its rule, its places and how sure they are."""
    tracks, neighbours, stability = (tables[name] for name in ("tracks", "neighbours", "stability"))
    if tracks.empty:
        return []
    how = ("A place has its 95 % interval in brackets; p is of the difference to the next place, adjusted for all "
           "neighbours of a table (Holm). With n photographs no p is below 2 / 2^n (five: .06): few of them order a "
           "board, and do not prove it. docs/rules.md has the rules.")  # fmt: skip
    lines = [f"## Tracks (rules {RULES_VERSION})", "", how, ""]
    for track in TRACKS:
        mine = tracks[tracks["track"] == track.name]
        if mine.empty:
            continue
        lines += [f"### {track.name}", "", f"{track.rule} Value: {track.measure}, in units of {track.unit}.", ""]
        for (dataset, metric), block in mine.groupby(["dataset", "metric"], sort=False):
            first = block.iloc[0]
            budget = f" at {first['norm']} {eps_text(first['eps'])}"
            lines += [f"{metric} on {dataset}{budget}{_provisional(track.name, block)}:", ""]
            here = (neighbours["track"] == track.name) & (neighbours["metric"] == metric)
            pairs = neighbours[here & (neighbours["dataset"] == dataset)].set_index("ahead")["p_holm"]
            lines += [table(_readable(block, pairs), _TRACK), ""]
    if len(stability):
        lines += ["### Do the rankings agree?", "", table(stability, _STABILITY), ""]
    return lines


def _provisional(track: str, block: pd.DataFrame) -> str:
    """A word of warning where the standard attack did not run on anybody."""
    unproven = track.startswith("empirical") and not block["standard"].astype(bool).any()
    return " (provisional: `auto-iqa` did not run)" if unproven else ""


def _readable(block: pd.DataFrame, pairs: pd.Series) -> pd.DataFrame:
    def place(row: dict[str, Any]) -> str:
        if pd.isna(row["rank"]):
            return "-"
        exact = row["track"] == EFFICIENCY
        return str(row["rank"]) if exact else f"{row['rank']} [{row['rank_lo']}, {row['rank_hi']}]"

    rows = block.to_dict("records")
    ends = [(row["value_lo"], row["value_hi"]) for row in rows]
    return block.assign(
        places=[place({str(k): v for k, v in row.items()}) for row in rows],
        pool_place=["-" if pd.isna(row["pool_rank"]) else str(row["pool_rank"]) for row in rows],
        interval=["-" if pd.isna(lo) or lo == hi else f"{lo:.3f} to {hi:.3f}" for lo, hi in ends],
        p=[float(pairs.get(row["defense"], float("nan"))) for row in rows],
    )
