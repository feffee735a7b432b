"""What the page shows of one metric on one data set: rows, threats, certificates, heat maps, points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...bench.suite import Headline
from ..empirical import name_of
from ..summary import eps_text
from .commands import command_of
from .extracts import Extract
from .frames import only, plain, words

UNDEFENDED, CERTIFIED, RANDOMISED, DETERMINISTIC = "undefended", "certified", "randomised", "deterministic"
KEY = ("metric", "defense", "dataset")


class Tables(NamedTuple):
    """The rows of the CSV files of a run, as plain data; a table that is not there is empty.

    `tracks.csv` is written by programs that have numbered rules; without it the page places rows by their figures.
    """

    summary: list[dict[str, Any]]
    empirical: list[dict[str, Any]]
    threats: list[dict[str, Any]]
    certified: list[dict[str, Any]]
    checks: list[dict[str, Any]]
    tracks: list[dict[str, Any]]


def blocks(
    extracts: Sequence[Extract], headline: Headline, tables: Tables, record: Mapping[str, Any], out: str
) -> list[dict[str, Any]]:
    """One block a metric and data set, in the order of the summary."""
    found = []
    for metric, dataset in dict.fromkeys((row["metric"], row["dataset"]) for row in tables.summary):
        mine = {e.defense: e for e in extracts if (e.metric, e.dataset) == (metric, dataset)}
        here = Tables(*(only(rows, metric=metric, dataset=dataset) for rows in tables))
        found.append(_block(mine, here, headline, record, out))
    return found


def _block(
    extracts: Mapping[str, Extract], tables: Tables, headline: Headline, record: Mapping[str, Any], out: str
) -> dict[str, Any]:
    first = tables.summary[0]
    order = [row["defense"] for row in tables.summary]
    labels = short_names(order)
    certified = {row["defense"] for row in tables.certified}
    slow = _seconds_a_pass(tables.empirical)
    rows = []
    for row in tables.summary:
        mine = extracts.get(row["defense"])
        kind = _kind(row["defense"], row["defense"] in certified, mine)
        entry = {name: value for name, value in row.items() if name not in (*KEY, "flags")}
        entry |= {"defense": row["defense"], "label": labels[row["defense"]], "kind": kind,
                  "flags": words(row.get("flags")).split(), "command": command_of(row, record, out)}  # fmt: skip
        entry |= mine.accuracy if mine else {}
        entry["pass_ratio"] = slow[row["defense"]] / slow["none"] if {"none", row["defense"]} <= slow.keys() else None
        rows.append(plain(entry))
    return {
        "metric": first["metric"],
        "dataset": first["dataset"],
        "truth": words(first.get("truth")) or None,
        "unit": first.get("range"),
        "unit_source": words(first.get("range_source")),
        "headline": headline.model_dump() | {"text": threat_text(headline.norm, headline.eps)},
        "rows": rows,
        "threats": _threats(tables.threats, order),
        "certified": [_certified(part) for part in _parts(tables.certified, order)],
        "heat": _heat(tables.empirical, order),
        "panels": [panel for name in order if name in extracts for panel in extracts[name].panels],
        "tracks": _tracks(tables.tracks),
        "checked": _checked(tables.checks, order),
    }  # fmt: skip


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The name in each plug-in string where that tells it from the others; else the whole string."""
    bare = [name_of(name) for name in names]
    return {name: short if bare.count(short) == 1 else name for name, short in zip(names, bare, strict=True)}


def threat_text(norm: str, eps: float) -> str:
    """A threat in words: "l∞ 4/255", "l2 0.05"."""
    return f"{'l∞' if norm == 'linf' else 'l2'} {eps_text(eps) if norm == 'linf' else f'{eps:g}'}"


def _kind(defense: str, certified: bool, extract: Extract | None) -> str:
    if defense == "none":
        return UNDEFENDED
    if certified:
        return CERTIFIED
    return RANDOMISED if extract is not None and extract.randomised else DETERMINISTIC


