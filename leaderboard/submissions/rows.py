"""Figures of submissions: what was claimed, what the author's run gives, what the maintainers' run gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...bench.measures import bootstrap_mean
from ...bench.submission.claims import Judged, judge_claims, verdict_of
from ...bench.submission.metadata import BreakSubmission, Claim, DefenseSubmission, Submission
from ...bench.suite import Headline
from ..results import Results, read_results
from ..summary import eps_text
from .best_known import Best, best_known, break_gains
from .entry import Entry

WORST = "worst_gain_mean"
"""The figure that every defence is shown with, claimed or not, and that a break may raise."""
NOT_CLAIMED = "not claimed"


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
    authors: str
    licence: str
    code: str
    digest: str


class Figure(NamedTuple):
    """A figure of one run; `what` is the same in another run of the same submission."""

    what: str
    metric: str
    dataset: str
    table: str
    measure: str
    threat: str
    claimed: float
    measured: float
    lo: float
    hi: float
    verdict: str


def figures(submission: Submission, run: Path, submitted: Mapping[str, str]) -> list[Figure]:
    """What a run gives for everything that a submission claims, in the order of its claims.

    Args:
        submission: what was submitted.
        run: folder of the run, with its tables.
        submitted: SHA-256 of what was submitted, by path.
    """
    if isinstance(submission, DefenseSubmission):
        return [_of_claim(one) for one in judge_claims(submission.claims, submission.defense, run)]
    return [_of_break(submission, submitted, read_results(run))]


def rows_of(entries: Sequence[Entry], boards: Sequence[Path]) -> list[Row]:
    """All rows, by the name of the submission; in each, claims first, in their order.

    Args:
        entries: accepted submissions; their runs have their tables.
        boards: folders of runs whose rows accepted breaks may speak of.
    """
    best = best_known(entries, boards)
    return [row for entry in sorted(entries, key=lambda e: e.submission.name) for row in _rows(entry, best)]


def _rows(entry: Entry, best: Sequence[Best]) -> Iterator[Row]:
    submission = entry.submission
    mine = _all_figures(submission, entry.run, entry.submitted)
    theirs = {} if entry.verified is None else {
        figure.what: figure for figure in _all_figures(submission, entry.verified, entry.submitted)
    }  # fmt: skip
    by = "author" if entry.verified is None else "maintainers"
    defense = submission.defense if isinstance(submission, DefenseSubmission) else submission.target.defense
    about = (entry.authors, submission.licence, submission.code, entry.digest[:16])
    for figure in mine:
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


def _all_figures(submission: Submission, run: Path, submitted: Mapping[str, str]) -> list[Figure]:
    """The figures of the claims, and of a defence the worst gains that nothing was claimed of."""
    found = figures(submission, run, submitted)
    if not isinstance(submission, DefenseSubmission):
        return found
    results = read_results(run)
    claimed = {(one.metric, one.dataset) for one in found if (one.table, one.measure) == ("summary", WORST)}
    for group in results.groups:
        key = (group.metric, group.dataset)
        if group.defense == submission.defense and key not in claimed:
            claim = Claim(table="summary", measure=WORST, metric=group.metric, dataset=group.dataset, value=0.0)
            (one,) = judge_claims([claim], submission.defense, run)
            found.append(_of_claim(one)._replace(claimed=np.nan, verdict=NOT_CLAIMED))
    headline = threat_of(results.suite.headline)
    return [one._replace(threat=headline) if one.measure == WORST and not one.threat else one for one in found]


def _of_claim(one: Judged) -> Figure:
    claim = one.claim
    threat = "" if claim.norm is None or claim.eps is None else f"{claim.norm} {eps_text(claim.eps)}"
    parts = (claim.attack, threat, claim.direction, claim.certificate)
    return Figure(claim.what, claim.metric, claim.dataset, claim.table, claim.measure, " ".join(filter(None, parts)),
                  claim.value, one.measured, one.lo, one.hi, one.verdict)  # fmt: skip


def _of_break(submission: BreakSubmission, submitted: Mapping[str, str], results: Results) -> Figure:
    """The mean gain over the images with its interval, as `submit verify` computes it."""
    target = submission.target
    gains = break_gains(submission, submitted, results)
    label = f"break|{target.norm}|{target.eps!r}|{target.direction}|{target.dataset}"
    mean, lo, hi = bootstrap_mean(gains.by_image.to_numpy(dtype=float), gains.references, label)
    lo, hi = (lo, hi) if np.isfinite(lo) else (mean, mean)
    verdict = verdict_of(submission.gain, mean, lo, hi, 0.0, "larger" if target.direction == "up" else "smaller")
    threat = f"{target.norm} {eps_text(target.eps)} {target.direction}"
    claimed = submission.gain
    return Figure(
        "gain", target.metric, target.dataset, "empirical", "gain_mean", threat, claimed, mean, lo, hi, verdict
    )


def threat_of(headline: Headline) -> str:
    """The threat by which a run's worst gains are, in words."""
    return f"{headline.norm} {eps_text(headline.eps)}"


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
