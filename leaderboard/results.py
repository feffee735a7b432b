"""The records of a run as the tables need them: units resolved, oriented, and counted against the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bench.measures import score_range
from ..bench.plan import Cell, Plan, read_run
from ..bench.store import Store
from ..bench.suite import Suite

EMPIRICAL_RANGE = "p99-p1 of clean scores"
NO_RANGE = "unknown"
FEWEST = 10
"""Images below which percentiles of their scores say nothing about the range."""
FEW_SCORES = "p99-p1 of only"


@dataclass(frozen=True)
class Group:
    """One line of the board: a metric behind a defence on a data set.

    Attributes:
        metric, defense, dataset: canonical plug-in strings.
        ends: [a,b], 1st and 99th percentile of the undefended metric's clean scores, oriented; NaN if there are none.
        range_source: "p99-p1 of clean scores", "declared range" where the former is unusable, what it is of where there
            are fewer than 10 images and no declared range, or "unknown".
        clean: a row an image, status ok, with column `quality` (oriented score).
        rows: all ok rows of attack and certify cells.
        cells: the planned cells of the group.
        truth_name: what the ground truth is.
    """

    metric: str
    defense: str
    dataset: str
    ends: tuple[float, float]
    range_source: str
    sign: float
    clean: pd.DataFrame
    rows: pd.DataFrame
    cells: tuple[Cell, ...]
    truth_name: str | None = None

    @property
    def unit(self) -> float:
        """R, the length of the range."""
        return self.ends[1] - self.ends[0]

    @property
    def range_ratio(self) -> float:
        """p99-p1 of the defended clean scores over that of the undefended metric on the same data set.

        NaN with fewer than 10 images, or where the unit is not taken from scores.
        """
        if len(self.clean) < FEWEST or self.range_source != EMPIRICAL_RANGE:
            return float("nan")
        low, high = score_range(self.clean["quality"].to_numpy(dtype=float))
        return (high - low) / self.unit

    @property
    def own_share(self) -> float:
        """What a gain in units of R is divided by to be in units of the defended range, where that is smaller than R.

        Squeezing the scale then gains nothing, and neither does stretching it. 1 where the ratio is not known, NaN for
        constant scores, which have no range.
        """
        ratio = self.range_ratio
        return float("nan") if ratio == 0 else ratio if ratio < 1 else 1.0

    @property
    def range_of_few(self) -> bool:
        """Whether the unit was taken from too few scores, for want of a declared range."""
        return self.range_source.startswith(FEW_SCORES)

    @property
    def key(self) -> dict[str, Any]:
        """The identifying columns of every table."""
        return {"metric": self.metric, "defense": self.defense, "dataset": self.dataset}

    def attacks(self) -> pd.DataFrame:
        """Ok rows of the attack cells."""
        return self.rows[self.rows["kind"] == "attack"]

    def checks(self) -> pd.DataFrame:
        """Ok rows of the check cells."""
        return self.rows[self.rows["kind"] == "check"]

    def certificates(self) -> pd.DataFrame:
        """Ok rows of the certify cells."""
        return self.rows[self.rows["kind"] == "certify"]

    def n_planned(self, kind: str, **where: Any) -> int:
        """Images planned in the cells of a kind, narrowed by cell attributes."""
        return sum(
            cell.stop - cell.start
            for cell in self.cells
            if cell.kind == kind and all(getattr(cell, k) == v for k, v in where.items())
        )


@dataclass(frozen=True)
class Results:
    """Everything of one run: `errors` has a row for each image that failed inside a completed cell, `rows` all rows."""

    suite: Suite
    plan: Plan
    groups: tuple[Group, ...]
    errors: pd.DataFrame
    rows: pd.DataFrame


def read_results(root: Path) -> Results:
    """Read a run's folder; raises `BadData` when it is not one or a file is corrupt."""
    store = Store(root)
    _, suite, plan = read_run(store)
    rows = store.read_rows(cell.id for cell in plan.cells)
    columns = ["metric", "defense", "dataset", "kind", "attack", "norm", "eps", "direction", "image", "message", "cell"]
    errors = rows[rows["status"] != "ok"][columns].reset_index(drop=True)
    return Results(suite, plan, tuple(_groups(suite, plan, rows)), errors, rows)


def _groups(suite: Suite, plan: Plan, rows: pd.DataFrame) -> Iterator[Group]:
    wanted = dict.fromkeys((c.metric, c.defense, c.dataset) for c in plan.cells)
    asked = set(plan.all_asked(suite))
    for metric, defense, dataset in wanted:
        cells = tuple(c for c in plan.cells if (c.metric, c.defense, c.dataset) == (metric, defense, dataset))
        if defense == "none" and (metric, defense) not in asked:
            continue  # planned for the unit only
        here = rows[(rows["metric"] == metric) & (rows["dataset"] == dataset)]
        plain = _ok(here[(here["defense"] == "none") & (here["kind"] == "score")])
        all_of_mine = here[here["defense"] == defense]
        named = all_of_mine["truth_name"].dropna()  # rows of failed images have it, too
        mine = _ok(all_of_mine)
        sign = -1.0 if len(mine) and bool(mine["lower_better"].iloc[0]) else 1.0
        clean = mine[mine["kind"] == "score"].copy()
        clean["quality"] = sign * clean["clean"]
        ends, source = _unit(plain, sign)
        rest, truth = mine[mine["kind"] != "score"], None if named.empty else str(named.iloc[0])
        yield Group(metric, defense, dataset, ends, source, sign, clean, rest, cells, truth)


def _unit(plain: pd.DataFrame, sign: float) -> tuple[tuple[float, float], str]:
    """Oriented range of the undefended metric's clean scores, or the declared one if that is a point."""
    if len(plain):
        low, high = score_range(sign * plain["clean"].to_numpy())
        if high > low and len(plain) >= FEWEST:
            return (low, high), EMPIRICAL_RANGE
        first = plain.iloc[0]
        if np.isfinite(float(first["range_lo"])) and np.isfinite(float(first["range_hi"])):
            low, high = sorted((sign * float(first["range_lo"]), sign * float(first["range_hi"])))
            return (low, high), "declared range"
        if high > low:
            return (low, high), f"{FEW_SCORES} {len(plain)} clean scores; no range is declared"
    return (np.nan, np.nan), NO_RANGE


def _ok(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["status"] == "ok"]
