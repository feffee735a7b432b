"""Claims of a submission beside what a run of it has measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ..errors import RobustIQAError
from ..measures import bootstrap_mean
from ..registry import PACKAGE, registry, resolve_target
from .metadata import BreakSubmission, Claim

ROUNDING = 0.005
"""By how much a claim may be off in any case: people give two decimals."""

FAR = 0.05
"""How far from the measured value a claim may be, whatever the interval: that of five photographs can span all."""

Verdict = Literal["confirmed", "better", "not confirmed", "not measured"]
COMPARE = f"{PACKAGE}.leaderboard.compare:compare"
"""Intervals of correlations and of certified deltas; named here, not imported: bench does not depend on the board."""

_ENDS = {"worst_gain_mean": ("worst_gain_lo", "worst_gain_hi"), "gain_mean": ("gain_lo", "gain_hi")}
"""Columns that have their interval beside them."""
_COMPARED = {"srocc_clean": "srocc", "krocc_clean": "krocc"}
"""Columns whose interval `COMPARE` gives, and its name for them."""
_SUGGESTED = ("srocc_clean", "worst_gain_mean", "certified_delta_mean")


class Judged(NamedTuple):
    """A claim, the measured value with its 95 % interval (NaN where there is none), and what follows.

    `note` says why there is no value, or which row's figure it is.
    """

    claim: Claim
    measured: float
    lo: float
    hi: float
    verdict: Verdict
    note: str = ""


def judge_claims(claims: Sequence[Claim], defense: str, root: Path) -> list[Judged]:
    """Each claim beside the row of the run's tables that it speaks of.

    Args:
        claims: of a defence.
        defense: its plug-in string.
        root: folder of a run with its tables.
    """
    tables = {name: read_table(root / "leaderboard" / f"{name}.csv") for name in {claim.table for claim in claims}}
    compared = resolve_target(COMPARE)(root) if claims else pd.DataFrame()
    return [_judged(claim, defense, tables[claim.table], compared) for claim in claims]


def verdict_of(claimed: float, measured: float, lo: float, hi: float, tolerance: float, better: str) -> Verdict:
    """What follows for a claim from a measured value and its interval.

    It is confirmed inside the interval, of which no more counts than `FAR` to either side of the value: a claim speaks
    of the same images, and that others might give other figures is no excuse. Both ends are moved outwards by the
    larger of the claim's tolerance and `ROUNDING`. Beyond, the value is better than claimed, or does not confirm it.
    """
    least, most = _confirmed(measured, lo, hi, tolerance)
    if least <= claimed <= most:
        return "confirmed"
    measured_is_smaller = claimed > most
    return "better" if measured_is_smaller == (better == "smaller") else "not confirmed"


def judge_break(
    submission: BreakSubmission, gains: np.ndarray, references: Sequence[str]
) -> tuple[float, float, float, Verdict]:
    """The mean gain of a break with its 95 % interval over photographs, and what follows for the claimed one.

    Args:
        submission: the break.
        gains: (N,) of the images of its data set, in units of R.
        references: the photograph behind each.
    """
    target = submission.target
    label = f"break|{target.norm}|{target.eps!r}|{target.direction}|{target.dataset}"
    mean, lo, hi = bootstrap_mean(gains, references, label)
    lo, hi = (lo, hi) if math.isfinite(lo) else (mean, mean)
    better = "larger" if target.direction == "up" else "smaller"
    return mean, lo, hi, verdict_of(submission.gain, mean, lo, hi, 0.0, better)


def refutation(claimed: float, measured: float, lo: float, hi: float, tolerance: float) -> str:
    """What is said of a claim that is `not confirmed`: beside the value, what would be; arguments as `verdict_of`."""
    least, most = _confirmed(measured, lo, hi, tolerance)
    too_large = claimed > most
    # Rounded inwards: a figure that is typed as it stands here is confirmed.
    rounded = math.floor(most * 1e4) if too_large else math.ceil(least * 1e4)
    bound = f"at {'most' if too_large else 'least'} {rounded / 1e4:.10g}"
    capped = hi > measured + FAR if too_large else lo < measured - FAR
    counts = f"of an interval no more than {FAR:g} to either side of the measured value counts"
    why = f" ({counts}, with {max(tolerance, ROUNDING):g} beyond it)" if capped else ""
    return f"{claimed:g} was claimed, {measured:.4g} measured: {bound} would be confirmed{why}"


def _confirmed(measured: float, lo: float, hi: float, tolerance: float) -> tuple[float, float]:
    """The least and the largest claim that a value with this interval confirms."""
    slack = max(tolerance, ROUNDING)
    return max(lo, measured - FAR) - slack, min(hi, measured + FAR) + slack


def suggestions(defense: str, root: Path) -> Iterator[str]:
    """Lines for the key `claims` of a metadata file: the figures of the run that people look at first."""
    for row in read_table(root / "leaderboard" / "summary.csv").to_dict("records"):
        if not same_plugin("defense", row["defense"], defense):
            continue
        for measure in _SUGGESTED:
            if math.isfinite(row[measure]):
                about = f"metric: {json.dumps(row['metric'])}, dataset: {json.dumps(row['dataset'])}"
                yield f"- {{table: summary, measure: {measure}, {about}, value: {row[measure]:.4f}}}"


@cache
def same_plugin(kind: str, a: str, b: str) -> bool:
    """Whether two plug-in strings mean the same: a default may be written out in one of them."""
    if a == b:
        return True
    try:
        (one, first, _), (other, second, _) = registry.resolve(kind, a), registry.resolve(kind, b)
        return one.identity(first) == other.identity(second)
    except RobustIQAError:
        return False  # one of them is not known here


def row_of(table: pd.DataFrame, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of a table with these plug-ins, threat and kind; None where there is none."""
    for row in table.to_dict("records"):
        if all(_matches(name, row.get(name), wanted) for name, wanted in key.items()):
            return {str(name): value for name, value in row.items()}
    return None


