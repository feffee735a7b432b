"""The tracks of the board: who is ranked in each, where, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ..bench.measures import Interval, bootstrap_mean
from ..bench.plan import Plan
from ..bench.suite import Headline
from .empirical import is_standard, worst_case
from .results import Group
from .rules import (
    CERTIFIED,
    EFFICIENCY,
    KEEP,
    L2,
    LINF,
    REMOVED,
    RULES_VERSION,
    TRACKS,
    Pool,
    attack_budget,
    certified_budget,
    excluded,
    is_noise,
)
from .statistics import agreement, holm, places, rank_intervals, sign_flip_p

COLUMNS = (
    "track", "metric", "dataset", "defense", "pool", "rank", "rank_lo", "rank_hi", "pool_rank", "value", "value_lo",
    "value_hi", "unit", "norm", "eps", "standard", "eligible", "reason", "n_images", "n_references", "n_ok",
    "n_planned", "rules",
)  # fmt: skip
"""Columns of `tracks.csv`, in order."""

NEIGHBOURS = (
    "track", "metric", "dataset", "ahead", "behind", "rank_ahead", "rank_behind", "difference", "difference_lo",
    "difference_hi", "p", "p_holm", "n_images", "n_references", "rules",
)  # fmt: skip
"""Columns of `neighbours.csv`, in order."""

STABILITY = (
    "track", "across", "within", "n_rankings", "n_entrants", "kendall_w", "p", "tau_mean", "tau_min", "rules",
)  # fmt: skip
"""Columns of `stability.csv`, in order."""

Budgets = dict[str, tuple[str, float | None]]


@dataclass
class Entrant:
    """One defended metric in one track: its value per image, and why it has no place, if it has none.

    Attributes:
        values: (image) `value`, smaller = better, and `reference`.
        standard: whether the standard attack has a result here.
        wanted: whether it was planned here.
        summary: the row of the summary.
    """

    track: str
    metric: str
    dataset: str
    defense: str
    pool: str
    values: pd.DataFrame
    interval: Interval
    norm: str
    eps: float
    standard: bool
    wanted: bool
    reason: str
    summary: dict[str, Any]


def track_budgets(plan: Plan, headline: Headline) -> Budgets:
    """Norm and budget of each track but the last, which is that of the headline."""
    return {
        CERTIFIED: ("l2", certified_budget(plan, headline)),
        LINF: ("linf", attack_budget(plan, headline, "linf")),
        L2: ("l2", attack_budget(plan, headline, "l2")),
    }


def entrants_of(
    group: Group, budgets: Budgets, summary: dict[str, Any], empirical: Sequence[dict[str, Any]]
) -> Iterator[Entrant]:
    """What a line of the board brings to each track that it takes part in.

    Args:
        group: the line.
        budgets: of `track_budgets`.
        summary, empirical: its rows in these tables.
    """
    certify = [c for c in group.cells if c.kind == "certify"]
    pool = Pool(bool(certify), _randomised(group), group.defense == "none").name
    for track, (norm, eps) in budgets.items():
        if eps is None or (track == CERTIFIED and not any(c.norm == norm and _near(c.eps, eps) for c in certify)):
            continue
        rows = [r for r in empirical if r["norm"] == norm and _near([r["eps"]], eps) and r["direction"] == "up"]
        reason = excluded(str(summary["flags"]).split(), track)
        if track == CERTIFIED:
            values = _deltas(group, norm, eps)
        else:
            worst = worst_case(group, norm, eps)
            values = worst[["gain", "reference"]].rename(columns={"gain": "value"})
            reason = reason or _untested(rows)
        values = values.assign(value=values["value"].astype(float) / group.own_share)
        mean = _interval(values, f"{track}|{group.dataset}")
        if not reason and not np.isfinite(mean.mean):
            reason = "no finite bound on every image" if track == CERTIFIED else "its scores have no range"
        standard = [r for r in rows if is_standard(r["attack"])]
        yield Entrant(track, group.metric, group.dataset, group.defense, pool, values, mean, norm, eps,
                      any(r["n_ok"] for r in standard), bool(standard), reason, summary)  # fmt: skip


def track_tables(
    entrants: Iterable[Entrant], costs: Sequence[tuple[str, str, int]], headline: Headline
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`tracks.csv`, a row a track, metric, data set and defence, and `neighbours.csv`, a row a pair of neighbours.

    Args:
        entrants: of all lines of the board.
        costs: forwards of one deployed score, by metric and defence.
        headline: its threat is that of the efficiency track.
    """
    blocks: dict[tuple[str, str, str], list[Entrant]] = {}
    for entrant in entrants:
        blocks.setdefault((entrant.dataset, entrant.metric, entrant.track), []).append(entrant)
    price = {(metric, defense): cost for metric, defense, cost in costs}
    units = {track.name: track.unit for track in TRACKS}
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for (dataset, metric, track), block in blocks.items():
        if track != CERTIFIED and any(e.wanted for e in block):
            for entrant in block:
                if not entrant.standard:
                    entrant.reason = entrant.reason or "not attacked by auto-iqa, as others here were"
        head = {"track": track, "metric": metric, "dataset": dataset}
        found, compared = _ranked(head, block, units[track])
        rows += found
        pairs += compared
        if track == f"empirical-{headline.norm}":
            rows += _efficiency(head | {"track": EFFICIENCY}, block, price)
    tracks = pd.DataFrame(rows, columns=list(COLUMNS))
    order = {track.name: place for place, track in enumerate(TRACKS)}
    tracks = tracks.astype(dict.fromkeys(("rank", "rank_lo", "rank_hi", "pool_rank"), "Int64"))
    tracks = tracks.sort_values(
        ["dataset", "metric", "track", "rank", "defense"],
        key=lambda column: column.map(order) if column.name == "track" else column,
        na_position="last",
    )
    return tracks.reset_index(drop=True), pd.DataFrame(pairs, columns=list(NEIGHBOURS))


