"""A metric on the scale of human opinion, or of its own quantiles: gains of different metrics in the same units."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from ..align import ALL_MAPS, AlignMap, AnyMap
from ..api import Metric
from ..calibration import qualities, warn_of_poor_fit
from ..datasets import Dataset, load_dataset
from ..errors import BadData, BadParameter
from ..measures import srocc
from ..registry import register_metric
from . import load_metric


class Aligned(nn.Module):
    """A metric's quality, sign * score, behind a strictly increasing map, fitted when a score is first asked for.

    Args:
        inner: the metric.
        data: the images that the map is fitted on.
        kind: of the map.
        calibration: plug-in string of the data.

    Attributes:
        fitted_on: that string: what the board must not judge it on (`bench.overlap`).
    """

    def __init__(self, inner: Metric, data: Dataset, kind: AnyMap, calibration: str) -> None:
        super().__init__()
        self.inner, self.data, self.calibration = inner, data, calibration
        self.fitted_on = (calibration,)
        self.kind: AnyMap = kind
        truth = [item.truth for item in data.items if item.truth is not None]
        if truth and len(truth) < len(data):
            raise BadData(f"calibration {calibration!r} has scores for {len(truth)} of {len(data)} images: give one "
                          "with scores for all or for none")  # fmt: skip
        self.truth = np.array(truth, dtype=float) if data.truth_name and truth else None
        if self.truth is not None and np.ptp(self.truth) == 0:
            raise BadParameter(f"calibration {calibration!r} has one score for all images: give images that differ")
        self._map: AlignMap | None = None

    @property
    def map(self) -> AlignMap:
        """The map, fitted once."""
        if self._map is None:
            quality = qualities(self.inner, self.data, self.calibration)
            target = self.truth
            if target is None:
                target = 100 * (rankdata(quality) - 0.5) / len(quality)
            else:
                name = f"the {self.data.truth_name}"
                agreement = srocc(quality, target)
                advice = "calibrate on images that it can order"
                warn_of_poor_fit(self.inner, name, agreement, len(quality), self.calibration, advice)
            self._map = ALL_MAPS[self.kind](quality, target)
        return self._map

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,) of images (B,3,H,W) in [0,1], larger = better."""
        return self.map(self.inner.sign * self.inner(x))


@register_metric("aligned", parts={"metric": "metric", "calibration": "dataset"})
def aligned(metric: str, calibration: str, map: str = "logistic") -> Metric:
    """Another metric's score on the scale of a data set's human scores, larger = better: gains in the same units.

    Where the data set has no ground truth, the scale is the share, in percent, of its images that score lower. The map
    is strictly increasing and goes on beyond the images it was fitted on, so the order of images stays, an attack finds
    the same gradient up to a factor, and nothing is clamped; but what it gives there is an extrapolation, in the right
    order and not in the right distance. The bounds of a median smoothing of the aligned metric are
    the mapped bounds of the metric's own; a mean is another matter: the mean of mapped scores is not the mapped mean,
    and the certificate is one for the former.

    Args:
        metric: as plug-in string.
        calibration: data set, as plug-in string, with at least 20 images; not those that a run is
            judged on: the board flags that, as `calibration-seen`.
        map: "logistic" (smooth, 4 parameters and a least slope), "isotonic" (centred isotonic regression) or "quantile"
            (decile on decile).

    Raises:
        UnknownName, Absent, BadData, BadParameter: what the metric or the data set raises.
        BadParameter: no such map, or scores that are all alike.
    """
    if map not in get_args(AnyMap):
        raise BadParameter(f"aligned[map={map}]: expected {', '.join(get_args(AnyMap))}")
    kind: AnyMap = map  # type: ignore[assignment]
    inner = load_metric(metric)
    module = Aligned(inner, load_dataset(calibration), kind, calibration)
    ends = (0.0, 100.0) if module.truth is None else (float(module.truth.min()), float(module.truth.max()))
    if inner.bounded and inner.score_range:
        # Unlike the ends of the target's scale these can never be left. One step outwards for the last rounding.
        worst, best = sorted(inner.sign * end for end in inner.score_range)
        low, high = module.map(torch.tensor([worst, best], dtype=torch.float64)).numpy().astype(np.float32)
        ends = (float(np.nextafter(low, np.float32(-np.inf))), float(np.nextafter(high, np.float32(np.inf))))
    return Metric(
        module, "aligned", score_range=ends, bounded=inner.bounded, min_size=inner.min_size,
        differentiable=inner.differentiable,
    )  # fmt: skip
