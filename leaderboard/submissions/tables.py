"""`submissions.csv`, `best_known.csv` and `submissions.md` of a registry: the same records give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ...bench.files import write_atomically
from ..board import table
from ..exports.spreadsheet import csv_text
from ..summary import eps_text
from .best_known import COLUMNS as BEST
from .best_known import best_known
from .entry import Entry, read_entries
from .rows import Row, rows_of

NAME = "submissions"

SHOWN = {
    "submission": "submission", "measure": "measure", "threat": "threat", "claimed": "claimed",
    "measured_text": "author's run", "verified_text": "maintainers' run", "verdict": "verdict",
    "best_text": "best known",
    "defense": "defence", "metric": "metric", "dataset": "data set", "problems": "problems",
}  # fmt: skip
_ABOUT = {"submission": "submission", "title": "title", "authors": "authors", "licence": "licence", "code": "code",
          "digest": "digest"}  # fmt: skip
BEST_SHOWN = {"defense": "defence", "metric": "metric", "dataset": "data set", "threat": "threat",
              "listed": "our attacks", "best_known": "best known", "best_known_by": "by",
              "not_verified": "not verified yet", "not_verified_by": "by whom"}  # fmt: skip

INTRODUCTION = (
    "Claimed: what the authors wrote into `submission.yml`. Author's run: computed from the records in their archive. "
    "Maintainers' run: computed from the records of a run on our machine, of the code in that archive. Only the last "
    "one is evidence: records can be forged in ways that nothing but running the code again finds "
    "(docs/submitting.md)."
)


def write_tables(into: Path, boards: Sequence[Path] = ()) -> dict[str, Path]:
    """Write the tables of a registry again, from the records alone.

    Args:
        into: folder of the registry.
        boards: folders of runs whose rows accepted breaks may speak of.

    Returns:
        the paths, by table name.

    Raises:
        BadSubmission: something in it is not what was accepted.
    """
    entries = read_entries(into)
    return write_frames(into, entries, submission_tables(entries, boards))


def write_frames(into: Path, entries: Sequence[Entry], frames: Mapping[str, pd.DataFrame]) -> dict[str, Path]:
    """Write `submission_tables` of the accepted submissions into their folder; returns the paths, by table name."""
    paths = {name: into / f"{name}.csv" for name in frames}
    for name, frame in frames.items():
        write_atomically(paths[name], csv_text(frame).encode())
    paths["markdown"] = into / f"{NAME}.md"
    write_atomically(paths["markdown"], _markdown(entries, frames).encode())
    return paths


def submission_tables(entries: Sequence[Entry], boards: Sequence[Path] = ()) -> dict[str, pd.DataFrame]:
    """The tables of accepted submissions by name: `submissions` and `best_known`."""
    best = best_known(entries, boards)
    return {
        NAME: pd.DataFrame(rows_of(entries, best), columns=list(Row._fields)),
        "best_known": pd.DataFrame(best, columns=list(BEST)),
    }


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with intervals and makers in words, for people."""
    return rows.assign(
        claimed=rows["claimed"].map(_number),
        measured_text=_with_interval(rows, "measured"),
        verified_text=_with_interval(rows, "verified"),
        best_text=[
            _number(value) + (f" ({by})" if by else "")
            for value, by in zip(rows["best_known"], rows["best_known_by"], strict=True)
        ],
    )


def readable_best(best: pd.DataFrame) -> pd.DataFrame:
    """`best_known.csv` with threats and figures in words, for people."""
    threats = zip(best["norm"], best["eps"], best["direction"], strict=True)
    shown = {name: best[name].map(_number) for name in ("listed", "best_known", "not_verified")}
    return best.assign(threat=[f"{norm} {eps_text(eps)} {direction}" for norm, eps, direction in threats], **shown)


def about(entries: Sequence[Entry]) -> pd.DataFrame:
    """Who has submitted what: a row a submission."""
    rows = [(e.submission.name, e.submission.title, e.authors, e.submission.licence, e.submission.code, e.digest[:16])
            for e in entries]  # fmt: skip
    return pd.DataFrame(rows, columns=list(_ABOUT))


def _markdown(entries: Sequence[Entry], frames: Mapping[str, pd.DataFrame]) -> str:
    rows, best = readable(frames[NAME]), readable_best(frames["best_known"])
    lines = ["# Submissions", "", INTRODUCTION, "", table(rows, SHOWN), ""]
    if len(best):
        lines += ["## Best known", "", "Mean over the images of the largest gain that our attacks or a verified break "
                  "reached on each.", "", table(best, BEST_SHOWN), ""]  # fmt: skip
    return "\n".join([*lines, "## Who", "", table(about(entries), _ABOUT), ""])


def _with_interval(rows: pd.DataFrame, name: str) -> list[str]:
    ends = zip(rows[name], rows[f"{name}_lo"], rows[f"{name}_hi"], strict=True)
    return [_number(v) + (f" [{lo:.4f}, {hi:.4f}]" if np.isfinite(v) and lo < hi else "") for v, lo, hi in ends]


def _number(value: float) -> str:
    return "-" if not np.isfinite(value) else f"{value:.4f}"  # as `submit verify` suggests claims
