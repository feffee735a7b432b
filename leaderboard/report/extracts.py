"""What the page needs of the records of one line of the board, so that no two lines are in memory at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...bench.suite import Headline
from ..compare import srocc_interval
from ..empirical import worst_case
from ..results import Group
from .points import panels

_PICTURED = ["attack", "cell", "clean", "attacked", "gain", "psnr", "ssim", "linf", "l2"]


@dataclass(frozen=True)
class Extract:
    """Of a metric behind a defence on a data set.

    Attributes:
        metric, defense, dataset: canonical plug-in strings.
        randomised: whether the defence drew random numbers.
        attacks: attacked images that have a result.
        accuracy: 95 % interval of the SROCC, where it was asked for and can be had.
        panels: see `points.panels`.
        worst: where pictures were asked for, the strongest attack on each image at the headline threat, by image.
    """

    metric: str
    defense: str
    dataset: str
    randomised: bool
    attacks: int
    accuracy: dict[str, float]
    panels: list[dict[str, Any]]
    worst: pd.DataFrame


def extract(group: Group, headline: Headline, *, interval: bool, pictures: bool) -> Extract:
    """What the page needs of a group.

    Args:
        group: all of its records.
        headline: the threat of the pictures.
        interval: whether the tables lack the interval of the SROCC.
        pictures: whether any may be shown.
    """
    drawn = pd.concat([group.clean["randomised"], group.rows["randomised"]])
    worst = worst_case(group, headline.norm, headline.eps)[_PICTURED] if pictures else pd.DataFrame(columns=_PICTURED)
    return Extract(
        group.metric,
        group.defense,
        group.dataset,
        bool(drawn.fillna(False).any()),
        len(group.attacks()),
        _accuracy_interval(group) if interval else {},
        panels(group),
        worst,
    )


def _accuracy_interval(group: Group) -> dict[str, float]:
    """95 % interval of the SROCC, resampled by reference photograph."""
    found = srocc_interval(group)
    return {} if np.isnan(found.value) else {"srocc_clean_lo": found.lo, "srocc_clean_hi": found.hi}
