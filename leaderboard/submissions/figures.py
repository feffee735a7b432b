"""What a run gives for the claims of a submission."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...bench.submission.claims import Judged, judge_break, judge_claims
from ...bench.submission.metadata import BreakSubmission, Claim, DefenseSubmission, Submission
from ..results import Results, read_results
from ..summary import eps_text
from .gains import break_gains

WORST = "worst_gain_mean"
"""The figure that every defence is shown with, claimed or not, and that a break may raise."""
NOT_CLAIMED = "not claimed"


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
    """What a run gives for everything that a submission claims, in the order of its claims, and then the worst gains
    of a defence that it claims nothing of.

    Args:
        submission: what was submitted.
        run: folder of the run, with its tables.
        submitted: SHA-256 of what was submitted, by path.
    """
    results = read_results(run)
    if not isinstance(submission, DefenseSubmission):
        return [_of_break(submission, submitted, results)]
    claimed = {(one.metric, one.dataset) for one in submission.claims if (one.table, one.measure) == ("summary", WORST)}
    more = [
        Claim(table="summary", measure=WORST, metric=group.metric, dataset=group.dataset, value=0.0)
        for group in results.groups
        if group.defense == submission.defense and (group.metric, group.dataset) not in claimed
    ]
    judged = judge_claims([*submission.claims, *more], submission.defense, run)
    found = [_of_claim(one) for one in judged]
    for k in range(len(submission.claims), len(found)):
        found[k] = found[k]._replace(claimed=np.nan, verdict=NOT_CLAIMED)
    headline = f"{results.suite.headline.norm} {eps_text(results.suite.headline.eps)}"
    return [one._replace(threat=headline) if one.measure == WORST else one for one in found]


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
    mean, lo, hi, verdict = judge_break(submission, gains.by_image.to_numpy(dtype=float), gains.references)
    threat = f"{target.norm} {eps_text(target.eps)} {target.direction}"
    claimed = submission.gain
    return Figure(
        "gain", target.metric, target.dataset, "empirical", "gain_mean", threat, claimed, mean, lo, hi, verdict
    )
