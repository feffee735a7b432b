"""The records of a run as the tables need them: units resolved, oriented, and counted against the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bench.errors import BadData
from ..bench.measures import score_range
from ..bench.plan import Cell, Plan, combinations, plan_from_json
from ..bench.store import Store
from ..bench.suite import Suite

EMPIRICAL_RANGE = "p99-p1 of clean scores"
FEWEST = 10
"""Images below which percentiles of their scores say nothing about the range."""


@dataclass(frozen=True)
class Group:
    """One line of the board: a metric behind a defence on a data set.

    Attributes:
        metric, defense, dataset: canonical plug-in strings.
        ends: [a,b], 1st and 99th percentile of the undefended metric's clean scores, oriented; NaN if there are none.
        range_source: "p99-p1 of clean scores", or "declared range" where the former is unusable.
        clean: a row an image, status ok, with column `quality` (oriented score).
        rows: all ok rows of attack and certify cells.
        cells: what was planned.
        overlaps: what the metric or the defence was fitted on and is judged on, in sentences.
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
    overlaps: tuple[str, ...] = ()

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
    def key(self) -> dict[str, Any]:
        """The identifying columns of every table."""
        return {"metric": self.metric, "defense": self.defense, "dataset": self.dataset}

    @property
    def truth_name(self) -> str | None:
        """What the ground truth is."""
        return self.clean["truth_name"].iloc[0] if len(self.clean) else None

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
    """Everything of one run; `errors` has a row for each image that failed inside a completed cell."""

    suite: Suite
    plan: Plan
    groups: tuple[Group, ...]
    errors: pd.DataFrame


def read_results(root: Path) -> Results:
    """Read a run's folder; raises `BadData` when it is not one or a file is corrupt."""
    store = Store(root)
    try:
        suite = Suite.model_validate(store.read_json("run.json")["suite"])
        plan = plan_from_json(store.read_json("plan.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"run.json or plan.json in {str(root)!r} is damaged ({type(error).__name__}): run the suite "
                      "again into this folder") from error  # fmt: skip
    rows = store.read_rows(cell.id for cell in plan.cells)
    columns = ["metric", "defense", "dataset", "kind", "attack", "norm", "eps", "direction", "image", "message", "cell"]
    errors = rows[rows["status"] != "ok"][columns].reset_index(drop=True)
    return Results(suite, plan, tuple(_groups(suite, plan, rows)), errors)


def _groups(suite: Suite, plan: Plan, rows: pd.DataFrame) -> Iterator[Group]:
    wanted = dict.fromkeys((c.metric, c.defense, c.dataset) for c in plan.cells)
    asked = combinations(suite)
    for metric, defense, dataset in wanted:
        cells = tuple(c for c in plan.cells if (c.metric, c.defense, c.dataset) == (metric, defense, dataset))
        if defense == "none" and "none" not in asked[metric]:
            continue  # planned for the unit only
        here = rows[(rows["metric"] == metric) & (rows["dataset"] == dataset)]
        plain = _ok(here[(here["defense"] == "none") & (here["kind"] == "score")])
        mine = _ok(here[here["defense"] == defense])
        sign = -1.0 if len(mine) and bool(mine["lower_better"].iloc[0]) else 1.0
        clean = mine[mine["kind"] == "score"].copy()
        clean["quality"] = sign * clean["clean"]
        ends, source = _unit(plain, sign)
        line = (metric, defense, dataset)
        overlaps = tuple(o.sentence for o in plan.overlaps if (o.metric, o.defense, o.dataset) == line)
        yield Group(*line, ends, source, sign, clean, mine[mine["kind"] != "score"], cells, overlaps)


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
            return (low, high), EMPIRICAL_RANGE
    return (np.nan, np.nan), "unknown"


def _ok(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["status"] == "ok"]
