"""What attacks that know the defence gain over those that do not: a row a defended metric and threat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..bench.measures import bootstrap_mean, r_score
from .empirical import NOTICEABLE
from .results import Group

COLUMNS = (
    "metric", "defense", "dataset", "norm", "eps", "direction", "naive_gain_mean", "naive_gain_lo", "naive_gain_hi",
    "adaptive_gain_mean", "adaptive_gain_lo", "adaptive_gain_hi", "below_naive_share", "below_naive_max",
    "rscore_mean", "rscore_lo", "rscore_hi", "n_naive", "n_adaptive",
)  # fmt: skip
"""Columns of `threats.csv`, in order."""

BASELINES = ("random-noise", "single-sign")
"""Attacks that look at nothing: neither naive nor adaptive."""


def threat_rows(group: Group) -> list[dict[str, Any]]:
    """Rows of `threats.csv`, gains in units of R, oriented so that what the attacker wants is positive.

    The naive gain is that of `naive`, which attacks the undefended metric. The adaptive gain is, per image, that of the
    strongest other attack; the R-score is of its result. `below_naive_share` is the share of images on which it gains
    less than the naive one, by more than .001 R, and `below_naive_max` the largest such difference: attacks that know
    more should not find less.
    """
    attacks = group.attacks()
    found = []
    for norm, eps, direction in dict.fromkeys(zip(attacks["norm"], attacks["eps"], attacks["direction"], strict=True)):
        at = attacks[(attacks["norm"] == norm) & (attacks["eps"] == eps) & (attacks["direction"] == direction)]
        kind = at["attack"].map(lambda text: text.split("[")[0])
        toward = at["gain"] * (1.0 if direction == "up" else -1.0) / group.unit
        naive = _strongest(at.assign(toward=toward)[kind == "naive"])
        adaptive = _strongest(at.assign(toward=toward)[~kind.isin(("naive", *BASELINES))])
        label = f"{norm}|{eps!r}|{direction}|{group.dataset}"
        common = adaptive.index.intersection(naive.index)
        missed = (naive.loc[common, "toward"] - adaptive.loc[common, "toward"]).to_numpy(dtype=float)
        before, after = (group.sign * adaptive[c].to_numpy(dtype=float) for c in ("clean", "attacked"))
        robust = r_score(before, after, group.ends) if len(adaptive) else np.empty(0)
        found.append(
            group.key
            | {"norm": norm, "eps": eps, "direction": direction}
            | _interval("naive_gain", naive["toward"], naive, f"naive|{label}")
            | _interval("adaptive_gain", adaptive["toward"], adaptive, f"adaptive|{label}")
            | {
                "below_naive_share": float((missed > NOTICEABLE).mean()) if len(common) else np.nan,
                "below_naive_max": float(missed.max()) if len(common) else np.nan,
            }
            | _interval("rscore", pd.Series(robust), adaptive, f"rscore|{label}")
            | {"n_naive": len(naive), "n_adaptive": len(adaptive)}
        )
    return found


def _strongest(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an image, indexed by it: the attack that moved it furthest."""
    return rows.sort_values("toward", kind="stable").drop_duplicates("image", keep="last").set_index("image")


def _interval(name: str, values: pd.Series, rows: pd.DataFrame, label: str) -> dict[str, float]:
    found = bootstrap_mean(values.to_numpy(dtype=float), rows["reference"].tolist(), label)
    return {f"{name}_{part}": value for part, value in zip(("mean", "lo", "hi"), found, strict=True)}
