"""Several metrics at once: an attack has to move most of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self, get_args

import torch

from ...bench.align import Align
from ...bench.api import Estimate, Metric
from ...bench.errors import BadParameter
from ...bench.images import straight_through
from ...bench.registry import register_defense
from ...bench.seeds import Streams
from ..base import exact
from .calibration import CALIBRATION
from .members import PARTS, SHIPPED, Members

Combine = Literal["mean", "median", "trimmed-mean"]
FEW = 5
"""Members up to which every subset that decides the score has views of its own."""


class Deciding(NamedTuple):
    """A gradient for a combination that leaves members out: that of the mean of some scores within a subset of them.

    Attributes:
        members: the subset, by index.
        lowest, highest: how many of its lowest and of its highest scores are left out of the mean.
    """

    members: Sequence[int]
    lowest: int = 0
    highest: int = 0


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
        calibration: data set, as plug-in string, that the maps are fitted on. The default is small, two of the embedded
            photographs in 62 versions, so that the maps have not seen the other three: judge the defence on
            `photos[split=test]` or on other data, not on `photos` as a whole. For photographs as cameras take them,
            with `clive` at hand, `clive[split=train,limit=100]` is better.

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
        self._gradient: Deciding | None = None

    def _combined(self, x: torch.Tensor) -> torch.Tensor:
        """(B,) mean of the members' scores without the `cut` lowest and highest."""
        if self._gradient is None:
            return _between(torch.stack([self.score(k, x) for k in range(self.size)]), self.cut, self.cut)
        members, lowest, highest = self._gradient
        scores = []
        for k in range(self.size):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k in members):
                scores.append(self.score(k, x))
        kept = _between(torch.stack(scores), self.cut, self.cut)
        return straight_through(kept, _between(torch.stack([scores[k] for k in members]), lowest, highest))

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        return exact(self._combined(x))

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(1,B) the score itself, which is differentiable almost everywhere."""
        return self._combined(x)[None]

    def surrogates(self) -> Sequence[Self]:
        """Itself; and where members are left out, the same score with the gradient of other means of members.

        The gradient of a median is that of the member in the middle: it does not see who will be there next. Any
        `size - cut` members that rise together raise the score, whatever the others do (for a median these are the
        smallest majorities): the score is the largest, over all such subsets, of the mean of what a subset holds but
        for its `cut` highest, and the smallest of the mean but for its `cut` lowest. So each subset gives two
        gradients, that of its low scores, which helps an attack upwards, and that of its high ones for an attack
        downwards; a view does not know which is wanted. And there is the mean of all members.

        Up to five members, all subsets: for a median of three members 6 gradients, of four 8, of five 20, besides its
        own and the mean's. Of more, only the `size` subsets of neighbours in the order in which members are given, the
        first following the last: attacks on other subsets are left out, to bound the cost.
        """
        if not self.cut:
            return [self]
        self._fitted()  # once, not in every view
        count = self.size - self.cut
        every = range(self.size)
        subsets = (
            list(itertools.combinations(every, count))
            if self.size <= FEW
            else [tuple(sorted((first + k) % self.size for k in range(count))) for first in every]
        )
        gradients = [Deciding(every)]
        for subset in subsets:
            gradients += [Deciding(subset, highest=self.cut), Deciding(subset, lowest=self.cut)]
        return [self, *map(self._along, gradients)]

    def _along(self, gradient: Deciding) -> Self:
        view = copy.copy(self)
        view._gradient = gradient
        return view


def _between(scores: torch.Tensor, lowest: int, highest: int) -> torch.Tensor:
    """(B,) mean over (k,B) without the so many lowest and highest."""
    return scores.sort(dim=0, stable=True).values[lowest : len(scores) - highest].mean(0)
