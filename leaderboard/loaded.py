"""A run's tables and rows as pandas frames, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from html import escape
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from ..bench.errors import BadData, BadParameter, UnknownName, counted
from ..bench.plan import Cell, read_run
from ..bench.records import SCHEMA
from ..bench.run import RunResult
from ..bench.spec import parse_spec
from ..bench.store import Store
from ..bench.suite import parse_eps
from .checks import COLUMNS as CHECKS
from .collect import BOARD
from .exports.units import FLAG, TEXT, unit_of
from .results import FailedImages

Kind = Literal["score", "attack", "certify", "check"]
Names = str | Collection[str] | None

_OPTIONAL = {"errors": FailedImages.COLUMNS, "checks": CHECKS}
"""Tables that are written only where there is something to say, and their columns."""

_WHOLE = {"images", "photographs", "rankings", "entrants", "place", "version"}
"""Units of columns that count."""

_LINE = ("metric", "defense", "dataset")
_IMAGE = ("image", "reference", "truth", "status", "message")
_COLUMNS: dict[Kind, tuple[str, ...]] = {
    "score": (*_LINE, *_IMAGE, "clean", "clean_lo", "clean_hi", "height", "width", "batch", "cell"),
    "attack": (
        *_LINE, "attack", "norm", "eps", "direction", *_IMAGE, "clean", "clean_lo", "clean_hi", "attacked",
        "attacked_lo", "attacked_hi", "attacked_8bit", "attacked_8bit_lo", "attacked_8bit_hi", "gain", "gain_8bit",
        "linf", "l2", "psnr", "ssim", "forwards", "backwards", "queries", "seconds", "height", "width", "batch", "cell",
    ),
    "certify": (
        *_LINE, "certified_norm", "eps", "certificate", *_IMAGE, "score", "lo", "hi", "family_lo", "family_hi",
        "spread", "abstained", "sigma", "n", "alpha", "coverage", "height", "width", "batch", "cell",
    ),
    "check": (*_LINE, "check", "raised", "value", "threshold", "status", "message", "cell"),
}  # fmt: skip
"""What a row of each kind of cell can hold."""

_AS_IN_TABLES = {"certified_norm": "norm", "certificate": "kind"}


class LoadedResults:
    """The tables and rows of a run; `load_results` makes one.

    Every frame is a copy: changing it changes nothing else. Text is `string`, and empty where it does not apply; counts
    are `Int64`, flags `boolean`, all else `float64`, missing where they do not apply, infinite where unbounded.

    Attributes:
        root: folder of the run.
        record: `run.json`, what was asked, with which code, packages, data and hardware.
        suite: as it was run, with all overrides.
        names: the tables that there are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._store = Store(root)
        self.record, self.suite, self._plan = read_run(self._store)
        folder = root / BOARD
        self.names = sorted(path.stem for path in folder.glob("*.csv"))
        if "summary" not in self.names:
            raise BadData(f"{str(root)!r} has no tables: `robustiqa.leaderboard.collect({str(root)!r})` writes them")
        self._tables: dict[str, pd.DataFrame] = {}

    def table(self, name: str) -> pd.DataFrame:
        """A table by its name; raises `UnknownName` where there is none, `BadData` where it cannot be read."""
        if name not in self._tables:
            if name not in self.names:
                raise UnknownName("table", name, self.names)
            self._tables[name] = _typed_table(self.root / BOARD / f"{name}.csv")
        return self._tables[name].copy()

    def _table_if_any(self, name: str) -> pd.DataFrame:
        if name in self.names:
            return self.table(name)
        return pd.DataFrame({column: _typed(pd.Series(dtype=str), column) for column in _OPTIONAL[name]})

    @property
    def summary(self) -> pd.DataFrame:
        """A row a metric, defence and data set: accuracy, worst gain, certified delta, rank, flags."""
        return self.table("summary")

    @property
    def empirical(self) -> pd.DataFrame:
        """A row an attack and threat: gains with intervals in units of R, budgets as measured, costs."""
        return self.table("empirical")

    @property
    def threats(self) -> pd.DataFrame:
        """A row a defence and threat: the naive gain beside the adaptive one."""
        return self.table("threats")

    @property
    def certified(self) -> pd.DataFrame:
        """A row a defence, budget and kind of certificate: bounds, and what attacks reached at the same budget."""
        return self.table("certified")

    @property
    def tracks(self) -> pd.DataFrame:
        """Places by track, with their intervals, and why a row has none."""
        return self.table("tracks")

    @property
    def neighbours(self) -> pd.DataFrame:
        """Paired tests between neighbouring places."""
        return self.table("neighbours")

    @property
    def stability(self) -> pd.DataFrame:
        """Whether the rankings of several data sets and metrics agree."""
        return self.table("stability")

    @property
    def checks(self) -> pd.DataFrame:
        """The reliability checks; empty if the suite asked for none."""
        return self._table_if_any("checks")

    @property
    def errors(self) -> pd.DataFrame:
        """Images without a result, and why; empty if there are none."""
        return self._table_if_any("errors")

    def rows(
        self,
        kind: Kind = "attack",
        *,
        metric: Names = None,
        defense: Names = None,
        dataset: Names = None,
        attack: Names = None,
        norm: Names = None,
        eps: float | str | Sequence[float | str] | None = None,
        direction: Names = None,
    ) -> pd.DataFrame:
        """What was recorded of single images, in the order of the plan. Only the cells that fit are read.

        Args:
            kind: "score": clean scores; "attack": what attacks did, a row an image; "certify": a row an image, budget
                and kind of certificate; "check": a row a reliability check.
            metric, defense, dataset, attack: plug-in strings as the tables have them, or names, which stand for all
                their parameters: "dms-iqa" for "dms-iqa[sigma=0.12]". One or several.
            norm, direction: "l2", "linf"; "up", "down".
            eps: budgets, 0.05 or "4/255".

        Returns:
            the key columns of `empirical` or `certified`, then the image, its figures in the metric's own units (`gain`
            and `gain_8bit` oriented: positive where the reported quality rises), and `unit`, the R in which the tables
            measure. An image that failed has `status` "error", the reason in `message`, and no figures: leave it out
            of a mean only if that is what you want.

        Raises:
            UnknownName: the run has no such metric, defence, ...; the nearest one is given.
            BadData: a record is damaged.
        """
        if kind not in get_args(Kind):
            raise UnknownName("kind of rows", kind, get_args(Kind))
        cells = [cell for cell in self._plan.cells if cell.kind == kind]
        of_names = {"metric": metric, "defense": defense, "dataset": dataset, "attack": attack}
        of_words = {"norm": norm, "direction": direction}
        for column, wanted in (of_names | of_words).items():
            if wanted is not None:
                cells = _chosen(cells, column, [wanted] if isinstance(wanted, str) else list(wanted), kind)
        frame = _typed_rows(self._store.read_rows([cell.id for cell in cells]), kind)
        if eps is not None:
            frame = _at(frame, [eps] if isinstance(eps, (str, float, int)) else list(eps))
        units = self.summary.drop_duplicates(list(_LINE)).set_index(list(_LINE))["range"]
        lines = pd.MultiIndex.from_frame(frame[list(_LINE)])
        return frame.assign(unit=units.reindex(lines).to_numpy(dtype=float, na_value=np.nan))

    def adversarial(self, cell: str, image: str) -> np.ndarray:
        """An attacked image, (3,H,W) in [0,1], of a run with `save_images`.

        Args:
            cell, image: of a row of `rows("attack")`.

        Raises:
            BadData: the run did not keep it, or it is damaged.
        """
        kept = self._store.read_images(cell)
        if image not in kept:
            raise BadData(f"cell {cell!r} has no image {image!r}: take both from a row of `rows('attack')`")
        return kept[image]

    def __repr__(self) -> str:
        """Which run it is, and what there is."""
        return f"<LoadedResults of {self.suite.name!r} in {str(self.root)!r}: {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the run, its tables, and the heart of the summary."""
        summary = self.summary
        shown = [c for c in _HEART if c in summary]
        sizes = ", ".join(f"<code>{escape(name)}</code> {len(self.table(name))}" for name in self.names)
        return (
            f"<p><b>{escape(self.suite.name)}</b>, {counted(len(self._plan.cells), 'cell')}, in "
            f"<code>{escape(str(self.root))}</code>. Rows: {sizes}.</p>"
            + summary[shown].to_html(index=False, escape=True, float_format=lambda x: f"{x:.3f}", na_rep="")
        )


