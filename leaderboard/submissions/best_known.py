"""What is best known of a row of the board: the largest gain of our attacks and of accepted breaks, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...bench.errors import BadSubmission
from ...bench.submission.metadata import BreakSubmission, Target
from ..results import Results, read_results
from .entry import Entry
from .gains import Gains, break_gains, listed_gains

COLUMNS = ("metric", "defense", "dataset", "norm", "eps", "direction", "listed", "best_known", "best_known_by",
           "n_images", "not_verified", "not_verified_by")  # fmt: skip
"""Columns of `best_known.csv`, in order. Gains are in units of R, with the sign of the board."""

SAME_UNIT = 0.01
"""Relative difference that R may have between the run of a break and the board: the same images give the same R."""


class Best(NamedTuple):
    """A row of the table; see `COLUMNS`. `listed` is NaN where no board and no submission has the row."""

    metric: str
    defense: str
    dataset: str
    norm: str
    eps: float
    direction: str
    listed: float
    best_known: float
    best_known_by: str
    n_images: int
    not_verified: float
    not_verified_by: str


def best_known(entries: Sequence[Entry], boards: Sequence[Path] = ()) -> list[Best]:
    """A row for every target of an accepted break.

    A break counts once the maintainers have run it; before, its author's figure stands under `not_verified`. Each image
    counts with the larger gain, and one that the break has no version of as left as it is, so no break makes a row look
    better than our attacks do.

    Args:
        entries: all accepted submissions.
        boards: folders of runs that list rows which are no submissions' own.

    Raises:
        BadSubmission: a break was measured on other images, or in another unit, than the row that it speaks of.
    """
    targets: dict[Target, list[Entry]] = {}
    for entry in entries:
        if isinstance(entry.submission, BreakSubmission):
            targets.setdefault(entry.submission.target, []).append(entry)
    if not targets:
        return []
    results = [read_results(board) for board in boards]
    results += [entry.verified_results or entry.results for entry in entries if entry.submission.kind == "defense"]
    return [_best(target, breaks, results) for target, breaks in sorted(targets.items(), key=lambda t: repr(t[0]))]


def _best(target: Target, breaks: Sequence[Entry], results: Sequence[Results]) -> Best:
    ours = listed_gains(target, results)
    sign = 1.0 if target.direction == "up" else -1.0
    best, by = ours, list[str]()
    waiting, waiting_by = np.nan, ""
    for entry in breaks:
        name = entry.submission.name
        if entry.verified_results is None:
            value = _mean(_larger(name, ours, _gains(entry, entry.results), sign))
            if not sign * value <= sign * waiting:
                waiting, waiting_by = value, name
            continue
        found = _larger(name, best, _gains(entry, entry.verified_results), sign)
        if not sign * _mean(found) <= sign * _mean(best):
            by.append(name)
        best = found
    images = 0 if best is None else len(best.by_image)
    return Best(target.metric, target.defense, target.dataset, target.norm, target.eps, target.direction, _mean(ours),
                _mean(best), ", ".join(by), images, waiting, waiting_by)  # fmt: skip


def _gains(entry: Entry, results: Results) -> Gains:
    assert isinstance(entry.submission, BreakSubmission)
    return break_gains(entry.submission, entry.submitted, results)


def _mean(gains: Gains | None) -> float:
    return float("nan") if gains is None else float(gains.by_image.mean())


def _larger(name: str, ours: Gains | None, theirs: Gains, sign: float) -> Gains:
    """The larger gain of two by image, in the attacker's direction; the break's where there are no others."""
    if ours is None:
        return theirs
    if set(theirs.by_image.index) != set(ours.by_image.index):
        raise BadSubmission(f"break {name!r} was measured on other images than the row that it speaks of: verify it on "
                            "the same data set")  # fmt: skip
    if not abs(theirs.unit - ours.unit) <= SAME_UNIT * ours.unit:
        raise BadSubmission(f"break {name!r} was measured in another unit (R = {theirs.unit:.4g}) than the row that it "
                            f"speaks of ({ours.unit:.4g}): verify it with the same metric and data set")  # fmt: skip
    larger = np.maximum(sign * ours.by_image, sign * theirs.by_image.reindex(ours.by_image.index))
    return Gains(sign * larger, ours.references, ours.unit)
