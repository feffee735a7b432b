"""Several metrics at once: an attack has to move most of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from ...bench.api import Estimate, Metric
from ...bench.errors import BadParameter
from ...bench.images import straight_through
from ...bench.registry import register_defense
from ...bench.seeds import Streams
from ..base import exact
from .align import Align
from .calibration import CALIBRATION
from .members import PARTS, SHIPPED, Members

Combine = Literal["mean", "median", "trimmed-mean"]


@register_defense("ensemble", parts=PARTS)
class Ensemble(Members):
    """The defended metric and others, mapped to its scale and combined.

    What ensembles are for classifiers (Strauss et al. 2017, arXiv 1709.03423) for scores: the members' scales and
    directions differ, so each is mapped to the defended metric's by a strictly increasing function, and the result has
    its direction and scale. Deterministic. An attack through it follows the gradient of the combination; one that was
    made for the defended metric alone moves the others only as far as it transfers. He et al. (2017, arXiv 1706.04701):
    an adaptive attack breaks ensembles of weak members.

    Beyond the calibrated scores the maps go on with the slopes at their ends, so that the result may leave even a
    bounded metric's range: a clamp would hide what an attack does.

    Args:
        others: the other members as plug-in strings with `;` between them; the default is the shipped metrics, which
            suit tiny-iqa. Where the defended metric is named too, it still is a member once only.
        combine: "mean"; "median", for an even number the mean of the middle two, which ignores a minority of members
            altogether; or "trimmed-mean".
        trim: share of the members, rounded down but one at least, that trimmed-mean leaves out at each end; of three
            or four members it is the median.
        align: "quantile" (decile on decile), "isotonic" (centred isotonic regression), or none.
        calibration: data set, as plug-in string, that the maps are fitted on.

    `robustiqa check` plants a weakness in the defended metric alone; a median of three has none then, so that the flag
    `planted-missed` says nothing of it.

    Every member sees the image as it is. `cost` counts each member as one forward, whatever its size.
    """

    name = "ensemble"

    def __init__(
        self,
        metric: Metric,
        others: str = SHIPPED,
        combine: Combine = "mean",
        trim: float = 0.2,
        align: Align | None = "quantile",
        calibration: str = CALIBRATION,
    ) -> None:
        if combine not in get_args(Combine):
            raise BadParameter(f"ensemble[combine={combine}]: expected {', '.join(get_args(Combine))}")
        if not 0 < trim < 0.5:
            raise BadParameter(f"ensemble[trim={trim}]: expected a share between 0 and 0.5")
        super().__init__(metric, others, align, calibration)
        self.cost = self.size
        cuts = {"mean": 0, "median": (self.size - 1) // 2, "trimmed-mean": max(1, int(trim * self.size))}
        self.cut = cuts[combine]
        if 2 * self.cut >= self.size:
            raise BadParameter(f"ensemble[combine={combine}]: leaves out both of two members, expected three or more")
        self._through_mean = False

    def _combined(self, x: torch.Tensor) -> torch.Tensor:
        """(B,) mean of the members' scores without the `cut` lowest and highest."""
        scores = torch.stack([self.score(k, x) for k in range(self.size)])
        kept = scores.sort(dim=0, stable=True).values[self.cut : self.size - self.cut].mean(0)
        return straight_through(kept, scores.mean(0)) if self._through_mean else kept

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        return exact(self._combined(x))

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(1,B) the score itself, which is differentiable almost everywhere."""
        return self._combined(x)[None]

    def surrogates(self) -> Sequence[Ensemble]:
        """Itself; and where members are left out, the same score with the gradient of the mean over all of them.

        The gradient of a median is that of the member in the middle: it does not see who will be there next.
        """
        if not self.cut:
            return [self]
        view = copy.copy(self)
        view._through_mean = True
        return [self, view]