_HEART = ("rank", *_LINE, "srocc_clean", "worst_gain_mean", "worst_gain_lo", "worst_gain_hi", "certified_delta_mean",
          "flags")  # fmt: skip
"""Columns of the summary that a notebook shows."""


def load_results(run: str | Path | RunResult) -> LoadedResults:
    """Open what a run has left, to read it as pandas frames; nothing is computed or written.

    Args:
        run: its folder, or what `run_suite` returned.

    Raises:
        BadData: the folder is no run, or has no tables (`robustiqa.leaderboard.collect` writes them).
    """
    return LoadedResults(run.out if isinstance(run, RunResult) else Path(run))


def _typed_table(path: Path) -> pd.DataFrame:
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
        return pd.DataFrame({str(name): _typed(text[name], str(name)) for name in text})
    except (OSError, ValueError, TypeError) as error:  # pandas' own errors are ValueErrors
        raise BadData(f"table {str(path)!r} cannot be read ({error}): `robustiqa collect` writes it again") from error


def _typed(text: pd.Series, column: str) -> pd.Series:
    """A column of a CSV file as what it stands for; one that this version does not know is text unless all of it are
    numbers."""
    unit, given = unit_of(column), text.where(~text.isin(["", "nan"]))
    if unit == FLAG:
        flags = given.map({"True": True, "False": False})
        if (flags.isna() & given.notna()).any():
            raise ValueError(f"column {column!r} has {given[flags.isna() & given.notna()].iloc[0]!r} for a flag")
        return flags.astype("boolean")
    if unit == TEXT:
        return text.astype("string")
    try:
        numbers = pd.to_numeric(given).astype(float)
    except (ValueError, TypeError):
        if unit:
            raise
        return text.astype("string")
    return numbers.astype("Int64") if unit in _WHOLE else numbers


