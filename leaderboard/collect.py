"""`collect`: read the records of a run, write its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..bench.errors import BrokenInvariant, counted
from ..bench.files import no_links, write_atomically
from ..bench.overlap import FLAG as OVERLAP
from ..bench.plan import Plan
from ..bench.suite import Suite
from .board import escaped, track_sections
from .board import table as _table
from .certified import COLUMNS as CERTIFIED
from .certified import certified_rows
from .checks import COLUMNS as CHECKS
from .checks import check_rows
from .empirical import COLUMNS as EMPIRICAL
from .empirical import empirical_rows
from .exports.spreadsheet import csv_text
from .invariants import Broken, Inspector
from .invariants_tables import Trial, broken_tables, standard_trials
from .left_out import FLAG, LeftOut, choose, keep_in_record, with_left_out
from .results import FEW_SCORES, FEWEST, NO_RANGE, read_groups, read_plan
from .rows import with_rows
from .rules import FAILED
from .summary import eps_text, ranked, summary_row
from .threats import COLUMNS as THREATS
from .threats import threat_rows
from .tracks import Entrant, entrants_of, stability_table, track_budgets, track_tables

BOARD, VIOLATED = "leaderboard", "leaderboard-violated"
"""Folders of the tables: of a board, and of records that cannot be right."""

SHOWN = 5
"""Violations that the error names; `violations.csv` has all of them."""

_COLUMNS = {"empirical": EMPIRICAL, "threats": THREATS, "certified": CERTIFIED, "checks": CHECKS}


class Board(NamedTuple):
    """Everything that is written of a run, what cannot be right in it, and who was left out of it."""

    suite: Suite
    plan: Plan
    tables: dict[str, pd.DataFrame]
    broken: list[Broken]
    left: LeftOut


def collect(
    root: str | Path,
    *,
    despite_violations: bool = False,
    without: Sequence[str] = (),
    only: Sequence[str] = (),
    because: str = "",
) -> dict[str, Path]:
    """Write the tables of a run as CSV, and `board.md`, into ROOT/leaderboard.

    The tables are summary, empirical, threats, certified, tracks, neighbours and stability; `checks.csv` is there only
    if the suite asks for reliability checks, and `errors.csv`, the images that failed and why, if there are any.

    Reads only; computes no score. The same records give the same bytes.

    Args:
        root: folder of a run.
        despite_violations: write the tables also where an invariant is broken (`docs/rules.md`), for diagnosis: into
            ROOT/leaderboard-violated, with `violations.csv`, and leaving ROOT/leaderboard alone.
        without: defences that are left out, by name or plug-in string; their rows of `summary.csv` stay without figures
            and with the flag `left-out`, and `board.md` and `run.json` say it.
        only: defences that stay; all others but the undefended metric are left out.
        because: who leaves them out and why, for the board.

    Returns:
        the paths, by table name; with "violations" where there are some.

    Raises:
        BadData: the folder is no run, or a record in it is corrupt.
        BrokenInvariant: a figure would be wrong; nothing is written.
        UnknownName: the run has no such defence.
    """
    root = Path(root)
    no_links(root, (BOARD, VIOLATED))
    board = make_board(root, despite_violations, without, only, because)
    if board.broken and not despite_violations:
        raise _stopped(board.broken, root)
    return write_board(board, root)


def write_board(board: Board, root: Path) -> dict[str, Path]:
    """Write the tables of a run into its folder, and return their paths: those of broken ones apart from a board's."""
    tables = board.tables
    folder = root / (VIOLATED if board.broken else BOARD)
    text = _markdown(board)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.csv" for name in tables}
    for name, table in tables.items():
        write_atomically(paths[name], csv_text(with_rows(name, table, board.suite.seed)).encode())
    for sometimes in ("errors", "checks"):
        if sometimes not in tables:
            (folder / f"{sometimes}.csv").unlink(missing_ok=True)
    if not board.broken:
        keep_in_record(root, board.left)
    paths["board"] = folder / "board.md"
    write_atomically(paths["board"], text.encode())
    if not board.broken:
        _remove_violated(root / VIOLATED, paths)
    return paths


