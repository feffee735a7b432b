"""What attacks did: a row an attack, threat and direction, and the worst case per image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..bench.measures import bootstrap_mean
from .results import Group

COLUMNS = (
    "metric", "defense", "dataset", "attack", "norm", "eps", "direction", "gain_mean", "gain_lo", "gain_hi", "gain_max",
    "gain_8bit_mean", "psnr_mean", "ssim_mean", "linf_max", "l2_max", "forwards", "backwards", "queries",
    "seconds", "success_share", "above_standard_share", "above_standard_max",
    "n_ok", "n_planned",
)  # fmt: skip
"""Columns of `empirical.csv`, in order."""

STANDARD = "auto-iqa"
"""The attack that every other is held against."""

NOTICEABLE = 1e-3
"""Share of R by which an attack has to be stronger than the standard one to count as stronger."""


def empirical_rows(group: Group) -> list[dict[str, Any]]:
    """Rows of `empirical.csv`: gains in units of R with bootstrap intervals, measured budgets, costs.

    `above_standard_share` is the share of images that the attack moved further than `auto-iqa` did at the same threat,
    by more than .001 R, and `above_standard_max` the largest such excess in units of R; NaN where `auto-iqa` did not
    run. Behind a randomised defence both attacks are judged by the same draws, and differ by what is left of noise.

    The mean PSNR is over the images that the attack changed at all: where no step helped, it returns the image itself.
    """
    found = []
    cells = dict.fromkeys((c.attack, c.norm, c.eps[0], c.direction) for c in group.cells if c.kind == "attack")
    for attack, norm, eps, direction in cells:
        under = group.under(norm, eps, direction)
        at = under[(under["attack"] == attack) & (under["eps"] == eps)]  # 4/255 may also be written in decimals
        gain = at["gain"].to_numpy() / group.unit
        label = f"{attack}|{norm}|{eps!r}|{direction}|{group.dataset}"
        mean, lo, hi = bootstrap_mean(gain, at["reference"].tolist(), label)
        toward = gain if direction == "up" else -gain
        worst = "max" if direction == "up" else "min"
        excess = _excess(at, under, group, direction)
        found.append(
            group.key
            | {
                "attack": attack,
                "norm": norm,
                "eps": eps,
                "direction": direction,
                "gain_mean": mean,
                "gain_lo": lo,
                "gain_hi": hi,
                "gain_max": getattr(gain, worst)() if len(gain) else np.nan,
                "gain_8bit_mean": _mean(at["gain_8bit"]) / group.unit,
                "psnr_mean": _mean(at["psnr"][np.isfinite(at["psnr"])]),
                "ssim_mean": _mean(at["ssim"]),
                "linf_max": at["linf"].max() if len(at) else np.nan,
                "l2_max": at["l2"].max() if len(at) else np.nan,
                "forwards": _mean(at["forwards"]),
                "queries": _mean(at["queries"]),
                "backwards": _mean(at["backwards"]),
                "seconds": _mean(at["seconds"]),
                "success_share": float(np.mean(toward > 0)) if len(gain) else np.nan,
                "above_standard_share": float((excess > NOTICEABLE).mean()) if len(excess) else np.nan,
                "above_standard_max": float(excess.max()) if len(excess) else np.nan,
                "n_ok": len(at),
                "n_planned": group.n_planned("attack", attack=attack, norm=norm, eps=(eps,), direction=direction),
            }
        )
    return found


def name_of(attack: str | None) -> str:
    """The name in an attack's plug-in string; "" for none."""
    return (attack or "").split("[")[0]


def is_standard(attack: str) -> bool:
    """Whether an attack's plug-in string names the standard worst case."""
    return name_of(attack) == STANDARD


def standard_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the rows that are of the standard worst case."""
    return rows[rows["attack"].isin([name for name in rows["attack"].unique() if is_standard(name)])]


def _excess(at: pd.DataFrame, under: pd.DataFrame, group: Group, direction: str | None) -> np.ndarray:
    """By how much, in units of R, an attack beat the standard one, image by image; empty where that did not run.

    `under` has all attacks at the same threat. Both scores are from the same evaluation draws.
    """
    if at.empty or is_standard(str(at["attack"].iloc[0])) or not np.isfinite(group.unit):
        return np.empty(0)
    standard = standard_rows(under).drop_duplicates("image").set_index("image")["attacked"]
    mine = at.set_index("image")["attacked"]
    common = mine.index.intersection(standard.index)
    sign = group.sign if direction == "up" else -group.sign
    return sign * (mine.loc[common] - standard.loc[common]).to_numpy(dtype=float) / group.unit


def worst_case(group: Group, norm: str, eps: float, direction: str = "up") -> pd.DataFrame:
    """Per image the strongest attack at one threat.

    Returns:
        a row an image, indexed by image id: `attacked` (metric units), `gain` (units of R, signed), `reference`,
        `truth`, `clean`; empty if no attack ran there.
    """
    at = group.under(norm, eps, direction)
    if at.empty:
        return at.assign(gain=[]).set_index("image")
    strength = at["gain"] if direction == "up" else -at["gain"]
    chosen = at.loc[strength.groupby(at["image"]).idxmax().to_numpy()].set_index("image")
    # In the order of the data set, not of the alphabet: tables do not depend on it, but people read them.
    chosen = chosen.loc[[i for i in group.clean["image"] if i in chosen.index]]
    return chosen.assign(gain=chosen["gain"] / group.unit)


def largest_shift(group: Group, eps: float, norm: str) -> pd.DataFrame:
    """Per image the largest |shift| over attacks and directions at one threat, indexed by image (metric units)."""
    at = group.under(norm, eps)
    return at.assign(shift=(at["attacked"] - at["clean"]).abs()).groupby("image", sort=False)[["shift"]].max()


def _mean(column: pd.Series) -> float:
    return float(column.mean()) if len(column) else float("nan")