def _typed_rows(rows: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    kinds: dict[Callable[[pa.DataType], bool], str] = {
        pa.types.is_string: "string", pa.types.is_int64: "Int64", pa.types.is_boolean: "boolean",
        pa.types.is_floating: "float64",
    }  # fmt: skip
    types = {c: next(name for fits, name in kinds.items() if fits(SCHEMA.field(c).type)) for c in _COLUMNS[kind]}
    frame = rows[list(types)].astype(types)
    words = [name for name, kind in types.items() if kind == "string"]
    return frame.fillna(dict.fromkeys(words, "")).rename(columns=_AS_IN_TABLES).reset_index(drop=True)


def _chosen(cells: Sequence[Cell], column: str, wanted: Sequence[str], kind: str) -> list[Cell]:
    """Cells in whose column stands one of the wanted strings, or a string with one of these names."""
    known = {str(value) for cell in cells if (value := getattr(cell, column)) is not None}
    fits: set[str] = set()
    for text in wanted:
        whole = str(parse_spec(text)) if "[" in text else text
        found = {one for one in known if one == whole or one.partition("[")[0] == whole}
        if not found:
            what = {"defense": "defence", "dataset": "data set"}.get(column, column)
            raise UnknownName(f"{what} of this run's {kind} rows", text, known | {x.partition("[")[0] for x in known})
        fits |= found
    return [cell for cell in cells if getattr(cell, column) in fits]


def _at(frame: pd.DataFrame, wanted: Sequence[float | str]) -> pd.DataFrame:
    """Rows at these budgets; 4/255 may also be written in decimals."""
    if "eps" not in frame:
        raise BadParameter("eps was given for rows that have no budget: leave it out")
    budgets = [parse_eps(eps) for eps in wanted]
    near = [np.isclose(frame["eps"], eps, rtol=1e-6, atol=0) for eps in budgets]
    for eps, found in zip(budgets, near, strict=True):
        if not found.any():
            known = ", ".join(f"{e:.6g}" for e in sorted(frame["eps"].dropna().unique()))
            raise BadParameter(f"no row has the budget {eps:.6g}: there are {known or 'none'}")
    return frame[np.any(near, axis=0)].reset_index(drop=True)