def _seconds_a_pass(empirical: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds a forward or backward pass through each defence, over the attacks that follow gradients."""
    totals: dict[str, list[float]] = {}
    for row in empirical:
        passes = (row.get("forwards") or 0) + (row.get("backwards") or 0)
        if row.get("backwards") and row.get("seconds"):
            total = totals.setdefault(row["defense"], [0.0, 0.0])
            total[0] += row["seconds"]
            total[1] += passes
    return {name: seconds / passes for name, (seconds, passes) in totals.items() if passes}


def _threats(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """For each threat the strongest adaptive attack against every defence."""
    found = []
    for norm, eps, direction in _threats_of(rows):
        here = {r["defense"]: r for r in only(rows, norm=norm, eps=eps, direction=direction)}
        columns = ("adaptive_gain_mean", "adaptive_gain_lo", "adaptive_gain_hi", "naive_gain_mean", "rscore_mean",
                   "n_adaptive", "n_planned_adaptive", "standard")  # fmt: skip
        mine = [{"defense": d} | {c: here[d].get(c) for c in columns} for d in order if d in here]
        threat = {"norm": norm, "eps": eps, "direction": direction, "text": threat_text(norm, eps)}
        found.append(threat | {"rows": mine})
    return found


def _threats_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """Norms, budgets and directions of a table, l_inf first, small budgets first, up before down."""
    threats = dict.fromkeys((r["norm"], r["eps"], r["direction"]) for r in rows if r.get("eps") is not None)
    return sorted(threats, key=lambda t: (t[0] != "linf", t[2] != "up", t[1]))


def _parts(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[list[Mapping[str, Any]]]:
    """The rows of one defence, norm and kind together, population first."""
    keys = dict.fromkeys((r["defense"], r["norm"], r["kind"]) for r in rows)
    inside = sorted(keys, key=lambda k: (order.index(k[0]), k[1], k[2] != "population"))
    return [only(rows, defense=d, norm=n, kind=k) for d, n, k in inside]


def _certified(part: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The curve of one defence, norm and kind of certificate over the budgets."""
    part = sorted(part, key=lambda r: r["eps"])
    first = part[0]
    columns = ("eps", "certified_delta_mean", "gaming_delta_mean", "empirical_shift_worst_mean", "empirical_shift_max",
               "tightness_max", "violations", "violation_p", "vacuous_share", "abstained_share", "certified_pairs",
               "n_ok", "n_planned", "psnr")  # fmt: skip
    return {key: first.get(key) for key in ("defense", "norm", "kind", "sigma", "n", "alpha", "coverage")} | {
        column: [row.get(column) for row in part] for column in columns
    }


def _heat(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """For each threat the mean gain of every attack against every defence, strongest attacks first."""
    found = []
    for norm, eps, direction in _threats_of(rows):
        here = only(rows, norm=norm, eps=eps, direction=direction)
        gains = {(r["attack"], r["defense"]): r["gain_mean"] for r in here if r.get("gain_mean") is not None}
        largest: dict[str, float] = {}
        for (attack, _), gain in gains.items():
            toward = float(gain) if direction == "up" else -float(gain)
            largest[attack] = max(largest.get(attack, -np.inf), toward)
        attacks = sorted(largest, key=lambda a: (-largest[a], a))
        labels = short_names(attacks)
        found.append({
            "norm": norm, "eps": eps, "direction": direction, "text": threat_text(norm, eps),
            "attacks": [labels[a] for a in attacks], "full": attacks,
            "gains": [[gains.get((a, d)) for d in order] for a in attacks],
        })  # fmt: skip
    return found


def _tracks(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Places by the rules of the board, by track and defence: with intervals, and why a row has none."""
    found: dict[str, Any] = {}
    columns = ("rank", "rank_lo", "rank_hi", "pool", "pool_rank", "value", "value_lo", "value_hi", "reason")
    for row in rows:
        head = {key: row.get(key) for key in ("norm", "eps", "unit", "rules")}
        track = found.setdefault(str(row["track"]), head | {"rows": {}})
        track["rows"][row["defense"]] = {column: row.get(column) for column in columns}
    return found


def _checked(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> dict[str, Any]:
    """How many reliability checks were done on each defence, and which could not be."""
    found = {}
    for defense in order:
        mine = only(rows, defense=defense)
        if mine:
            left = [r["check"] for r in mine if words(r.get("not_checked"))]
            found[defense] = {"done": len(mine) - len(left), "left_out": left}
    return found
