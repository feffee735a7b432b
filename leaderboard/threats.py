"""What attacks that know the defence gain over those that do not: a row a defended metric and threat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..bench.measures import bootstrap_mean, r_score
from ..bench.plan import Cell
from .empirical import NOTICEABLE, is_standard, name_of, standard_rows
from .results import Group

COLUMNS = (
    "metric", "defense", "dataset", "norm", "eps", "direction", "naive_gain_mean", "naive_gain_lo", "naive_gain_hi",
    "adaptive_gain_mean", "adaptive_gain_lo", "adaptive_gain_hi", "difference_mean", "difference_lo", "difference_hi",
    "range_ratio", "adaptive_gain_own_mean", "below_naive_share", "below_naive_max",
    "rscore_mean", "rscore_lo", "rscore_hi", "n_naive", "n_adaptive", "n_common", "n_planned_naive",
    "n_planned_adaptive", "standard",
)  # fmt: skip
"""Columns of `threats.csv`, in order."""

NAIVE = "naive"
NOT_ADAPTIVE = (NAIVE, "transfer", "uap", "facpa", "random-noise", "single-sign")
"""Attacks that never ask the defended metric: made for another one, made beforehand, or looking at nothing."""


def is_adaptive(attack: str) -> bool:
    """Whether an attack's plug-in string names one that asks the defended metric itself."""
    return name_of(attack) not in NOT_ADAPTIVE


def threat_rows(group: Group) -> list[dict[str, Any]]:
    """Rows of `threats.csv`, gains in units of R, oriented so that what the attacker wants is positive.

    The naive gain is that of `naive`, which attacks the undefended metric. The adaptive gain is, per image, that of the
    strongest attack that asks the defence (`NOT_ADAPTIVE` are the others); the R-score is of its result. Images on
    which one of the planned attacks failed are left out: a weaker one does not stand in for it. `n_naive` and
    `n_adaptive` count the images with all results, of those planned. Where both kinds ran, all figures are over the
    images that have both, `n_common`, and `difference` is adaptive minus naive.

    `below_naive_share` is the share of images on which the adaptive gain is smaller than the naive one, by more than
    .001 R, and `below_naive_max` the largest such difference: attacks that know more should not find less.

    `range_ratio` tells contraction from robustness: it is the defended range of clean scores over R (NaN with fewer
    than 10 images), and `adaptive_gain_own_mean` the adaptive gain in units of the defended range. `standard` says
    whether `auto-iqa` has a result for every image.
    """
    cells = [cell for cell in group.cells if cell.kind == "attack"]
    found = []
    for norm, eps, direction in dict.fromkeys((c.norm, c.eps[0], c.direction) for c in cells):
        planned = [c for c in cells if (c.norm, c.eps[0], c.direction) == (norm, eps, direction)]
        at = group.under(norm, eps, direction)
        at = at.assign(toward=at["gain"] * (1.0 if direction == "up" else -1.0) / group.unit)
        naive_cells = [c for c in planned if name_of(c.attack) == NAIVE]
        adaptive_cells = [c for c in planned if is_adaptive(c.attack or "")]
        naive, adaptive = _strongest(at, naive_cells), _strongest(at, adaptive_cells)
        counts = {"n_naive": len(naive), "n_adaptive": len(adaptive), "n_common": 0}
        if len(naive) and len(adaptive):
            common = adaptive.index.intersection(naive.index)
            naive, adaptive = naive.loc[common], adaptive.loc[common]
            counts["n_common"] = len(common)
        label = f"{norm}|{eps!r}|{direction}|{group.dataset}"
        gained = _interval("adaptive_gain", adaptive["toward"], adaptive, f"adaptive|{label}")
        found.append(
            group.key
            | {"norm": norm, "eps": eps, "direction": direction}
            | _interval("naive_gain", naive["toward"], naive, f"naive|{label}")
            | gained
            | _against(naive, adaptive, label)
            | {
                "range_ratio": group.range_ratio,
                "adaptive_gain_own_mean": own_gain(gained["adaptive_gain_mean"], group.range_ratio),
            }
            | _interval("rscore", _rscore(group, adaptive), adaptive, f"rscore|{label}")
            | counts
            | {
                "n_planned_naive": len(_images(naive_cells)),
                "n_planned_adaptive": len(_images(adaptive_cells)),
                "standard": _standard(at, planned),
            }
        )
    return found


def own_gain(gain: float, ratio: float) -> float:
    """A gain in units of R, over a ratio of ranges; NaN for constant scores, which have no range."""
    return gain / ratio if ratio > 0 else float("nan")


def _images(cells: Sequence[Cell]) -> set[int]:
    """Places in the data set of the images that the cells cover."""
    return {i for cell in cells for i in range(cell.start, cell.stop)}


def _strongest(rows: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """A row an image on which every attack of the cells has a result, indexed by it: the one that moved it furthest."""
    wanted = {cell.attack for cell in cells}
    mine = rows[rows["attack"].isin(wanted)]
    whole = mine.groupby("image")["attack"].transform("nunique") == len(wanted)
    mine = mine[whole.astype(bool)].sort_values("toward", kind="stable")
    return mine.drop_duplicates("image", keep="last").set_index("image")


def _against(naive: pd.DataFrame, adaptive: pd.DataFrame, label: str) -> dict[str, float]:
    """What knowing the defence is worth, on the images of both; NaN where one of them did not run."""
    if not (len(naive) and len(adaptive)):
        names = ("difference_mean", "difference_lo", "difference_hi", "below_naive_share", "below_naive_max")
        return dict.fromkeys(names, float("nan"))
    difference = adaptive["toward"] - naive["toward"]
    return _interval("difference", difference, adaptive, f"difference|{label}") | {
        "below_naive_share": float((-difference > NOTICEABLE).mean()),
        "below_naive_max": float((-difference).max()),
    }


def _rscore(group: Group, adaptive: pd.DataFrame) -> pd.Series:
    before, after = (group.sign * adaptive[c].to_numpy(dtype=float) for c in ("clean", "attacked"))
    return pd.Series(r_score(before, after, group.ends))


def _standard(rows: pd.DataFrame, planned: Sequence[Cell]) -> bool:
    """Whether the standard worst case was planned, and has a result for every image."""
    images = _images([cell for cell in planned if is_standard(cell.attack or "")])
    return bool(images) and standard_rows(rows)["image"].nunique() == len(images)


def _interval(name: str, values: pd.Series, rows: pd.DataFrame, label: str) -> dict[str, float]:
    found = bootstrap_mean(values.to_numpy(dtype=float), rows["reference"].tolist(), label)
    return {f"{name}_{part}": value for part, value in zip(("mean", "lo", "hi"), found, strict=True)}