def make_board(
    root: Path,
    despite_violations: bool = False,
    without: Sequence[str] = (),
    only: Sequence[str] = (),
    because: str = "",
) -> Board:
    """The tables of a run, and what breaks a rule; without tables where records do, unless they are wanted anyway."""
    suite, planned = read_plan(root)
    left = choose(planned, suite, without, only, because)
    plan = planned.but(left.without)
    inspector = Inspector(plan)
    budgets = track_budgets(plan, suite.headline)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("summary", *_COLUMNS)}
    entrants: list[Entrant] = []
    trials: list[Trial] = []
    for group in read_groups(root, suite, plan, inspector):
        if inspector.broken and not despite_violations:
            continue
        empirical, certified = empirical_rows(group), certified_rows(group)
        summary = summary_row(group, suite.headline, empirical, certified)
        found["summary"].append(summary)
        found["empirical"] += empirical
        found["threats"] += threat_rows(group)
        found["certified"] += certified
        if suite.checks:
            found["checks"] += check_rows(group)
        entrants += entrants_of(group, budgets, summary, empirical)
        trials += standard_trials(group)
    if inspector.broken and not despite_violations:
        return Board(suite, plan, {}, inspector.broken, left)
    tracks, neighbours = track_tables(entrants, plan.costs, suite.headline)
    tables = {"summary": ranked(found["summary"], tracks, suite.headline)}
    tables |= {name: _frame(found[name], columns) for name, columns in _COLUMNS.items()}
    if not suite.checks:
        del tables["checks"]
    tables |= {"tracks": tracks, "neighbours": neighbours, "stability": stability_table(tracks)}
    broken = inspector.broken + broken_tables(plan, set(plan.all_asked(suite)), tables, trials)
    if len(errors := inspector.table()):
        tables["errors"] = errors
    if broken:
        tables["violations"] = pd.DataFrame(broken, columns=list(Broken._fields))
    tables["summary"] = with_left_out(tables["summary"], root, suite, planned, left.without)
    return Board(suite, plan, tables, broken, left)


def _stopped(broken: Sequence[Broken], root: Path) -> BrokenInvariant:
    """The error that says what is wrong, row by row."""
    return BrokenInvariant(
        f"no board was written of {str(root)!r}, and what is there was left as it is: "
        f"{counted(len(broken), 'row')} cannot be right{listed(broken)}\nWhat each rule means and what to do is in "
        f"docs/rules.md; `robustiqa collect {root} --despite-violations` writes the tables into "
        f"{str(root / VIOLATED)!r}, for diagnosis"
    )


def listed(broken: Sequence[Broken]) -> str:
    """The first `SHOWN` violations, a line each, and how many more there are."""
    shown = "".join(f"\n  {one}" for one in broken[:SHOWN])
    return shown + (f"\n  and {len(broken) - SHOWN} more" if len(broken) > SHOWN else "")


