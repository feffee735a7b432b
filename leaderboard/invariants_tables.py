"""What must hold of the tables of every board, against the plan, against each other, and beyond chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from .empirical import NOTICEABLE, STANDARD, is_standard, name_of
from .invariants import GROUP, THREAT, Broken, label
from .results import Results
from .summary import eps_text

STOP_P = 0.001
"""Probability with which all statistical rules together may stop an honest board."""

SLACK = 0.1
"""Share of a gain by which the standard attack may fall behind what it must reach: budgets below, and its members."""

MEMBERS = {
    False: frozenset({"apgd[steps=100]", "apgd[start=random,steps=100]", "pgd[steps=100]", "eot-pgd[steps=100]",
                      "naive", "transfer", "quantised-pgd", "square"}),
    True: frozenset({"eot-pgd[steps=100]", "apgd[steps=100]", "apgd[centre=kernel,steps=50]", "naive", "transfer",
                     "quantised-pgd"}),
}  # fmt: skip
"""Members of `auto-iqa`, version 2, as a suite names them: on deterministic defences, and on randomised ones."""


def broken_tables(results: Results, tables: dict[str, pd.DataFrame]) -> list[Broken]:
    """All rules about the tables that do not hold; `tables` as `collect` makes them."""
    return [*_counted(results, tables), *_worst(tables), *_certificates(tables["certified"]), *_strongest(results)]


def _counted(results: Results, tables: dict[str, pd.DataFrame]) -> Iterator[Broken]:
    """A row of a table for everything planned, and never more results than planned."""
    kept = {(g.metric, g.defense, g.dataset) for g in results.groups}
    cells = [c for c in results.plan.cells if (c.metric, c.defense, c.dataset) in kept]
    groups = ((c.metric, c.defense, c.dataset) for c in cells)
    planned = {
        "summary": set(groups),
        "empirical": {
            (c.metric, c.defense, c.dataset, c.attack, c.norm, c.eps[0], c.direction)
            for c in cells
            if c.kind == "attack"
        },
    }
    for name, keys in (("summary", GROUP), ("empirical", [*GROUP, *THREAT])):
        table = tables[name]
        found = list(table[keys].itertuples(index=False, name=None)) if len(table) else []
        for row in sorted(planned[name].symmetric_difference(found)):
            problem = "was planned, and is not in" if row in planned[name] else "was not planned, and is in"
            yield Broken("rows", " | ".join(str(part) for part in row), f"the row {problem} {name}.csv")
        if len(found) != len(set(found)):
            twice = next(row for row in found if found.count(row) > 1)
            yield Broken("rows", " | ".join(str(part) for part in twice), f"the row is in {name}.csv twice")
    for name in ("summary", "empirical", "certified"):
        table = tables[name]
        for row in table[table["n_ok"] > table["n_planned"]].to_dict("records") if len(table) else ():
            where = " | ".join(str(row[key]) for key in GROUP)
            yield Broken("rows", where, f"{row['n_ok']} results of {row['n_planned']} planned, in {name}.csv")


def _worst(tables: dict[str, pd.DataFrame]) -> Iterator[Broken]:
    """The worst case of a row is at least as large as what any single attack reached on the same images."""
    summary, empirical = tables["summary"], tables["empirical"]
    if summary.empty or empirical.empty:
        return
    up = empirical[(empirical["direction"] == "up") & (empirical["n_ok"] == empirical["n_planned"])]
    threat = [f"{norm} {eps_text(eps)}" for norm, eps in zip(up["norm"], up["eps"], strict=True)]
    joined = up.assign(threat=threat).merge(summary, on=[*GROUP, "threat"], suffixes=("", "_row"))
    joined = joined[joined["n_ok_row"] == joined["n_planned_row"]]
    for row in joined[joined["gain_mean"] > joined["worst_gain_mean"] + 1e-9].to_dict("records"):
        yield Broken("ensemble", label(row | {"kind": "attack"}, image=False),
                     f"mean gain {row['gain_mean']:.6g} is above that of the worst case of all attacks, "
                     f"{row['worst_gain_mean']:.6g}")  # fmt: skip


def _certificates(certified: pd.DataFrame) -> Iterator[Broken]:
    """Attacks inside the radius leave a certificate no more often than it says, over all rows of the board together."""
    judged = certified[certified["violation_p"].notna()] if len(certified) else certified
    for row in judged.to_dict("records"):
        if row["violations"] and row["violation_p"] * len(judged) < STOP_P:
            where = " | ".join([*(str(row[key]) for key in GROUP), f"{row['kind']} {row['norm']} {row['eps']:.6g}"])
            problem = f"attacks within it drove {row['violations']} of {row['n_ok']} images out of their bound"
            yield Broken("certificate", where, f"{problem} (p = {row['violation_p']:.2g}, {len(judged)} bounds judged)")


def _strongest(results: Results) -> Iterator[Broken]:
    """The standard attack gains no less with a larger budget, and no less than its own members, on the same images.

    Searches are not exact, and members draw other random numbers: less is what is smaller on average by more than a
    tenth of the gain and .001 R, and not by chance (one-sided t over photographs, Bonferroni over the board).
    """
    trials: list[tuple[float, str, str, str]] = []
    for group in results.groups:
        attacks = group.attacks()
        if attacks.empty or not np.isfinite(group.unit):
            continue
        standard = attacks["attack"].map(is_standard).astype(bool)
        if not standard.any():
            continue
        members = MEMBERS[bool(attacks["randomised"].iloc[0])]
        mine = attacks[standard | attacks["attack"].isin(members)]
        toward = mine["gain"] * np.where(mine["direction"] == "up", 1.0, -1.0) / group.unit
        wide = mine.assign(toward=toward).pivot_table(index=["image", "reference"], columns=THREAT, values="toward")
        for attack, norm, eps, direction in wide.columns:
            key = (attack, norm, eps, direction)
            if is_standard(attack):
                smaller = [e for a, n, e, d in wide.columns if (a, n, d) == (attack, norm, direction) and e < eps]
                rivals = [("monotone", (attack, norm, max(smaller), direction))] if smaller else []
                rivals += [("ensemble", (a, n, e, d)) for a, n, e, d in wide.columns
                           if not is_standard(a) and (n, e, d) == (norm, eps, direction)]  # fmt: skip
                row = label(group.key | dict(zip(THREAT, key, strict=True)) | {"kind": "attack"}, image=False)
                for rule, other in rivals:
                    pair = wide[[key, other]].dropna()
                    p, problem = _less(
                        pair[key], pair[other], rule, f"{name_of(other[0])} at {eps_text(float(other[2]))}"
                    )
                    trials.append((p, rule, row, problem))
    for p, rule, row, problem in trials:
        if p * len(trials) < STOP_P:
            yield Broken(rule, row, problem)


def _less(mine: pd.Series, other: pd.Series, rule: str, name: str) -> tuple[float, str]:
    """P-value of a mean being below `other`'s by more than the slack, and the words for it."""
    if mine.empty:
        return 1.0, ""
    allowed = NOTICEABLE + SLACK * max(float(other.mean()), 0.0)
    short = (other - mine - allowed).groupby(level="reference").agg(["sum", "count"])
    mean = float(short["sum"].sum() / short["count"].sum())
    groups = len(short)
    if groups < 2 or mean <= 0:
        return 1.0, ""
    residual = short["sum"] - mean * short["count"]
    error = float(np.sqrt(np.square(residual).sum() * groups / (groups - 1)) / short["count"].sum())
    p = float(student_t.sf(mean / error, groups - 1)) if error > 0 else 0.0
    than = f"{name}, a smaller budget," if rule == "monotone" else f"its own member {name}"
    return p, (f"{STANDARD} gains {float(mine.mean()):.4g} R on average, but {than} {float(other.mean()):.4g} R on the "
               f"same {len(mine)} images (p = {p:.2g})")  # fmt: skip
