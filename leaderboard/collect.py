"""`collect`: read the records of a run, write its tables."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from ..bench.files import write_atomically
from ..bench.overlap import FLAG
from ..bench.plan import Plan
from ..bench.suite import Suite
from .certified import COLUMNS as CERTIFIED
from .certified import certified_rows
from .checks import COLUMNS as CHECKS
from .checks import check_rows
from .empirical import COLUMNS as EMPIRICAL
from .empirical import empirical_rows
from .results import FEW_SCORES, FEWEST, NO_RANGE, FailedImages, read_groups, read_plan
from .rows import with_rows
from .summary import FAILED, eps_text, rank, summary_row
from .threats import COLUMNS as THREATS
from .threats import threat_rows

SIGNIFICANT = 6
"""Digits in the CSV files: enough for any comparison, few enough to be the same on machines that compute alike."""

_COLUMNS = {"empirical": EMPIRICAL, "threats": THREATS, "certified": CERTIFIED, "checks": CHECKS}


def collect(root: str | Path) -> dict[str, Path]:
    """Write summary, empirical, threats, certified and checks (.csv) and `board.md` into ROOT/leaderboard.

    `checks.csv` is there only if the suite asks for reliability checks.

    Reads only; computes no score. The same records give the same bytes.

    Rows of images that failed go to `errors.csv`, with the reason; the file is there only if there are any.

    Returns:
        the paths, by table name.

    Raises:
        BadData: the folder is no run, or a record in it is corrupt.
    """
    root = Path(root)
    suite, plan = read_plan(root)
    failed = FailedImages(plan)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("summary", *_COLUMNS)}
    for group in read_groups(root, suite, plan, failed):
        empirical, certified = empirical_rows(group), certified_rows(group)
        found["summary"].append(summary_row(group, suite.headline, empirical, certified))
        found["empirical"] += empirical
        found["threats"] += threat_rows(group)
        found["certified"] += certified
        if suite.checks:
            found["checks"] += check_rows(group)
    tables = {"summary": rank(found["summary"])}
    tables |= {name: _frame(found[name], columns) for name, columns in _COLUMNS.items()}
    if not suite.checks:
        del tables["checks"]
    errors = failed.table()
    folder = root / "leaderboard"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, table in tables.items():
        paths[name] = folder / f"{name}.csv"
        write_atomically(paths[name], _csv(with_rows(name, table, suite.seed)).encode())
    for sometimes in ("errors", "checks"):
        if sometimes not in tables:
            (folder / f"{sometimes}.csv").unlink(missing_ok=True)
    if len(errors):
        paths["errors"] = folder / "errors.csv"
        write_atomically(paths["errors"], _csv(errors).encode())
    paths["board"] = folder / "board.md"
    write_atomically(paths["board"], _markdown(suite, plan, tables, errors).encode())
    return paths


def _csv(table: pd.DataFrame) -> str:
    """CSV text; eps is a key that people join on, so it keeps all its digits."""
    exact = {"eps": table["eps"].map(repr)} if "eps" in table else {}
    return table.assign(**exact).to_csv(index=False, float_format=f"%.{SIGNIFICANT}g", lineterminator="\n")


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """A table with its header also where there are no rows."""
    return pd.DataFrame(rows, columns=list(columns))


_SUMMARY = {
    "rank": "rank", "defense": "defence", "srocc_clean": "SROCC", "plcc_clean": "PLCC",
    "srocc_attacked": "SROCC attacked", "worst_gain_mean": "worst gain", "interval": "95% interval",
    "rscore_mean": "R-score", "certified_delta_mean": "certified delta", "flags": "flags", "coverage": "ok/planned",
}  # fmt: skip
_CERTIFIED = {
    "defense": "defence", "budget": "budget", "rms": "RMS (grey levels)", "kind": "kind",
    "certified_delta_mean": "certified delta", "width_mean": "width", "noise_spread_mean": "noise spread",
    "empirical_shift_worst_mean": "worst shift found", "tightness_max": "tightness max", "violations": "violations",
    "vacuous_share": "vacuous", "abstained_share": "abstained", "certified_pairs": "certified pairs",
    "srocc_clean": "SROCC", "plcc_clean": "PLCC", "n": "forwards",
}  # fmt: skip


def _markdown(suite: Suite, plan: Plan, tables: dict[str, pd.DataFrame], errors: pd.DataFrame) -> str:
    """The board for people: one block a data set and metric."""
    lines = [f"# {suite.name}", "", suite.description.strip(), ""]
    summary, certified = tables["summary"], tables["certified"]
    for (dataset, metric), block in summary.groupby(["dataset", "metric"], sort=False) if len(summary) else ():
        lines += [
            f"## {metric} on {dataset}",
            "",
            _introduction(block, suite, errors),
            "",
            _table(_readable(block), _SUMMARY),
            "",
            *_without_plcc(block),
            *_overlapping(plan, dataset, metric),
        ]
        if not certified.empty:
            mine = certified[(certified["dataset"] == dataset) & (certified["metric"] == metric)]
            budget = [f"{norm} {eps_text(eps)}" for norm, eps in zip(mine["norm"], mine["eps"], strict=True)]
            counts = {column: mine[column].astype("Int64") for column in ("n", "violations")}
            mine = mine.assign(budget=budget, **counts)
            lines += ["Certified bounds against attacks at the same budget:", "", _table(mine, _CERTIFIED), ""]
    if plan.skipped:
        lines += ["Left out: " + "; ".join(f"{what} ({why})" for what, why in plan.skipped), ""]
    lines += ["Each row of the CSV files has an id, in column `row`: `robustiqa reproduce ID --from OUT` computes it "
              "again.", ""]  # fmt: skip
    return "\n".join(lines)


def _introduction(block: pd.DataFrame, suite: Suite, errors: pd.DataFrame) -> str:
    """What the figures of a block are in, and of; or that there are none."""
    first = block.iloc[0]
    if (block["flags"].str.split().str[0] == FAILED).all():
        mine = errors[(errors[["metric", "dataset"]] == first[["metric", "dataset"]]).all(axis=1)]
        reasons = [f"{count} x {message}" for message, count in Counter(mine["message"]).most_common(3)]
        found = f": {'; '.join(reasons)} (all of them in `errors.csv`)" if reasons else ", see the folder `errors`"
        return f"**Every image failed**, behind every defence; there is no figure to give{found}."
    truth = f"Ground truth: {'none' if pd.isna(first['truth']) else first['truth']}."
    unit = f"Gains and deltas in units of the metric's range R = {first['range']:.4g} ({first['range_source']})."
    if first["range_source"] == NO_RANGE:
        unit = ("**No gain or delta can be given**: their unit R is unknown, since the undefended metric has no scores "
                "here, or the same one for every image, and declares no range.")  # fmt: skip
    elif first["range_source"].startswith(FEW_SCORES):
        unit += (f" **That is no range**: percentiles of fewer than {FEWEST} scores are chance, so gains cannot be "
                 "compared with those of another run; take more images, or declare `score_range`.")  # fmt: skip
    return (
        f"{truth} {unit} Worst gain: per image the strongest attack at {first['threat']}, upwards{_standard(block)}. "
        f"Certified delta: bound on the exact smoothed score (population) at l2 "
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
    return [f"Flag `{FLAG}`: {'; '.join(sentences)}.", ""] if sentences else []


def _readable(block: pd.DataFrame) -> pd.DataFrame:
    ends = zip(block["worst_gain_lo"], block["worst_gain_hi"], strict=True)
    interval = ["-" if pd.isna(lo) else f"{lo:.3f} to {hi:.3f}" for lo, hi in ends]
    coverage = [f"{ok}/{planned}" for ok, planned in zip(block["n_ok"], block["n_planned"], strict=True)]
    return block.assign(interval=interval, coverage=coverage)


def _table(frame: pd.DataFrame, columns: dict[str, str]) -> str:
    if frame.empty:
        return "(none)"
    cells = frame[list(columns)].astype(object).to_numpy().tolist()
    right = ["left" if frame[c].dtype.kind not in "ifu" and c != "rank" else "right" for c in columns]
    return tabulate(
        [[_shown(value) for value in row] for row in cells],
        headers=list(columns.values()),
        tablefmt="pipe",
        disable_numparse=True,
        colalign=right,
    )


def _shown(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
