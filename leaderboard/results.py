"""The records of a run as the tables need them: units resolved, oriented, and counted against the plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..bench.logistic import LogisticFit, fit_logistic
from ..bench.measures import krocc, score_range, srocc
from ..bench.plan import Cell, Plan, read_run
from ..bench.store import Store
from ..bench.suite import Suite

EMPIRICAL_RANGE = "p99-p1 of clean scores"
NO_RANGE = "unknown"
FEWEST = 10
"""Images below which percentiles of their scores say nothing about the range."""
FEW_SCORES = "p99-p1 of only"


class Accuracy(NamedTuple):
    """How well scores follow the ground truth; `fit` is the logistic one with four parameters."""

    srocc: float
    krocc: float
    fit: LogisticFit


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
    truth_name: str | None = None
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

    @cached_property
    def accuracy(self) -> Accuracy:
        """Of the clean scores, to the ground truth."""
        quality, truth = self.clean["quality"].to_numpy(), self.clean["truth"].to_numpy(dtype=float)
        return Accuracy(srocc(quality, truth), krocc(quality, truth), fit_logistic(quality, truth))

    @cached_property
    def _kinds(self) -> dict[str, pd.DataFrame]:
        return {str(kind): part for kind, part in self.rows.groupby("kind", sort=False)}

    def _of_kind(self, kind: str) -> pd.DataFrame:
        return self._kinds.get(kind, self.rows.iloc[:0])

    def attacks(self) -> pd.DataFrame:
        """Ok rows of the attack cells."""
        return self._of_kind("attack")

    def checks(self) -> pd.DataFrame:
        """Ok rows of the check cells."""
        return self._of_kind("check")

    def certificates(self) -> pd.DataFrame:
        """Ok rows of the certify cells."""
        return self._of_kind("certify")

    @cached_property
    def _threats(self) -> dict[Any, pd.DataFrame]:
        return dict(iter(self.attacks().groupby(["norm", "eps", "direction"], sort=False)))

    def under(self, norm: str | None, eps: float, direction: str | None = None) -> pd.DataFrame:
        """Ok rows of the attacks at one threat, in their order; of both directions without one.

        eps counts as the same up to rounding.
        """
        parts = [
            part
            for (n, e, d), part in self._threats.items()
            if n == norm and (direction is None or d == direction) and np.isclose(e, eps, rtol=1e-9, atol=0)
        ]
        if len(parts) == 1:
            return parts[0]
        return pd.concat(parts).sort_index() if parts else self.attacks().iloc[:0]

    @cached_property
    def _planned(self) -> dict[tuple[tuple[str, Any], ...], int]:
        """Images by what is planned for them: a few jobs, each cut into many cells."""
        found: dict[tuple[tuple[str, Any], ...], int] = {}
        for cell in self.cells:
            job = tuple((name, getattr(cell, name)) for name in ("kind", "attack", "norm", "eps", "direction"))
            found[job] = found.get(job, 0) + cell.stop - cell.start
        return found

    def n_planned(self, kind: str, **where: Any) -> int:
        """Images planned in the cells of a kind, narrowed by attack, norm, eps or direction."""
        wanted = {"kind": kind, **where}.items()
        return sum(images for job, images in self._planned.items() if wanted <= dict(job).items())


@dataclass(frozen=True)
class Results:
    """Everything of one run; `errors` has a row for each image that failed inside a completed cell."""

    suite: Suite
    plan: Plan
    groups: tuple[Group, ...]
    errors: pd.DataFrame


def read_plan(root: Path) -> tuple[Suite, Plan]:
    """What was asked of a run and planned; raises `BadData` when the folder is none."""
    store = Store(root)
    _, suite, plan = read_run(store)
    return suite, plan


def read_results(root: Path, without: Collection[str] = ()) -> Results:
    """Read a run's folder, all of it but some defences; raises `BadData` when it is not one or a file is corrupt."""
    suite, plan = read_plan(root)
    plan = plan.but(without)
    failed = FailedImages(plan)
    groups = tuple(read_groups(root, suite, plan, failed))
    return Results(suite, plan, groups, failed.table())


class FailedImages:
    """Collects the rows of images that failed inside completed cells."""

    COLUMNS = (
        "metric",
        "defense",
        "dataset",
        "kind",
        "attack",
        "norm",
        "eps",
        "direction",
        "image",
        "message",
        "cell",
    )

    def __init__(self, plan: Plan) -> None:
        self._place = {cell.id: k for k, cell in enumerate(plan.cells)}
        self._found: list[pd.DataFrame] = []

    def take(self, rows: pd.DataFrame) -> None:
        """Keep the error rows among these."""
        self._found.append(rows.loc[rows["status"] != "ok", list(self.COLUMNS)])

    def table(self) -> pd.DataFrame:
        """A row an image, in the order of the plan."""
        found = pd.concat(self._found) if self._found else pd.DataFrame(columns=list(self.COLUMNS))
        order = found["cell"].map(self._place).to_numpy(dtype=float).argsort(kind="stable")  # those of no plan last
        return found.iloc[order].reset_index(drop=True)


def read_groups(root: Path, suite: Suite, plan: Plan, failed: FailedImages) -> Iterator[Group]:
    """The groups one after the other, for boards that do not fit into memory as a whole; `failed` is told its rows."""
    store = Store(root)
    there = store.snapshot()
    asked = set(plan.all_asked(suite))
    parts: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in plan.cells:
        parts.setdefault((cell.metric, cell.defense, cell.dataset), []).append(cell)
    for (metric, defense, dataset), cells in parts.items():
        rows = store.read_rows([cell.id for cell in cells], there)
        failed.take(rows)
        if defense == "none" and (metric, defense) not in asked:
            continue  # planned for the unit only
        named = rows["truth_name"].dropna()  # rows of failed images have it, too
        mine = _ok(rows)
        sign = -1.0 if len(mine) and bool(mine["lower_better"].iloc[0]) else 1.0
        clean = mine[mine["kind"] == "score"].copy()
        clean["quality"] = sign * clean["clean"]
        undefended = [c.id for c in parts.get((metric, "none", dataset), ()) if c.kind == "score"]
        plain = clean if defense == "none" else _ok(store.read_rows(undefended, there))
        ends, source = _unit(plain, sign)
        rest, truth = mine[mine["kind"] != "score"], None if named.empty else str(named.iloc[0])
        line = (metric, defense, dataset)
        overlaps = tuple(o.sentence for o in plan.overlaps if (o.metric, o.defense, o.dataset) == line)
        yield Group(*line, ends, source, sign, clean, rest, tuple(cells), truth, overlaps)


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
