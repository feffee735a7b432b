"""Gains of one row of a board by image: of a break, and of our own attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...bench.errors import BadSubmission
from ...bench.submission.belonging import attack_of
from ...bench.submission.metadata import BreakSubmission, Target
from ..empirical import worst_case
from ..results import Group, Results


class Gains(NamedTuple):
    """Gains of a target by image, the photograph behind each, and R of the run that they are from."""

    by_image: pd.Series
    references: list[str]
    unit: float


def break_gains(submission: BreakSubmission, submitted: Mapping[str, str], results: Results) -> Gains:
    """The gains of a break by image, as a run of it has measured them on the 8-bit files.

    Args:
        submission: the break.
        submitted: SHA-256 of what was submitted, by path: the run says which images it has scored.
        results: of the run.

    Raises:
        BadSubmission: the run has no such figure.
    """
    target, attack = submission.target, attack_of(submission, submitted)
    for group in _groups_of(target, [results]):
        at = group.under(target.norm, target.eps, target.direction)
        mine = at[at["attack"] == attack].set_index("image")
        if len(mine) and np.isfinite(group.unit):
            return Gains(mine["gain_8bit"] / group.unit, mine["reference"].tolist(), group.unit)
    raise BadSubmission(f"the run of break {submission.name!r} has no gain: its unit R is unknown, or no image has a "
                        "result; verify it on a data set that has a range of scores")  # fmt: skip


def listed_gains(target: Target, results: Sequence[Results]) -> Gains | None:
    """The gains of our strongest attack by image; None where no run has the row."""
    for group in _groups_of(target, results):
        worst = worst_case(group, target.norm, target.eps, target.direction)
        if len(worst):
            return Gains(worst["gain"], worst["reference"].tolist(), group.unit)
    return None


def _groups_of(target: Target, results: Sequence[Results]) -> Iterator[Group]:
    key = (target.metric, target.defense, target.dataset)
    return (g for found in results for g in found.groups if (g.metric, g.defense, g.dataset) == key)
