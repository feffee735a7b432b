"""What must hold of every record, whatever was measured: one broken rule stops the board.

A flag says that an entrant's figures are weak, and leaves the others alone; these rules say that a figure is wrong.
Each has a tolerance that honest runs stay within; `docs/rules.md` gives the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..bench.agreement import TOLERANCE
from ..bench.plan import Plan
from .results import FailedImages
from .summary import eps_text

BUDGET_ROUNDING = 1e-9
"""Relative excess of a measured norm: budgets are enforced to the last bit of a float, then measured in doubles."""

ROUNDING = 1e-2
"""Share of the largest score by which the score of one image may differ between cells: products of GPUs with ten bits
(TF32, what convolutions take by default) move scores by up to 1e-3, a defence that quantises what they give by more."""

UNSTABLE = frozenset({"random-undeclared", "irreproducible", "batch-dependent", "metric-drifts", "input-changed"})
"""Checks that are raised where scores are not the same again: the flag takes that row's place, no other's."""

GROUP = ["metric", "defense", "dataset"]
THREAT = ["attack", "norm", "eps", "direction"]
_BOARD_ROW = [*GROUP, "kind", *THREAT]
_SCORES = ["clean", "attacked", "attacked_8bit"]


class Broken(NamedTuple):
    """A rule that does not hold: its name, the row of the board that it is about, and what is wrong there."""

    invariant: str
    row: str
    problem: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.row}: {self.problem}"


class Inspector(FailedImages):
    """Looks at every record as it is read: collects the images that failed, and what breaks a rule.

    Images that failed are no violation: they are counted as missing.

    Attributes:
        broken: all rules about single records that do not hold, in the order of reading.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._planned = _planned(plan)
        self.broken: list[Broken] = []

    def take(self, rows: pd.DataFrame) -> None:
        """Judge the rows of one line of the board."""
        super().take(rows)
        self.broken += broken_records(rows, self._planned)


def broken_records(rows: pd.DataFrame, plan: pd.DataFrame) -> list[Broken]:
    """All rules about single records that do not hold, of the rows of one metric, defence and data set."""
    found = [*_as_planned(rows, plan), *_once(rows)]
    ok = rows[rows["status"] == "ok"]
    attacks, scores, bounds = (ok[ok["kind"] == kind] for kind in ("attack", "score", "certify"))
    # As in runs of two machines that are united.
    largest = float(np.nan_to_num(ok[_SCORES].abs().max().max()))
    tolerance = TOLERANCE * largest
    found += [*_finite(scores, ["clean"]), *_finite(attacks, [*_SCORES, "gain", "gain_8bit", "linf", "l2"])]
    found += _finite(bounds, ["score"])
    found += [*_budget(attacks), *_arithmetic(attacks, tolerance), *_growing(bounds, tolerance)]
    if UNSTABLE.isdisjoint(ok["check"][ok["raised"].eq(True).to_numpy(dtype=bool, na_value=False)]):
        found += [*_same_clean(scores, attacks, ROUNDING * largest), *_eight_bit(attacks, ROUNDING * largest)]
    return found


def label(row: dict[str, Any], image: bool = True) -> str:
    """How a message names a row of the board, and the record behind it."""
    parts = [str(row[key]) for key in GROUP]
    if row["kind"] == "attack":
        parts.append(f"{row['attack']} {row['norm']} {eps_text(row['eps'])} {row['direction']}")
    else:
        parts.append(str(row["kind"]))
    if image:
        parts.append(f"image {row['image']!r} (cell {row['cell']})")
    return " | ".join(parts)


def _each(bad: pd.DataFrame, invariant: str, say: Callable[[dict[str, Any]], str]) -> Iterator[Broken]:
    """One message for each row of the board that has bad records: the first of them, and how many more there are."""
    if bad.empty:
        return
    for _, part in bad.groupby(_BOARD_ROW, sort=False, dropna=False):
        first = {str(k): v for k, v in part.iloc[0].to_dict().items()}
        more = f" (and {len(part) - 1} more records)" if len(part) > 1 else ""
        yield Broken(invariant, label(first), say(first) + more)