def _interval(values: pd.DataFrame, label: str) -> Interval:
    """The mean with its interval; without one where a value is infinite."""
    numbers = values["value"].to_numpy(dtype=float)
    if len(numbers) and not np.isfinite(numbers).all():
        return Interval(float(numbers.mean()), float("nan"), float("nan"))
    return bootstrap_mean(numbers, values["reference"].tolist(), label)


def _near(budgets: Sequence[float], eps: float) -> bool:
    return bool(np.isclose(budgets, eps, rtol=1e-9).any())


def _untested(rows: Sequence[dict[str, Any]]) -> str:
    """Why the attacks at a threat say nothing about a defence; "" if they do."""
    attacks = [r for r in rows if not is_noise(r["attack"]) and r["n_ok"]]
    if not attacks:
        return "not attacked at this budget"
    noise = [r["gain_mean"] for r in rows if is_noise(r["attack"]) and r["n_ok"]]
    if noise and not any(r["gain_mean"] > max(noise) for r in attacks):
        return "no attack did better than random noise: it may hide its gradient"
    return ""


def _randomised(group: Group) -> bool:
    flags = pd.concat([group.clean["randomised"], group.rows["randomised"]]).dropna()
    return bool(flags.any())


def _deltas(group: Group, norm: str, eps: float) -> pd.DataFrame:
    """Population certified delta over R by image."""
    table = group.certificates()
    table = table[(table["certificate"] == "population") & (table["certified_norm"] == norm)]
    table = table[np.isclose(table["eps"].to_numpy(dtype=float), eps, rtol=1e-9)]
    delta = np.maximum(table["hi"] - table["score"], table["score"] - table["lo"]) / group.unit
    return table.assign(value=delta).set_index("image")[["value", "reference"]]


def _row(head: dict[str, Any], entrant: Entrant, unit: str) -> dict[str, Any]:
    values = entrant.values
    return head | {
        "defense": entrant.defense,
        "pool": entrant.pool,
        **dict.fromkeys(("rank", "rank_lo", "rank_hi", "pool_rank"), pd.NA),
        "value": entrant.interval.mean,
        "value_lo": entrant.interval.lo,
        "value_hi": entrant.interval.hi,
        "unit": unit,
        "norm": entrant.norm,
        "eps": entrant.eps,
        "standard": entrant.standard,
        "eligible": not entrant.reason,
        "reason": entrant.reason,
        "n_images": len(values),
        "n_references": values["reference"].nunique(),
        "n_ok": entrant.summary["n_ok"],
        "n_planned": entrant.summary["n_planned"],
        "rules": RULES_VERSION,
    }


def _placed(rows: Sequence[dict[str, Any]]) -> None:
    """Fill in the places of eligible rows, over all and within their pools."""
    for row, place in zip(rows, places([r["value"] for r in rows]) if rows else (), strict=True):
        row["rank"] = int(place)
    for pool in {r["pool"] for r in rows}:
        mine = [r for r in rows if r["pool"] == pool]
        for row, place in zip(mine, places([r["value"] for r in mine]), strict=True):
            row["pool_rank"] = int(place)


