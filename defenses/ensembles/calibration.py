"""The maps of an ensemble's members, fitted on a stated data set."""

from __future__ import annotations

from collections.abc import Sequence

from ...bench.align import MAPS, Align, MonotoneMap
from ...bench.api import Metric
from ...bench.calibration import qualities, warn_of_poor_fit
from ...bench.datasets import load_dataset
from ...bench.measures import srocc

CALIBRATION = "photos[size=128,split=dev,subset=full]"
"""The default: two of the embedded photographs, each as it is and in 30 distorted versions; a test on the split `test`
shows none of them."""


def fit_maps(metric: Metric, others: Sequence[Metric], align: Align, calibration: str) -> list[MonotoneMap]:
    """A map for each of `others`, from its quality (sign * score) to that of `metric`.

    A fit that is little worth is warned of: few images, a member that hardly follows the defended metric, or one that
    falls where it rises. It is no error: what the ensemble then computes is well-defined.

    Args:
        metric: the defended metric.
        others: the other members.
        align: kind of the maps.
        calibration: data set as plug-in string.

    Raises:
        BadImage, BadScore, BadParameter: see `bench.calibration.qualities`.
    """
    data = load_dataset(calibration)
    target = qualities(metric, data, calibration)
    maps = []
    for other in others:
        member = qualities(other, data, calibration)
        agreement = srocc(member, target)
        warn_of_poor_fit(other, repr(metric.spec), agreement, len(data), calibration, "give another member")
        maps.append(MAPS[align](member, target))
    return maps
