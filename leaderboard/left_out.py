"""Entrants that whoever writes a board leaves out of it: never silently, their rows stay and say so."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..bench.errors import BadParameter, UnknownName
from ..bench.files import write_json
from ..bench.plan import Plan
from ..bench.provenance import BOARD
from ..bench.spec import parse_spec
from ..bench.store import Store
from ..bench.suite import Suite
from .rules import RULES_VERSION
from .summary import threat_of

FLAG = "left-out"
"""Flag of a row without figures, whose entrant somebody left out."""

UNIT = "none"


class LeftOut(NamedTuple):
    """A choice of whoever writes the board.

    Attributes:
        without: defences, canonical plug-in strings.
        because: who leaves them out and why, in words of theirs; "" where they do not say.
    """

    without: tuple[str, ...] = ()
    because: str = ""

    @property
    def sentence(self) -> str:
        """What the board says of it."""
        return f"{', '.join(self.without)}: {self.why}"

    @property
    def why(self) -> str:
        """What is said of each."""
        reason = f"the reason given is {self.because!r}" if self.because else "no reason was given"
        return f"left out by whoever wrote this board (`robustiqa collect --without`), not by the rules; {reason}"


def choose(plan: Plan, suite: Suite, without: Sequence[str], only: Sequence[str], because: str = "") -> LeftOut:
    """The defences of a plan that are named in `without`, or are not named in `only`.

    A name stands for the defence with any parameters, a whole plug-in string for itself.

    Raises:
        UnknownName: the plan has no such defence.
        BadParameter: both are given, nobody would be left, or the undefended metric is to go: its scores are the unit
            of all rows.
    """
    if without and only:
        raise BadParameter("--without and --only exclude each other: give one of them")
    defenses = list(dict.fromkeys(cell.defense for cell in plan.cells))
    named: set[str] = set()
    for text in (*without, *only):
        spec = parse_spec(text)
        found = {d for d in defenses if d == str(spec) or (not spec.params and parse_spec(d).name == spec.name)}
        if not found:
            raise UnknownName("defence of this run", text, {*defenses, *(parse_spec(d).name for d in defenses)})
        named |= found
    if UNIT in named and without:
        raise BadParameter(f"--without {UNIT}: its scores are the unit of all rows; leave out others")
    gone = tuple(d for d in defenses if d != UNIT and (d in named) == bool(without)) if without or only else ()
    if {defense for _, defense in plan.all_asked(suite)} <= {*gone}:
        raise BadParameter("nobody would be left on the board: leave fewer defences out")
    return LeftOut(gone, because)


def recorded(record: Mapping[str, Any]) -> LeftOut:
    """What a run record says of the board beside it."""
    found = record.get(BOARD)
    if not isinstance(found, Mapping):
        return LeftOut()
    names = found.get("without")
    return LeftOut(tuple(map(str, names)) if isinstance(names, list) else (), str(found.get("because", "")))


def keep_in_record(root: Path, choice: LeftOut) -> None:
    """Write it into ROOT/run.json, or take an earlier one out of it."""
    record = Store(root).read_json("run.json")
    if recorded(record) == choice:
        return
    rest = {name: value for name, value in record.items() if name != BOARD}
    board = {BOARD: {"without": list(choice.without), "because": choice.because}} if choice.without else {}
    write_json(root / "run.json", rest | board)


def with_left_out(
    summary: pd.DataFrame, root: Path, suite: Suite, plan: Plan, without: Collection[str]
) -> pd.DataFrame:
    """The summary with a row for each entrant that was left out, the last ones of their tables, without figures.

    Args:
        summary: of the others.
        root: folder of the run.
        suite: of the run.
        plan: of the run, with all entrants.
        without: defences that were left out.
    """
    rows = list(_rows(root, suite, plan, without))
    if not rows:
        return summary
    table = pd.DataFrame([*summary.to_dict("records"), *rows], columns=summary.columns)
    table["rank"] = table["rank"].astype("Int64")
    order = table.assign(last=table["flags"] == FLAG)
    return table.loc[order.sort_values(["dataset", "metric", "last"], kind="stable").index].reset_index(drop=True)


def _rows(root: Path, suite: Suite, plan: Plan, without: Collection[str]) -> Iterator[dict[str, Any]]:
    store = Store(root)
    there = store.snapshot()
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for cell in plan.cells:
        if cell.defense in without and cell.kind != "check":
            groups.setdefault((cell.metric, cell.defense, cell.dataset), []).append(cell)
    for (metric, defense, dataset), cells in groups.items():
        found = store.read_rows([cell.id for cell in cells], there)
        ok = found.loc[found["status"] == "ok", ["cell", "image"]].drop_duplicates()
        yield {"metric": metric, "defense": defense, "dataset": dataset, "flags": FLAG, "n_ok": len(ok),
               "n_planned": sum(cell.stop - cell.start for cell in cells), "standard": False, "plcc_note": "",
               "threat": threat_of(suite.headline), "rules": RULES_VERSION}  # fmt: skip
