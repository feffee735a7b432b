"""What must hold of the tables of every board, against the plan, against each other, and beyond chance."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from ..bench.plan import Plan
from .empirical import NOTICEABLE, STANDARD, is_standard, name_of
from .invariants import GROUP, THREAT, Broken, label
from .results import Group
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


class Trial(NamedTuple):
    """One comparison of the standard attack with what it must reach; p is of its falling short by chance."""

    p: float
    rule: str
    row: str
    problem: str


def broken_tables(
    plan: Plan, asked: Collection[tuple[str, str]], tables: dict[str, pd.DataFrame], trials: Sequence[Trial]
) -> list[Broken]:
    """All rules about the tables that do not hold.

    Args:
        plan: of the run.
        asked: metrics with the defences that were asked for; the undefended one may be there for its scores only.
        tables: summary, empirical and certified.
        trials: of all lines of the board, from `standard_trials`.
    """
    weak = [Broken(t.rule, t.row, t.problem) for t in trials if t.p * len(trials) < STOP_P]
    return [*_counted(plan, asked, tables), *_worst(tables), *_certificates(tables["certified"]), *weak]


def _counted(plan: Plan, asked: Collection[tuple[str, str]], tables: dict[str, pd.DataFrame]) -> Iterator[Broken]:
    """A row of a table for everything planned, and never more results than planned."""
    cells = [c for c in plan.cells if c.defense != "none" or (c.metric, c.defense) in asked]
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
    # Rounding of two sums in another order: gains are large where the unit is small.
    slack = 1e-9 * joined[["gain_max", "worst_gain_mean"]].abs().max(axis=1).clip(lower=1.0)
    for row in joined[joined["gain_mean"] > joined["worst_gain_mean"] + slack].to_dict("records"):
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


def standard_trials(group: Group) -> list[Trial]:
    """Whether the standard attack gains as much as with a smaller budget and as its own members, on the same images.

    Searches are not exact, and members draw other random numbers: less is what is smaller on average by more than a
    tenth of the gain and .001 R, and not by chance (one-sided t over photographs, Bonferroni over the board).
    """
    attacks = group.attacks()
    standard = attacks["attack"].map(is_standard).astype(bool)
    if not standard.any() or not np.isfinite(group.unit):
        return []
    members = MEMBERS[bool(attacks["randomised"].iloc[0])]
    mine = attacks[standard | attacks["attack"].isin(members)]
    toward = mine["gain"] * np.where(mine["direction"] == "up", 1.0, -1.0) / group.unit
    wide = mine.assign(toward=toward).pivot_table(index=["image", "reference"], columns=THREAT, values="toward")
    trials = []
    for key in wide.columns:
        attack, norm, eps, direction = key
        if not is_standard(attack):
            continue
        smaller = [e for a, n, e, d in wide.columns if (a, n, d) == (attack, norm, direction) and e < eps]
        rivals = [("monotone", (attack, norm, max(smaller), direction))] if smaller else []
        rivals += [("ensemble", (a, n, e, d)) for a, n, e, d in wide.columns
                   if not is_standard(a) and (n, e, d) == (norm, eps, direction)]  # fmt: skip
        row = label(group.key | dict(zip(THREAT, key, strict=True)) | {"kind": "attack"}, image=False)
        for rule, other in rivals:
            pair = wide[[key, other]].dropna()
            name = f"{name_of(other[0])} at {eps_text(float(other[2]))}"
            p, problem = _less(pair[key], pair[other], rule, name)
            trials.append(Trial(p, rule, row, problem))
    return trials


def _less(mine: pd.Series, other: pd.Series, rule: str, name: str) -> tuple[float, str]:
    """P-value of a mean being below `other`'s by more than the slack, and the words for it."""
    if mine.empty:
        return 1.0, ""
    allowed = NOTICEABLE + SLACK * max(float(other.mean()), 0.0)
    short = (other - mine - allowed).groupby(level="reference").agg(["sum", "count"])
    # Copies of a photograph under other names have the same draws: counted once, too, they have to say the same.
    p = max(_above_zero(short), _above_zero(short.drop_duplicates()))
    than = f"{name}, a smaller budget," if rule == "monotone" else f"its own member {name}"
    return p, (f"{STANDARD} gains {float(mine.mean()):.4g} R on average, but {than} {float(other.mean()):.4g} R on the "
               f"same {len(mine)} images (p = {p:.2g})")  # fmt: skip


def _above_zero(groups: pd.DataFrame) -> float:
    """One-sided p-value that a mean over groups (`sum`, `count`) is above zero; 1 for one group, or where it is not."""
    n = len(groups)
    mean = float(groups["sum"].sum() / groups["count"].sum())
    if n < 2 or mean <= 0:
        return 1.0
    residual = groups["sum"] - mean * groups["count"]
    error = float(np.sqrt(np.square(residual).sum() * n / (n - 1)) / groups["count"].sum())
    return float(student_t.sf(mean / error, n - 1)) if error > 0 else 0.0
