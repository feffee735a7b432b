"""Certified bounds against what attacks reached, image by image, at the same norm and budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..bench.images import largest_l2, psnr_of_l2, rms_grey_levels
from ..bench.measures import certified_order, violation_p
from .empirical import largest_shift
from .results import Group

COLUMNS = (
    "metric", "defense", "dataset", "norm", "eps", "sigma", "n", "alpha", "kind", "coverage", "certified_delta_mean",
    "gaming_delta_mean", "certified_delta_raw_mean", "width_mean", "noise_spread_mean", "empirical_shift_worst_mean",
    "empirical_shift_max", "tightness_mean", "tightness_max", "violations", "violation_p", "vacuous_share",
    "abstained_share", "certified_pairs", "krocc_lower", "srocc_lower", "srocc_clean", "krocc_clean", "plcc_clean",
    "rms", "psnr", "truth", "n_ok", "n_planned",
)  # fmt: skip
"""Columns of `certified.csv`, in order."""


def certified_rows(group: Group) -> list[dict[str, Any]]:
    """Rows of `certified.csv`: one for each eps and kind. Lengths in units of R; `*_raw` in the metric's."""
    found = []
    table = group.certificates()
    for eps in dict.fromkeys(e for cell in group.cells if cell.kind == "certify" for e in cell.eps):
        if not (table["eps"] == eps).any():  # every image failed: the row stays, empty
            n_planned = group.n_planned("certify")
            norm = next(cell.norm for cell in group.cells if cell.kind == "certify")
            failed = {"norm": norm, "eps": eps, "kind": "population", "n_ok": 0, "n_planned": n_planned}
            found.append(group.key | failed)
    for (eps, kind), at in table.groupby(["eps", "certificate"], sort=True):
        found.append(group.key | _row(group, float(str(eps)), str(kind), at))
    return found


def _row(group: Group, eps: float, kind: str, at: pd.DataFrame) -> dict[str, Any]:
    at = at.set_index("image")
    score, lo, hi = (at[c].to_numpy() for c in ("score", "lo", "hi"))
    norm = str(at["certified_norm"].iloc[0])
    delta = np.maximum(hi - score, score - lo)
    gaming = hi - score if group.sign > 0 else score - lo
    found = largest_shift(group, eps, norm)["shift"].reindex(at.index)
    shift = found.to_numpy()
    # A bound of no width is tight if nothing moved, and violated otherwise.
    tightness = np.divide(shift, delta, out=np.where(shift > 0, np.inf, np.nan), where=delta > 0)
    alpha = float(at["alpha"].iloc[0])
    coverage = str(at["coverage"].iloc[0])
    broken, judged, attacks = _violations(group, eps, kind, at)
    order = _order(group, at)
    smallest = int((at["height"] * at["width"]).to_numpy().argmin())
    height, width = int(at["height"].iloc[smallest]), int(at["width"].iloc[smallest])
    length = largest_l2(norm, eps, height, width)
    return {
        "norm": norm,
        "eps": eps,
        "sigma": float(at["sigma"].iloc[0]),
        "n": int(at["n"].iloc[0]),
        "alpha": alpha,
        "kind": kind,
        "coverage": coverage,
        "certified_delta_mean": float(np.mean(delta)) / group.unit,
        "gaming_delta_mean": float(np.mean(gaming)) / group.unit,
        "certified_delta_raw_mean": float(np.mean(delta)),
        "width_mean": float(np.mean(hi - lo)) / group.unit,
        "noise_spread_mean": float(at["spread"].mean()) / group.unit,
        "empirical_shift_worst_mean": float(found.mean()) / group.unit,
        "empirical_shift_max": float(found.max()) / group.unit,
        "tightness_mean": float(np.nanmean(tightness)) if np.isfinite(tightness).any() else np.nan,
        "tightness_max": float(np.nanmax(tightness)) if not np.isnan(tightness).all() else np.nan,
        "violations": broken,
        "violation_p": violation_p(broken, judged, kind, coverage, alpha, attacks),
        "abstained_share": float(at["abstained"].astype(float).mean()),
        "vacuous_share": float(np.mean(~np.isfinite(hi - lo) | (hi - lo >= group.unit))),
        "certified_pairs": order.pairs,
        "krocc_lower": order.krocc,
        "srocc_lower": order.srocc,
        "srocc_clean": group.accuracy.srocc,
        "krocc_clean": group.accuracy.krocc,
        "plcc_clean": group.accuracy.fit.plcc,
        "rms": rms_grey_levels(length, height, width),
        "psnr": psnr_of_l2(length, height, width),
        "truth": group.truth_name,
        "n_ok": len(at),
        "n_planned": group.n_planned("certify"),
    }


def _violations(group: Group, eps: float, kind: str, at: pd.DataFrame) -> tuple[int, int, int]:
    """Images that an attack within eps drove out of their bound, images attacked at all, and attacks on each."""
    outside = outside_bounds(group, eps, kind, at)
    if outside.empty:
        return 0, 0, 0
    by_image = outside.groupby(level=0)
    return int(by_image.any().sum()), int(by_image.ngroups), int(by_image.size().max())


def outside_bounds(group: Group, eps: float, kind: str, at: pd.DataFrame) -> pd.Series:
    """Whether an attack within eps left the bound of its image: a value an attack that can be judged, by image.

    A population bound is violated if the whole confidence interval of the attacked median (fresh draws) lies outside:
    the estimate alone may leave it by its own noise. A deployed bound speaks of the m-draw score itself.

    Args:
        group: where the attacks are.
        eps: budget, in the norm of the certificate.
        kind: "population" or "deployed".
        at: the certificates of that budget and kind, indexed by image.
    """
    attacks = group.under(str(at["certified_norm"].iloc[0]), eps)
    bounds = at[["lo", "hi"]].add_suffix("_bound")
    joined = attacks.set_index("image")[["attacked", "attacked_lo", "attacked_hi"]].join(bounds, how="inner")
    if kind == "population":  # with m < 11 draws the interval is infinite: such an image cannot be judged
        joined = joined[np.isfinite(joined["attacked_lo"]) & np.isfinite(joined["attacked_hi"])]
    low, high = ("attacked_lo", "attacked_hi") if kind == "population" else ("attacked", "attacked")
    return (joined[low] > joined["hi_bound"]) | (joined[high] < joined["lo_bound"])


def _order(group: Group, at: pd.DataFrame):
    """Order certificate from the bounds at alpha/M, oriented so that larger = better."""
    lo, hi = at["family_lo"].to_numpy(), at["family_hi"].to_numpy()
    if group.sign < 0:
        lo, hi = -hi, -lo
    truth = at["truth"].to_numpy(dtype=float)
    return certified_order(lo, hi, truth if np.isfinite(truth).all() else None)