def _ranked(
    head: dict[str, Any], entrants: Sequence[Entrant], unit: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of a track on one metric and data set, with places and their intervals, and tests between neighbours."""
    rows = [_row(head, e, unit) for e in entrants]
    chosen = [(row, e) for row, e in zip(rows, entrants, strict=True) if row["eligible"]]
    _placed([row for row, _ in chosen])
    if not chosen:
        return rows, []
    wide = pd.concat([e.values["value"].rename(k) for k, (_, e) in enumerate(chosen)], axis=1)
    references = pd.concat([e.values["reference"] for _, e in chosen])
    references = references[~references.index.duplicated()].reindex(wide.index).tolist()
    label = "|".join(head.values())
    found = rank_intervals(wide.to_numpy(dtype=float), references, label)
    for k, (row, _) in enumerate(chosen):
        row |= {"rank_lo": int(found.lo[k]), "rank_hi": int(found.hi[k])}
    order = sorted(range(len(chosen)), key=lambda k: (chosen[k][0]["rank"], chosen[k][0]["defense"]))
    pairs = []
    for ahead, behind in pairwise(order):
        difference = (wide[behind] - wide[ahead]).to_numpy(dtype=float)
        there = np.isfinite(difference)
        names = [name for name, kept in zip(references, there, strict=True) if kept]
        mean, lo, hi = bootstrap_mean(difference[there], names, f"neighbours|{head['track']}|{head['dataset']}")
        first, second = chosen[ahead][0], chosen[behind][0]
        pairs.append(
            head
            | {"ahead": first["defense"], "behind": second["defense"]}
            | {"rank_ahead": first["rank"], "rank_behind": second["rank"]}
            | {"difference": mean, "difference_lo": lo, "difference_hi": hi}
            | {"p": sign_flip_p(difference, references, f"{label}|{first['defense']}|{second['defense']}")}
            | {"n_images": int(there.sum()), "n_references": len(set(names)), "rules": RULES_VERSION}
        )
    for pair, adjusted in zip(pairs, holm([p["p"] for p in pairs]), strict=True):
        pair["p_holm"] = float(adjusted)
    return rows, pairs


def _efficiency(
    head: dict[str, Any], entrants: Sequence[Entrant], costs: Mapping[tuple[str, str], int]
) -> list[dict[str, Any]]:
    """Rows of the efficiency track: what one score costs, of those that help and keep their accuracy."""
    if not costs:  # plans of earlier versions do not say
        return []
    undefended = next((e for e in entrants if e.defense == "none"), None)
    rows = []
    for entrant in entrants:
        if entrant.defense == "none":
            continue
        flags = str(entrant.summary["flags"]).split()
        reason = entrant.reason or excluded(flags, EFFICIENCY) or _no_use(entrant, undefended)
        cost = costs.get((entrant.metric, entrant.defense), np.nan)
        price = {"value": cost, "value_lo": cost, "value_hi": cost}
        rows.append(_row(head, entrant, TRACKS[-1].unit) | price | {"eligible": not reason, "reason": reason})
    _placed([row for row in rows if row["eligible"]])
    for row in rows:
        row |= {"rank_lo": row["rank"], "rank_hi": row["rank"]}  # a cost is a count: there is nothing to doubt
    return rows


def _no_use(entrant: Entrant, undefended: Entrant | None) -> str:
    """Why a defence does not help enough, or costs too much accuracy, to be asked for its price; "" if it does."""
    if undefended is None or undefended.reason:
        return "the undefended metric has no figure to compare with"
    gain, before = entrant.interval.mean, undefended.interval.mean
    if not gain <= (1 - REMOVED) * before:
        return f"a worst gain of {gain:.3g} is more than {1 - REMOVED:.0%} of the undefended {before:.3g}"
    srocc, plain = (float(e.summary["srocc_clean"]) for e in (entrant, undefended))
    if not np.isfinite([srocc, plain]).all():
        return "there is no SROCC to judge its accuracy by"
    if srocc < plain - (1 - KEEP) * abs(plain):
        return f"an SROCC of {srocc:.3g} is less than {KEEP:.0%} of the undefended {plain:.3g}"
    return ""


def stability_table(tracks: pd.DataFrame) -> pd.DataFrame:
    """Agreement of a track's rankings, of the entrants that have a place in all of them.

    Returns:
        a row for each track and metric over its data sets (`across` "data sets", `within` the metric), and for each
        track and data set over its metrics, where there are at least two.
    """
    rows = []
    ranked = tracks[tracks["eligible"].astype(bool)] if len(tracks) else tracks
    for across, over, within in (("data sets", "dataset", "metric"), ("metrics", "metric", "dataset")):
        for (track, fixed), part in ranked.groupby(["track", within], sort=False) if len(ranked) else ():
            wide = part.pivot(index=over, columns="defense", values="value").astype(float)
            if len(wide) < 2:
                continue
            common = wide.dropna(axis=1)
            # As printed: what is a tie on the board is one here.
            values = np.array([places(row) for row in common.to_numpy().tolist()], dtype=float)
            found = agreement(values.reshape(len(common), -1), f"{track}|{across}|{fixed}")
            head = {"track": track, "across": across, "within": fixed}
            counts = {"n_rankings": len(common), "n_entrants": common.shape[1]}
            figures = {"kendall_w": found.w, "p": found.p, "tau_mean": found.tau_mean, "tau_min": found.tau_min}
            rows.append(head | counts | figures | {"rules": RULES_VERSION})
    return pd.DataFrame(rows, columns=list(STABILITY))
