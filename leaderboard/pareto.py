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
from .compare import clipped, paired
from .empirical import NOTICEABLE
from .results import FEWEST, Group, read_results
from .summary import eps_text
from .threats import own_gain, threat_rows

COLUMNS = (
    "metric", "family", "defense", "srocc", "srocc_lo", "srocc_hi", "threat", "gain_mean", "gain_lo", "gain_hi",
    "range_ratio", "gain_own", "rscore_mean", "n_accuracy", "n_attacked", "complete", "reason", "front", "front_all",
    "chosen",
)  # fmt: skip
"""Columns of `tuning.csv`, in order."""


def tuning_table(root: str | Path, families: Mapping[str, str], keep: float) -> pd.DataFrame:
    """A row a metric and point of a tuning run: accuracy, worst gain, and whether it is on a front or chosen.

    Accuracy is the SROCC to the ground truth, from the data sets without attacks (or the attacked one, where there is
    no other); the worst gain is the mean of the strongest adaptive attack's per image, at the headline threat. A point
    that failed on an image is not `complete` and never chosen; `reason` says why.

    SROCC does not see the scale of the scores, and a gain in units of the undefended metric's R shrinks with it: a
    defence that only squeezes the scale would look robust. So points are compared by `gain_own`, the worst gain over
    min(1, `range_ratio`), where `range_ratio` is the range of the defended scores over R, a mean over the data sets of
    the accuracy: squeezing gains nothing, and neither does stretching.

    `front` is the Pareto front of SROCC and `gain_own` within a family, `front_all` that over all of them. Chosen is,
    of the points of a family that keep at least `keep` of the undefended metric's SROCC, the one with the smallest
    `gain_own`; where none does, the one with the largest SROCC. Among points less than .001 above the smallest it is
    the one with the largest SROCC, and of equal ones the first, the weaker one.

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
    left_out = dict(results.plan.skipped)
    order = [*dict.fromkeys(["none", *families])]
    rows = []
    for metric in dict.fromkeys(g.metric for g in results.groups):
        for defense in order:
            row = {"metric": metric, "family": families.get(defense, defense), "defense": defense}
            mine = [g for g in results.groups if (g.metric, g.defense) == (metric, defense)]
            if mine:
                quiet = [g for g in mine if g.dataset not in attacked]
                rows.append(row | _point(quiet or mine, mine, headline))
            elif (why := left_out.get(f"{defense} on {metric}")) is not None:
                rows.append(row | {"n_accuracy": 0, "n_attacked": 0, "complete": False, "reason": why})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return pd.concat([_judged(part, keep) for _, part in table.groupby("metric", sort=False)], ignore_index=True)


def _point(judged: Sequence[Group], all_of_it: Sequence[Group], headline: Headline) -> dict[str, Any]:
    """Accuracy on the groups `judged` and the worst gain wherever there were attacks, of one defended metric."""
    clean = pd.concat([g.clean.set_index("image") for g in judged])
    accuracy = paired(clean, lambda t: srocc(t["quality"].to_numpy(), t["truth"].to_numpy(dtype=float)), "srocc")
    ends = clipped(accuracy._asdict())
    row: dict[str, Any] = {"srocc": accuracy.value, "srocc_lo": ends["lo"], "srocc_hi": ends["hi"]}
    ratio = float(np.mean([g.range_ratio for g in judged]))
    row |= {"threat": f"{headline.norm} {eps_text(headline.eps)}", "range_ratio": ratio, "gain_own": np.nan}
    row |= {"n_accuracy": len(clean), "n_attacked": 0}
    planned = 0
    for group in all_of_it:
        for found in threat_rows(group):
            if found["norm"] == headline.norm and np.isclose(found["eps"], headline.eps):
                planned += found["n_planned_adaptive"]
                row |= {f"gain_{part}": found[f"adaptive_gain_{part}"] for part in ("mean", "lo", "hi")}
                row |= {"gain_own": own_gain(found["adaptive_gain_mean"], float(np.minimum(1, ratio)))}
                row |= {"rscore_mean": found["rscore_mean"], "n_attacked": found["n_adaptive"]}
    scored, asked = sum(len(g.clean) for g in all_of_it), sum(g.n_planned("score") for g in all_of_it)
    reason = _missing(scored, asked, row["n_attacked"], planned) or _unusable(row)
    return row | {"complete": not reason, "reason": reason}


def _missing(scored: int, asked: int, attacked: int, planned: int) -> str:
    """Which results are not there, in words; "" if all are."""
    if scored != asked:
        return f"failed on {asked - scored} of {asked} images without an attack"
    if not planned:
        return "the attack cannot run on it"
    return "" if attacked == planned else f"failed on {planned - attacked} of {planned} images under attack"


def _unusable(row: Mapping[str, Any]) -> str:
    """Why a point with all its results still cannot be compared, in words; "" if it can."""
    if not math.isfinite(row["srocc"]):
        return "has no SROCC: its scores are constant, or the images have no ground truth"
    if not math.isfinite(row["gain_own"]):
        return f"has no range of scores to set the gain against: give at least {FEWEST} images for the accuracy"
    return ""


def accuracy_floor(points: pd.DataFrame, keep: float) -> float:
    """The SROCC that a chosen point of one metric has to have; -inf where there is no undefended one.

    The undefended metric itself always keeps enough, also where its SROCC is below 0.
    """
    plain = points.loc[points["defense"] == "none", "srocc"].astype(float)
    return float(plain.iloc[0] - (1 - keep) * abs(plain.iloc[0])) if plain.notna().any() else -math.inf


def _judged(points: pd.DataFrame, keep: float) -> pd.DataFrame:
    """The points of one metric with their fronts and the choice of each family."""
    points = points.reset_index(drop=True)
    floor = accuracy_floor(points, keep)
    points["front_all"] = on_front(points)
    points["front"], points["chosen"] = False, False
    for _, part in points.groupby("family", sort=False):
        points.loc[part.index, "front"] = on_front(part)
        best = choice(part, floor)
        if best is not None:
            points.loc[best, "chosen"] = True
    return points


def on_front(points: pd.DataFrame) -> np.ndarray:
    """(N,) bool: complete points that no other one beats in accuracy or worst gain without losing in the other.

    A gain beats another one by at least .001: below that it is noise.
    """
    accuracy, gain = points["srocc"].to_numpy(dtype=float), points["gain_own"].to_numpy(dtype=float)
    usable = points["complete"].to_numpy(dtype=bool)
    better = (
        usable
        & (accuracy >= accuracy[:, None])
        & (gain <= gain[:, None])
        & ((accuracy > accuracy[:, None]) | (gain < gain[:, None] - NOTICEABLE))
    )
    return usable & ~better.any(axis=1)


def choice(points: pd.DataFrame, floor: float) -> Any:
    """Index of the point of a family that `tuning_table` chooses; None if none is complete."""
    usable = points[points["complete"].astype(bool)]
    if usable.empty:
        return None
    accurate = usable[usable["srocc"].astype(float) >= floor]
    if not accurate.empty:
        gain = accurate["gain_own"].astype(float)
        usable = accurate[gain <= gain.min() + NOTICEABLE]
    return usable["srocc"].astype(float).idxmax()