def _planned(plan: Plan) -> pd.DataFrame:
    """A row a planned cell, indexed by its id."""
    columns = ["id", "kind", *GROUP, *THREAT, "start", "stop", "budgets"]
    cells = [
        [c.id, c.kind, c.metric, c.defense, c.dataset, c.attack, c.norm, c.eps[0] if c.kind == "attack" else np.nan,
         c.direction, c.start, c.stop, len(c.eps)]
        for c in plan.cells
    ]  # fmt: skip
    # Looked up for every line of the board: plain strings hash once, Arrow ones every time.
    return pd.DataFrame(cells, columns=columns).astype({"id": object}).set_index("id")


def _as_planned(rows: pd.DataFrame, plan: pd.DataFrame) -> Iterator[Broken]:
    """Every record says what its cell was planned for, and a cell has as many images and bounds as planned."""
    codes, cells_here = pd.factorize(rows["cell"].to_numpy(dtype=object))
    where = plan.index.get_indexer(pd.Index(cells_here, dtype=object))[codes]
    yield from _each(rows[where < 0], "rows", lambda r: "the record names a cell that the plan does not have")
    rows, where = rows[where >= 0], where[where >= 0]
    cells = plan.iloc[where].reset_index(drop=True)
    for column in ("kind", *GROUP, *THREAT):
        mine, theirs = rows[column].reset_index(drop=True), cells[column]
        if column in THREAT:
            attack = cells["kind"] == "attack"
            mine, theirs = mine[attack], theirs[attack]
        wrong = mine.index[(mine != theirs).to_numpy(dtype=bool)]
        planned = pd.Series(theirs.loc[wrong].to_numpy(), index=rows.index[wrong], dtype=object)
        bad = rows.loc[rows.index[wrong]].assign(planned=planned)
        yield from _each(
            bad, "rows", lambda r, c=column: f"{c} is {r[c]!r}, but the cell was planned for {r['planned']!r}"
        )
    images = rows[rows["kind"] != "check"].groupby("cell", sort=False)["image"].nunique()
    lengths = (plan["stop"] - plan["start"]).reindex(images.index)
    wrong = images.index[(images != lengths).to_numpy()]
    short = rows.drop_duplicates("cell").set_index("cell", drop=False).loc[wrong].reset_index(drop=True)
    short = short.assign(found=images[wrong].to_numpy(), length=lengths[wrong].to_numpy())
    yield from _each(short, "rows", lambda r: f"{r['found']} images, where the cell has {r['length']}")
    bounds = rows[(rows["kind"] == "certify") & (rows["status"] == "ok")]
    counts = bounds.groupby(["cell", "image", "certificate"], sort=False)["eps"].nunique()
    wanted = plan["budgets"].reindex(counts.index.get_level_values("cell")).to_numpy()
    lacking = pd.DataFrame({"found": counts, "length": wanted})[counts.to_numpy() != wanted].reset_index()
    keyed = bounds.drop_duplicates(["cell", "image", "certificate"])
    yield from _each(keyed.merge(lacking, on=["cell", "image", "certificate"]), "rows",
                     lambda r: f"bounds at {r['found']} budgets, where {r['length']} were planned")  # fmt: skip


def _once(rows: pd.DataFrame) -> Iterator[Broken]:
    """No image counts twice in a figure."""
    rows = rows[rows["kind"] != "check"]
    twice = rows.duplicated([*_BOARD_ROW, "certificate", "image"])
    yield from _each(rows[twice], "once", lambda r: "the image is there twice")


def _finite(rows: pd.DataFrame, columns: list[str]) -> Iterator[Broken]:
    """A result that counts is a number."""
    for column in columns:
        bad = rows[~np.isfinite(rows[column].to_numpy(dtype=float))]
        yield from _each(bad, "finite", lambda r, c=column: f"{c} is {r[c]}, in a record that is not marked as failed")