def _remove_violated(folder: Path, tables: Mapping[str, Path]) -> None:
    """Take away tables that were written despite violations, and the folder if nothing else is in it."""
    for path in (*tables.values(), Path("violations.csv"), Path("errors.csv"), Path("checks.csv")):
        (folder / path.name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """A table with its header also where there are no rows."""
    return pd.DataFrame(rows, columns=list(columns))


_SUMMARY = {
    "rank": "rank", "defense": "defence", "srocc_clean": "SROCC", "plcc_clean": "PLCC",
    "srocc_attacked": "SROCC attacked", "worst_gain_mean": "worst gain", "interval": "95% interval",
    "worst_gain_own": "in own range", "rscore_mean": "R-score", "certified_delta_mean": "certified delta",
    "flags": "flags", "coverage": "ok/planned",
}  # fmt: skip
_CERTIFIED = {
    "defense": "defence", "budget": "budget", "rms": "RMS (grey levels)", "kind": "kind",
    "certified_delta_mean": "certified delta", "width_mean": "width", "noise_spread_mean": "noise spread",
    "empirical_shift_worst_mean": "worst shift found", "tightness_max": "tightness max", "violations": "violations",
    "vacuous_share": "vacuous", "abstained_share": "abstained", "certified_pairs": "certified pairs",
    "srocc_clean": "SROCC", "plcc_clean": "PLCC", "n": "forwards",
}  # fmt: skip


def _markdown(board: Board) -> str:
    """The board for people: one block a data set and metric."""
    suite, plan, tables, broken, left = board
    lines = [f"# {escaped(suite.name)}", "", escaped(suite.description.strip()), "", *_warning(broken)]
    lines += [f"**{escaped(left.sentence)}.**", ""] if left.without else []
    summary, certified = tables["summary"], tables["certified"]
    for (dataset, metric), block in summary.groupby(["dataset", "metric"], sort=False) if len(summary) else ():
        kept = block[block["flags"] != FLAG]
        lines += [
            f"## {escaped(str(metric))} on {escaped(str(dataset))}",
            "",
            _introduction(kept, suite, tables.get("errors")),
            "",
            _table(_readable(block), _SUMMARY),
            "",
            *_without_plcc(kept),
            *_overlapping(plan, dataset, metric),
        ]
        if not certified.empty:
            mine = certified[(certified["dataset"] == dataset) & (certified["metric"] == metric)]
            budget = [f"{norm} {eps_text(eps)}" for norm, eps in zip(mine["norm"], mine["eps"], strict=True)]
            counts = {column: mine[column].astype("Int64") for column in ("n", "violations")}
            mine = mine.assign(budget=budget, **counts)
            lines += ["Certified bounds against attacks at the same budget:", "", _table(mine, _CERTIFIED), ""]
    lines += track_sections(tables)
    if plan.skipped:
        lines += ["Left out: " + escaped("; ".join(f"{what} ({why})" for what, why in plan.skipped)), ""]
    lines += ["Each row of the CSV files has an id, in column `row`: `robustiqa reproduce ID --from OUT` computes it "
              "again.", ""]  # fmt: skip
    return "\n".join(lines)


def _warning(broken: Sequence[Broken]) -> list[str]:
    """Where tables are written despite violations: that they are no board, and why."""
    if not broken:
        return []
    lines = [f"- {escaped(str(one))}" for one in broken]
    return ["**This is no board: the figures below cannot be right.** What is wrong (docs/rules.md):", "", *lines, ""]


def _introduction(block: pd.DataFrame, suite: Suite, errors: pd.DataFrame | None) -> str:
    """What the figures of a block are in, and of; or that there are none."""
    first = block.iloc[0]
    if (block["flags"].str.split().str[0] == FAILED).all():
        messages: list[str] = []
        if errors is not None:
            mine = (errors[["metric", "dataset"]] == first[["metric", "dataset"]]).all(axis=1)
            messages = errors.loc[mine, "message"].tolist()
        reasons = [f"{count} x {escaped(message)}" for message, count in Counter(messages).most_common(3)]
        found = f": {'; '.join(reasons)} (all of them in `errors.csv`)" if reasons else ", see the folder `errors`"
        return f"**Every image failed**, behind every defence; there is no figure to give{found}."
    truth = f"Ground truth: {'none' if pd.isna(first['truth']) else escaped(first['truth'])}."
    unit = f"Gains and deltas in units of the metric's range R = {first['range']:.4g} ({first['range_source']})."
    if first["range_source"] == NO_RANGE:
        unit = ("**No gain or delta can be given**: their unit R is unknown, since the undefended metric has no scores "
                "here, or the same one for every image, and declares no range.")  # fmt: skip
    elif first["range_source"].startswith(FEW_SCORES):
        unit += (f" **That is no range**: percentiles of fewer than {FEWEST} scores are chance, so gains cannot be "
                 "compared with those of another run; take more images, or declare `score_range`.")  # fmt: skip
    return (
        f"{truth} {unit} Worst gain: per image the strongest attack at {first['threat']}, upwards{_standard(block)}. "
        'Ranked by "in own range": the same gain in units of the defended range of scores, where that is smaller '
        f"than R. Certified delta: bound on the exact smoothed score (population) at l2 "
        f"{suite.headline.certified_eps:g}."
    )


def _standard(block: pd.DataFrame) -> str:
    """Whether the standard worst case is part of what the rows are ranked by."""
    without = block["defense"][~block["standard"].astype(bool)].tolist()
    if not without:
        return ", `auto-iqa` among them"
    if len(without) == len(block):
        return "; the standard worst case `auto-iqa` was not among them"
    return f", `auto-iqa` among them but for {', '.join(without)}"


def _without_plcc(block: pd.DataFrame) -> list[str]:
    """A line that says which fits gave no figure, and why, where there is a ground truth."""
    missing = block[block["truth"].notna() & (block["plcc_note"] != "")]
    notes = [f"behind `{row['defense']}`, {row['plcc_note']}" for row in missing.to_dict("records")]
    return ["Columns of `summary.csv` without a logistic fit: " + "; ".join(notes), ""] if notes else []


def _overlapping(plan: Plan, dataset: Any, metric: Any) -> list[str]:
    """A line that says what is judged on images which it was fitted on."""
    mine = [overlap for overlap in plan.overlaps if (overlap.dataset, overlap.metric) == (dataset, metric)]
    sentences = dict.fromkeys(overlap.sentence for overlap in mine)
    return [f"Flag `{OVERLAP}`: {escaped('; '.join(sentences))}.", ""] if sentences else []


def _readable(block: pd.DataFrame) -> pd.DataFrame:
    ends = zip(block["worst_gain_lo"], block["worst_gain_hi"], strict=True)
    interval = ["-" if pd.isna(lo) else f"{lo:.3f} to {hi:.3f}" for lo, hi in ends]
    coverage = [f"{ok}/{planned}" for ok, planned in zip(block["n_ok"], block["n_planned"], strict=True)]
    return block.assign(interval=interval, coverage=coverage)
