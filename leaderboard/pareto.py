"""Accuracy against worst gain: the points of a tuning, its Pareto fronts, and the choice on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bench.measures import srocc
from ..bench.suite import Headline
from .compare import paired
from .results import Group, read_results
from .summary import eps_text
from .threats import threat_rows

COLUMNS = (
    "metric", "family", "defense", "srocc", "srocc_lo", "srocc_hi", "threat", "gain_mean", "gain_lo", "gain_hi",
    "rscore_mean", "n_accuracy", "n_attacked", "complete", "front", "front_all", "chosen",
)  # fmt: skip
"""Columns of `tuning.csv`, in order."""


def tuning_table(root: str | Path, families: Mapping[str, str], keep: float) -> pd.DataFrame:
    """A row a metric and point of a tuning run: accuracy, worst gain, and whether it is on a front or chosen.

    Accuracy is the SROCC to the ground truth, from the data sets without attacks (or the attacked one, where there is
    no other); the worst gain is the mean of the strongest adaptive attack's per image, at the headline threat. A point
    that failed on an image is not `complete` and never chosen. `front` is the Pareto front within a family,
    `front_all` that over all of them.

    Chosen is, of the points of a family that keep at least `keep` of the undefended metric's SROCC, the one with the
    smallest worst gain; where none does, the one with the largest SROCC. Ties go to the first, the weaker one.

    Args:
        root: folder of the run.
        families: for each point, a canonical plug-in string, the family that one is chosen of; in order of strength.
        keep: share of the undefended SROCC.

    Raises:
        BadData: the folder is no run.
    """
    results = read_results(Path(root))
    attacked = {c.dataset for c in results.plan.cells if c.kind == "attack"}
    headline = results.suite.headline
    rows = []
    for metric, defense in dict.fromkeys((g.metric, g.defense) for g in results.groups):
        mine = [g for g in results.groups if (g.metric, g.defense) == (metric, defense)]
        row = {"metric": metric, "family": families.get(defense, defense), "defense": defense}
        rows.append(row | _point([g for g in mine if g.dataset not in attacked] or mine, mine, headline))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    order = {name: place for place, name in enumerate(families)}
    table["place"] = [order.get(str(name), -1) for name in table["defense"]]
    table = table.sort_values("place", kind="stable").drop(columns="place")
    return pd.concat([_judged(part, keep) for _, part in table.groupby("metric", sort=False)], ignore_index=True)


def _point(judged: Sequence[Group], all_of_it: Sequence[Group], headline: Headline) -> dict[str, Any]:
    """Accuracy on the groups `judged` and the worst gain wherever there were attacks, of one defended metric."""
    clean = pd.concat([g.clean.set_index("image") for g in judged])
    accuracy = paired(clean, lambda t: srocc(t["quality"].to_numpy(), t["truth"].to_numpy(dtype=float)), "srocc")
    row: dict[str, Any] = {"srocc": accuracy.value, "srocc_lo": accuracy.lo, "srocc_hi": accuracy.hi}
    row |= {"threat": f"{headline.norm} {eps_text(headline.eps)}", "n_accuracy": len(clean), "n_attacked": 0}
    planned = 0
    for group in all_of_it:
        planned += sum(c.stop - c.start for c in group.cells if c.kind == "attack")
        for found in threat_rows(group):
            if found["norm"] == headline.norm and np.isclose(found["eps"], headline.eps):
                row |= {f"gain_{part}": found[f"adaptive_gain_{part}"] for part in ("mean", "lo", "hi")}
                row |= {"rscore_mean": found["rscore_mean"], "n_attacked": found["n_adaptive"]}
    scored = sum(len(g.clean) for g in all_of_it) == sum(g.n_planned("score") for g in all_of_it)
    complete = scored and 0 < row["n_attacked"] == planned and math.isfinite(accuracy.value)
    return row | {"complete": complete}


def _judged(points: pd.DataFrame, keep: float) -> pd.DataFrame:
    """The points of one metric with their fronts and the choice of each family."""
    points = points.reset_index(drop=True)
    plain = points.loc[points["defense"] == "none", "srocc"]
    # So that the undefended metric itself always keeps enough, also where it is worse than none.
    floor = float(plain.iloc[0] - (1 - keep) * abs(plain.iloc[0])) if len(plain) else -math.inf
    points["front_all"] = on_front(points)
    points["front"], points["chosen"] = False, False
    for _, part in points.groupby("family", sort=False):
        points.loc[part.index, "front"] = on_front(part)
        best = choice(part, floor)
        if best is not None:
            points.loc[best, "chosen"] = True
    return points


def on_front(points: pd.DataFrame) -> np.ndarray:
    """(N,) bool: complete points that no other one beats in accuracy or worst gain without losing in the other."""
    accuracy, gain = points["srocc"].to_numpy(dtype=float), points["gain_mean"].to_numpy(dtype=float)
    usable = points["complete"].to_numpy(dtype=bool)
    better = (
        usable
        & (accuracy >= accuracy[:, None])
        & (gain <= gain[:, None])
        & ((accuracy > accuracy[:, None]) | (gain < gain[:, None]))
    )
    return usable & ~better.any(axis=1)


def choice(points: pd.DataFrame, floor: float) -> Any:
    """Index of the point of a family that `tuning_table` chooses; None if none is complete."""
    usable = points[points["complete"].astype(bool)]
    if usable.empty:
        return None
    accurate = usable[usable["srocc"] >= floor]
    return usable["srocc"].astype(float).idxmax() if accurate.empty else accurate["gain_mean"].astype(float).idxmin()