def _same_clean(scores: pd.DataFrame, attacks: pd.DataFrame, tolerance: float) -> Iterator[Broken]:
    """An image has one clean score behind a defence: every attack starts from it, on the same draws."""
    both = pd.concat([scores, attacks])
    first = both.groupby([*GROUP, "image"], sort=False)["clean"].transform("first")
    apart = (both["clean"] - first).abs()
    bad = both.assign(first=first)[(apart > tolerance).to_numpy(dtype=bool)]
    yield from _each(bad, "clean", lambda r: f"the clean score is {r['clean']:.6g}, elsewhere {r['first']:.6g}")


def _budget(attacks: pd.DataFrame) -> Iterator[Broken]:
    """What was measured on the attacked image is within the budget."""
    measured = np.where(attacks["norm"] == "linf", attacks["linf"], attacks["l2"]).astype(float)
    bad = attacks.assign(measured=measured)[measured > attacks["eps"].to_numpy(dtype=float) * (1 + BUDGET_ROUNDING)]
    yield from _each(bad, "budget", lambda r: f"measured {r['norm']} {r['measured']:.6g} is above eps {r['eps']:.6g}")


def _arithmetic(attacks: pd.DataFrame, tolerance: float) -> Iterator[Broken]:
    """A gain is the oriented difference of the two scores beside it, for the float image and for the 8-bit one."""
    sign = np.where(attacks["lower_better"].astype(bool), -1.0, 1.0)
    for score, gain, name in (("attacked", "gain", "gain"), ("attacked_8bit", "gain_8bit", "8-bit")):
        expected = sign * (attacks[score] - attacks["clean"])
        bad = attacks.assign(expected=expected)
        bad = bad[((attacks[gain] - expected).abs() > tolerance).to_numpy(dtype=bool)]
        yield from _each(
            bad, name, lambda r, g=gain: f"{g} is {r[g]:.6g}, but its scores differ by {r['expected']:.6g}"
        )


def _eight_bit(attacks: pd.DataFrame, tolerance: float) -> Iterator[Broken]:
    """An image that an attack left as it is keeps its score, and has the same 8-bit score under every such attack."""
    still = attacks[attacks["linf"] == 0]
    moved = still[((still["attacked"] - still["clean"]).abs() > tolerance).to_numpy(dtype=bool)]
    yield from _each(moved, "8-bit", lambda r: f"the image was not changed, its score went from {r['clean']:.6g} "
                                               f"to {r['attacked']:.6g}")  # fmt: skip
    first = still.groupby([*GROUP, "image"], sort=False)["attacked_8bit"].transform("first")
    other = still.assign(first=first)[((still["attacked_8bit"] - first).abs() > tolerance).to_numpy(dtype=bool)]
    yield from _each(other, "8-bit", lambda r: f"the unchanged image scores {r['attacked_8bit']:.6g} in 8 bits, under "
                                               f"another attack {r['first']:.6g}")  # fmt: skip


def _growing(bounds: pd.DataFrame, tolerance: float) -> Iterator[Broken]:
    """A bound's ends are in order, and a larger budget has a wider bound: both are read off the same draws."""
    bad = bounds[~(bounds["lo"] <= bounds["hi"]).to_numpy(dtype=bool)]
    yield from _each(
        bad, "bounds", lambda r: f"the bound at eps {r['eps']:.6g} ends at {r['hi']:.6g}, below {r['lo']:.6g}"
    )
    ordered = bounds.sort_values("eps", kind="stable")
    before = ordered.groupby(["cell", "image", "certificate"], sort=False)[["eps", "lo", "hi"]].shift()
    # Two infinite ends are equal: their difference is NaN, which `max` leaves out.
    shrunk = pd.concat([ordered["lo"] - before["lo"], before["hi"] - ordered["hi"]], axis=1).max(axis=1)
    bad = ordered.assign(smaller=before["eps"])[(shrunk > tolerance).to_numpy(dtype=bool)]
    yield from _each(bad, "bounds", lambda r: f"the {r['certificate']} bound at eps {r['eps']:.6g} is narrower than "
                                              f"that at {r['smaller']:.6g}")  # fmt: skip