def _matches(name: str, value: Any, wanted: Any) -> bool:
    if name in ("metric", "defense", "dataset", "attack"):
        return isinstance(value, str) and same_plugin(name, value, wanted)
    if name == "eps":
        return bool(np.isclose(value, wanted, rtol=1e-9, atol=0))
    return value == wanted


def _judged(claim: Claim, defense: str, table: pd.DataFrame, compared: pd.DataFrame) -> Judged:
    key: dict[str, Any] = {"metric": claim.metric, "defense": defense, "dataset": claim.dataset}
    if claim.table == "empirical":
        key |= {"attack": claim.attack, "direction": claim.direction or "up", "norm": claim.norm, "eps": claim.eps}
    elif claim.table == "certified":
        key |= {"norm": claim.norm, "eps": claim.eps, "kind": claim.certificate}
    row = row_of(table, key)
    if row is None:
        nothing = f"{claim.table}.csv of this run has no such row: another suite, data set or attack"
        return Judged(claim, np.nan, np.nan, np.nan, "not measured", nothing)
    value = float(row[claim.measure])
    if not math.isfinite(value):
        return Judged(claim, np.nan, np.nan, np.nan, "not measured", "the run has no figure there: see its flags")
    lo, hi = _interval(claim, row, compared)
    lo, hi = (lo, hi) if math.isfinite(lo) and math.isfinite(hi) else (value, value)
    verdict = verdict_of(claim.value, value, lo, hi, claim.tolerance, claim.better)
    return Judged(claim, value, lo, hi, verdict)


def _interval(claim: Claim, row: Mapping[str, Any], compared: pd.DataFrame) -> tuple[float, float]:
    """Ends of the interval of a figure, NaN where there is none."""
    if claim.measure in _ENDS and _ENDS[claim.measure][0] in row:
        lo, hi = _ENDS[claim.measure]
        return float(row[lo]), float(row[hi])
    measure = _COMPARED.get(claim.measure)
    if claim.measure == "certified_delta_mean":
        if claim.table == "summary":
            measure = f"delta@l2:{float(row['certified_eps']):g}"
        elif claim.certificate == "population":
            measure = f"delta@{row['norm']}:{float(row['eps']):g}"
    if measure is None or compared.empty:
        return np.nan, np.nan
    key = {"metric": row["metric"], "defense": row["defense"], "dataset": row["dataset"], "measure": measure}
    found = row_of(compared[compared["baseline"] == ""], key)
    return (np.nan, np.nan) if found is None else (float(found["lo"]), float(found["hi"]))


def read_table(path: Path) -> pd.DataFrame:
    """A table of a run; numbers as numbers, `none` as the word that it is."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])
