"""The board: one row a metric, defence and data set, ranked by the worst gain at the headline threat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from ..bench.logistic import LogisticFit, fit_logistic
from ..bench.measures import bootstrap_mean, plcc, r_score, srocc
from ..bench.overlap import FLAG
from ..bench.suite import Headline
from .checks import check_flags
from .empirical import is_standard, name_of, worst_case
from .results import NO_RANGE, Group
from .rules import FAILED, NOT_ATTACKED, RULES_VERSION, is_noise

REVERSED_P = 0.001
"""How improbable it must be that scores which fall while the ground truth rises do so by chance."""


def summary_row(
    group: Group, headline: Headline, empirical: list[dict[str, Any]], certified: list[dict[str, Any]]
) -> dict[str, Any]:
    """One row of `summary.csv`, not yet ranked."""
    clean = group.clean
    truth, quality = clean["truth"].to_numpy(dtype=float), clean["quality"].to_numpy()
    worst = worst_case(group, headline.norm, headline.eps)
    label = f"worst|{headline.norm}|{headline.eps!r}|{group.dataset}"
    gain = bootstrap_mean(worst["gain"].to_numpy(dtype=float), worst["reference"].tolist(), label)
    attacked = group.sign * worst["attacked"].to_numpy(dtype=float)
    before = group.sign * worst["clean"].to_numpy(dtype=float)
    attacked_truth = worst["truth"].to_numpy(dtype=float)
    fits = {"plcc_clean": group.accuracy.fit, "plcc5_clean": fit_logistic(quality, truth, 5)}
    if len(worst):
        fits["plcc_attacked"] = fit_logistic(attacked, attacked_truth)
    population = [
        c
        for c in certified
        if c["n_ok"]
        and c["norm"] == "l2"
        and c["kind"] == "population"
        and np.isclose(c["eps"], headline.certified_eps)
    ]
    n_ok, n_planned = _coverage(group)
    flags = _flags(headline, empirical, certified, n_ok < n_planned) if n_ok else [FAILED]
    flags += _unit_flags(group) if n_ok else []
    if _reversed(quality, truth):
        flags.append("reversed")
    if group.overlaps:
        flags.append(FLAG)
    return (
        {"rank": pd.NA}
        | group.key
        | {
            "srocc_clean": group.accuracy.srocc,
            "plcc_clean": fits["plcc_clean"].plcc,
            "krocc_clean": group.accuracy.krocc,
            "srocc_attacked": srocc(attacked, attacked_truth),
            "plcc_attacked": fits["plcc_attacked"].plcc if len(worst) else np.nan,
            "worst_gain_mean": gain.mean,
            "worst_gain_lo": gain.lo,
            "worst_gain_hi": gain.hi,
            "rscore_mean": float(np.mean(r_score(before, attacked, group.ends))) if len(worst) else np.nan,
            "certified_delta_mean": population[0]["certified_delta_mean"] if population else np.nan,
            "flags": " ".join([*flags, *check_flags(group)]),
            "n_ok": n_ok,
            "n_planned": n_planned,
            "truth": group.truth_name,
            "standard": any(_at_headline(r, headline) and r["n_ok"] and is_standard(r["attack"]) for r in empirical),
            "threat": threat_of(headline),
            "certified_eps": headline.certified_eps if population else np.nan,
            "range": group.unit,
            "range_source": group.range_source,
            "plcc_raw_clean": plcc(quality, truth),
            "plcc5_clean": fits["plcc5_clean"].plcc,
            "rmse_clean": fits["plcc_clean"].rmse,
            "plcc_note": _notes(fits),
            "range_ratio": group.range_ratio,
            "worst_gain_own": gain.mean / group.own_share,
            "rules": RULES_VERSION,
        }
    )


def _unit_flags(group: Group) -> list[str]:
    """What is to be said of R: that there is none, or that it is of a handful of scores."""
    return ["no-range"] if group.range_source == NO_RANGE else ["range-of-few"] if group.range_of_few else []


def _reversed(quality: np.ndarray, truth: np.ndarray) -> bool:
    """Whether the oriented scores fall while the ground truth rises: PLCC after a fit, which has no sign, hides it."""
    if not srocc(quality, truth) < 0:  # also where there is none
        return False
    found: Any = spearmanr(quality, truth, alternative="less")
    return bool(found.pvalue < REVERSED_P)


def _notes(fits: dict[str, LogisticFit]) -> str:
    """Which columns have no figure after the fit, and why."""
    reasons: dict[str, list[str]] = {}
    for column, fit in fits.items():
        if fit.reason:
            reasons.setdefault(fit.reason, []).append(column)
    return "; ".join(f"{', '.join(columns)}: {reason}" for reason, columns in reasons.items())


def ranked(rows: list[dict[str, Any]], tracks: pd.DataFrame, headline: Headline) -> pd.DataFrame:
    """The rows in the order of their rank, which is that in the track of the headline threat."""
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    mine = tracks[tracks["track"] == f"empirical-{headline.norm}"].set_index(["metric", "defense", "dataset"])["rank"]
    keys = pd.MultiIndex.from_frame(table[["metric", "defense", "dataset"]])
    table["rank"] = mine.reindex(keys).astype("Int64").array  # whole numbers also beside rows without a place
    return table.sort_values(["dataset", "metric", "rank", "defense"], na_position="last").reset_index(drop=True)


def _coverage(group: Group) -> tuple[int, int]:
    """Results and planned results, counted in images over all cells of the group but the reliability checks."""
    certified = group.certificates()
    ok = len(group.clean) + len(group.attacks()) + certified[["cell", "image"]].drop_duplicates().shape[0]
    return ok, sum(cell.stop - cell.start for cell in group.cells if cell.kind != "check")


def _flags(
    headline: Headline, empirical: list[dict[str, Any]], certified: list[dict[str, Any]], incomplete: bool
) -> list[str]:
    """What a reader must know before believing the row."""
    flags = []
    if incomplete:
        flags.append("incomplete")
    if not any(_at_headline(r, headline) and r["n_ok"] and not is_noise(r["attack"]) for r in empirical):
        flags.append(NOT_ATTACKED)
    certified = [c for c in certified if c["n_ok"]]
    if any(c["violations"] and c["violation_p"] < 0.001 for c in certified):
        flags.append("certificate-violated")
    if any(c["vacuous_share"] == 1 for c in certified):
        flags.append("vacuous-at-some-eps")
    noise = {
        (r["norm"], r["eps"], r["direction"]): abs(r["gain_mean"])
        for r in empirical
        if is_noise(r["attack"]) and np.isfinite(r["gain_mean"])
    }
    for row in empirical:
        baseline = noise.get((row["norm"], row["eps"], row["direction"]))
        toward = row["gain_mean"] if row["direction"] == "up" else -row["gain_mean"]
        if baseline is not None and row["n_ok"] and not is_noise(row["attack"]) and not toward > baseline:
            flags.append(f"no-op:{name_of(row['attack'])}@{row['norm']}:{row['eps']:.3g}")
    return list(dict.fromkeys(flags))


def threat_of(headline: Headline) -> str:
    """The threat that the summary is about, as its column says it."""
    return f"{headline.norm} {eps_text(headline.eps)}"


def eps_text(eps: float) -> str:
    """4/255 where eps is a whole number of grey levels, and below one."""
    levels = eps * 255
    return f"{round(levels)}/255" if 0.99 <= levels < 255 and abs(levels - round(levels)) < 1e-6 else f"{eps:.6g}"


def _at_headline(row: dict[str, Any], headline: Headline) -> bool:
    return row["norm"] == headline.norm and bool(np.isclose(row["eps"], headline.eps)) and row["direction"] == "up"
