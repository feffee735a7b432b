"""Figures of submissions: what was claimed, what the author's run gives, what the maintainers' run gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ...bench.submission.metadata import BreakSubmission, DefenseSubmission
from .best_known import Best
from .entry import Entry
from .figures import WORST, Figure


class Row(NamedTuple):
    """A row of `submissions.csv`.

    Attributes:
        submission, kind: name; defense or break.
        defense, metric, dataset, table, measure, threat: what the figure is of; `threat` in words.
        claimed: NaN where nothing was.
        measured, measured_lo, measured_hi: from the records of the author's run, with a 95 % interval.
        verified, verified_lo, verified_hi: from those of the maintainers' run; NaN before there is one.
        verdict: of the maintainers' run where there is one, else of the author's.
        verified_by: "maintainers" or "author".
        best_known: of a worst gain, with accepted breaks that were verified; by whom, where not by our attacks.
        problems: what did not hold in the maintainers' run: a breach of the contract, a claim that was refuted.
        authors, licence, code, digest: of the submission.
    """

    submission: str
    kind: str
    defense: str
    metric: str
    dataset: str
    table: str
    measure: str
    threat: str
    claimed: float
    measured: float
    measured_lo: float
    measured_hi: float
    verified: float
    verified_lo: float
    verified_hi: float
    verdict: str
    verified_by: str
    best_known: float
    best_known_by: str
    problems: str
    authors: str
    licence: str
    code: str
    digest: str


def rows_of(entries: Sequence[Entry], best: Sequence[Best]) -> list[Row]:
    """All rows, by the name of the submission; in each, claims first, in their order.

    Args:
        entries: accepted submissions; their runs have their tables.
        best: what is best known of the targets of breaks.
    """
    return [row for entry in sorted(entries, key=lambda e: e.submission.name) for row in _rows(entry, best)]


def _rows(entry: Entry, best: Sequence[Best]) -> Iterator[Row]:
    submission = entry.submission
    theirs = {figure.what: figure for figure in entry.verified_figures or ()}
    by = "author" if entry.verified is None else "maintainers"
    defense = submission.defense if isinstance(submission, DefenseSubmission) else submission.target.defense
    about = (entry.problems, entry.authors, submission.licence, submission.code, entry.digest[:16])
    for figure in entry.figures:
        other = theirs.get(figure.what)
        verdict = figure.verdict if entry.verified is None else other.verdict if other else "not measured"
        ends = (other.measured, other.lo, other.hi) if other else (np.nan, np.nan, np.nan)
        known = _best_of(entry, figure, best)
        ours = figure.measured if other is None else other.measured
        alone = ours if figure.measure == WORST else np.nan
        yield Row(
            submission.name, submission.kind, defense, figure.metric, figure.dataset, figure.table, figure.measure,
            figure.threat, figure.claimed, figure.measured, figure.lo, figure.hi, *ends, verdict, by,
            alone if known is None else known.best_known, "" if known is None else known.best_known_by, *about,
        )  # fmt: skip


def _best_of(entry: Entry, figure: Figure, best: Sequence[Best]) -> Best | None:
    """What is best known of the row that a figure is of: its own worst gain, or the target of a break."""
    submission = entry.submission
    if isinstance(submission, BreakSubmission):
        target = submission.target
        key = (target.metric, target.defense, target.dataset, target.norm, target.direction)
        eps = target.eps
    elif figure.measure == WORST:
        headline = entry.results.suite.headline
        key = (figure.metric, submission.defense, figure.dataset, headline.norm, "up")
        eps = headline.eps
    else:
        return None
    for one in best:
        if (one.metric, one.defense, one.dataset, one.norm, one.direction) == key and np.isclose(one.eps, eps):
            return one
    return None
