"""Accuracy of defences with intervals, and paired against a baseline: the same images, resampled together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from scipy.stats import t as student_t

from ..bench.errors import UnknownName
from ..bench.logistic import fit_logistic
from ..bench.measures import FEW_GROUPS, RESAMPLES, krocc, plcc, srocc
from ..bench.seeds import derive_seed
from ..bench.spec import parse_spec
from .results import Group, read_results

MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"srocc": srocc, "plcc": plcc, "krocc": krocc}
LEVEL = 0.95
MOST = 0.95
"""Share of the resamples that have to give a number; else there is no interval (nearly constant scores)."""
_AT_ONCE = 2**20
"""Images that are resampled at once: more would fill the memory."""


class Paired(NamedTuple):
    """A figure with its interval, and the two-sided p-value of its being 0 (of its logarithm, for a ratio)."""

    value: float
    lo: float
    hi: float
    p: float


def compare(root: str | Path, baselines: Sequence[str] = ()) -> pd.DataFrame:
    """SROCC, PLCC and KROCC to the ground truth of every defence of a run, and differences to each baseline.

    Intervals resample images, by reference photograph where several images share one. With fewer than 20 photographs
    the bootstrap is too narrow; there the intervals are a delete-one-photograph jackknife with Student's t. A
    difference is taken on the same resampled images for both defences.

    Args:
        root: folder of a run.
        baselines: defences to compare with; one that a metric and data set were not run with is left out there.

    Returns:
        a row for each metric, data set, defence, baseline ("" for the figure itself) and measure: `srocc`, `plcc`
        (raw), `krocc` (differences to the baseline), `plcc_logistic`, `rmse_logistic` and `plcc_logistic5` (after the
        4- and the 5-parameter fit; figures only), and for each certified budget `delta@NORM:EPS`, the mean population
        certified delta in units of R (ratios to the baseline of the same norm), with `value, lo, hi, p`, the images
        `n` behind it and those that were planned, `n_planned`: images that failed for either defence are in neither
        figure. p-values are of single comparisons: with many of them, some are small by chance. Where the images do
        not allow an interval or a p-value, these are NaN; where there is no value, `note` says why.

    Raises:
        BadData: the folder is no run.
        UnknownName: a baseline that is in no part of the run.
    """
    groups = read_results(Path(root)).groups
    wanted = [str(parse_spec(text)) for text in baselines]
    known = {g.defense for g in groups}
    for name in wanted:
        if name not in known:
            raise UnknownName("defence of this run", name, known)
    rows: list[dict[str, Any]] = []
    for metric, dataset in dict.fromkeys((g.metric, g.dataset) for g in groups):
        here = {g.defense: g for g in groups if (g.metric, g.dataset) == (metric, dataset)}
        for defense, group in here.items():
            head = {"metric": metric, "dataset": dataset, "defense": defense, "baseline": "", "note": ""}
            rows += [head | row for row in _own(group)]
            for name in wanted:
                if name in here and name != defense:
                    rows += [head | {"baseline": name} | row for row in _against(group, here[name])]
    columns = ["metric", "dataset", "defense", "baseline", "measure", "value", "lo", "hi", "p", "n", "n_planned"]
    return pd.DataFrame(rows, columns=[*columns, "note"])


def _own(group: Group) -> list[dict[str, Any]]:
    """Figures of one defence."""
    table, planned = _scores(group), group.n_planned("score")
    rows: list[dict[str, Any]] = []
    if _rated(table):
        for name, measure in MEASURES.items():
            found = paired(table, lambda t, m=measure: m(t["quality"].to_numpy(), t["truth"].to_numpy()), name)
            rows.append({"measure": name, **found._asdict(), "p": np.nan, "n": len(table), "n_planned": planned})
        scores = table["quality"].to_numpy(), table["truth"].to_numpy()
        four, five = fit_logistic(*scores), fit_logistic(*scores, 5)
        fitted = {"plcc_logistic": four.plcc, "rmse_logistic": four.rmse, "plcc_logistic5": five.plcc}
        for name, value in fitted.items():
            note = (five if name.endswith("5") else four).reason
            rows.append({"measure": name, "value": value, "n": len(table), "n_planned": planned, "note": note})
    for name, delta in _deltas(group).items():
        found = paired(delta, lambda t: float(t["delta"].mean()), name)
        counts = {"n": len(delta), "n_planned": group.n_planned("certify")}
        rows.append({"measure": name, **found._asdict(), "p": np.nan, **counts})
    # No correlation leaves [-1,1], whatever a jackknife of five photographs says.
    return [row | clipped(row) if row["measure"] in MEASURES else row for row in rows]


def clipped(row: Mapping[str, Any]) -> dict[str, float]:
    """The ends of an interval of a correlation, within [-1,1]."""
    return {key: float(np.clip(row[key], -1, 1)) for key in ("lo", "hi")}


def _against(group: Group, other: Group) -> list[dict[str, Any]]:
    """Differences of correlations and ratios of certified deltas to another defence, on the images of both."""
    both = _scores(group).join(_scores(other)["quality"].rename("quality_other"), how="inner")
    rows = []
    if _rated(both):
        for name, measure in MEASURES.items():

            def difference(t: pd.DataFrame, m: Callable[..., float] = measure) -> float:
                truth = t["truth"].to_numpy()
                return m(t["quality"].to_numpy(), truth) - m(t["quality_other"].to_numpy(), truth)

            counts = {"n": len(both), "n_planned": group.n_planned("score")}
            rows.append({"measure": name, **paired(both, difference, name)._asdict(), **counts})
    others = _deltas(other)
    for name, delta in _deltas(group).items():
        if name in others:
            joined = delta.join(others[name]["delta"].rename("delta_other"), how="inner")

            def ratio(t: pd.DataFrame) -> float:
                return float(np.log(t["delta"].mean()) - np.log(t["delta_other"].mean()))

            found = paired(joined, ratio, name)
            ends = {k: float(np.exp(getattr(found, k))) for k in ("value", "lo", "hi")}
            counts = {"n": len(joined), "n_planned": group.n_planned("certify")}
            rows.append({"measure": name, **ends, "p": found.p, **counts})
    return rows


def paired(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], label: str) -> Paired:
    """A statistic of images with interval and p-value, resampled by the column `reference`.

    Args:
        table: a row an image.
        statistic: of such a table with some rows left out or repeated.
        label: seeds the resampling, so that a table is the same on every run.
    """
    value = statistic(table)
    names = table["reference"].to_numpy()
    members = [np.flatnonzero(names == name) for name in sorted(set(names))]
    if len(members) < 2 or not np.isfinite(value):
        return Paired(value, np.nan, np.nan, np.nan)
    if len(members) < FEW_GROUPS:
        return _jackknife(table, statistic, members, value)
    rng = np.random.default_rng(derive_seed("compare", label))
    drawn = (rng.integers(len(members), size=len(members)) for _ in range(RESAMPLES))
    samples = np.array([statistic(table.iloc[np.concatenate([members[i] for i in row])]) for row in drawn])
    finite = np.isfinite(samples)
    if finite.mean() < MOST:
        return Paired(value, np.nan, np.nan, np.nan)
    samples = samples[finite]
    lo, hi = np.percentile(samples, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    # One more resample on either side: a bootstrap of N cannot show less than 1/N.
    tail = min((samples <= 0).sum(), (samples >= 0).sum()) + 1
    return Paired(value, float(lo), float(hi), min(1.0, 2 * float(tail) / (len(samples) + 1)))


def _jackknife(
    table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], members: list[np.ndarray], value: float
) -> Paired:
    n = len(members)
    left = np.array([statistic(table.drop(table.index[index])) for index in members])
    error = float(np.sqrt((n - 1) / n * np.square(left - left.mean()).sum()))
    if not (np.isfinite(error) and error > 0):  # no spread is no knowledge of it, as with four images in perfect order
        return Paired(value, np.nan, np.nan, np.nan)
    reach = float(student_t.ppf(0.5 + LEVEL / 2, n - 1)) * error
    return Paired(value, value - reach, value + reach, 2 * float(student_t.sf(abs(value) / error, n - 1)))


def _scores(group: Group) -> pd.DataFrame:
    """Clean qualities by image."""
    return group.clean.set_index("image")[["reference", "quality", "truth"]].astype({"truth": float}).sort_index()


def srocc_interval(group: Group) -> Paired:
    """SROCC to the ground truth with its interval, as `compare` gives it, but for the p-value.

    All resamples are ranked at once: the same draws as those of `paired`, in a fiftieth of the time. NaN where some
    image has no ground truth.
    """
    table = _scores(group)
    if not _rated(table):
        return Paired(np.nan, np.nan, np.nan, np.nan)
    quality, truth = table["quality"].to_numpy(), table["truth"].to_numpy()
    names, place = np.unique(table["reference"].to_numpy(dtype=str), return_inverse=True)
    if len(names) < FEW_GROUPS or len(names) < len(table):  # versions of one photograph make resamples of many sizes
        found = paired(table, lambda t: srocc(t["quality"].to_numpy(), t["truth"].to_numpy()), "srocc")
        return found._replace(p=np.nan, **clipped(found._asdict()))
    rng = np.random.default_rng(derive_seed("compare", "srocc"))
    order, samples = np.argsort(place), np.empty(0)
    for start in range(0, RESAMPLES, rows := max(1, _AT_ONCE // len(names))):
        drawn = [rng.integers(len(names), size=len(names)) for _ in range(start, min(start + rows, RESAMPLES))]
        part = order[np.array(drawn)]
        samples = np.concatenate([samples, _rank_correlations(quality[part], truth[part])])
    if len(samples) < MOST * RESAMPLES:
        return Paired(srocc(quality, truth), np.nan, np.nan, np.nan)
    lo, hi = np.percentile(samples, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Paired(srocc(quality, truth), float(lo), float(hi), np.nan)


def _rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of two tables (N,M): Pearson's of their ranks. Constant rows are left out."""
    x, y = (rankdata(table, axis=1) for table in (a, b))
    x, y = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (x, y))
    scale = np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    return (x * y).sum(axis=1)[scale > 0] / scale[scale > 0]


def _rated(table: pd.DataFrame) -> bool:
    return len(table) >= 3 and bool(np.isfinite(table["truth"]).all())


def _deltas(group: Group) -> dict[str, pd.DataFrame]:
    """Population certified delta over R by image, for each norm and budget."""
    table = group.certificates()
    if not len(table):
        return {}
    table = table[table["certificate"] == "population"]
    delta = np.maximum(table["hi"] - table["score"], table["score"] - table["lo"]) / group.unit
    table = table.assign(delta=delta).set_index("image").sort_index()
    parts = table.groupby(["certified_norm", "eps"])
    return {f"delta@{norm}:{float(str(eps)):g}": part[["reference", "delta"]] for (norm, eps), part in parts}
