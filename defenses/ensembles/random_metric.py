"""A metric drawn by lot for every score."""

from __future__ import annotations

import torch

from ...bench.align import Align
from ...bench.api import Estimate, Metric
from ...bench.registry import register_defense
from ...bench.seeds import Streams
from ..base import check_draws, estimate_of_few, scores_of_drawn
from .calibration import CALIBRATION
from .members import PARTS, SHIPPED, Members


@register_defense("random-metric", parts=PARTS)
class RandomMetric(Members):
    """A member drawn anew for every score, from the defended metric and others mapped to its scale; all equally likely.

    The randomised ensemble of classifiers (Pinot et al., ICML 2020, arXiv 2002.11565) for scores. The mean over the
    members, which the draws estimate, is `ensemble`; deployed are draws. EOT attacks it: for classifiers its gradient
    may mislead (Dbouk & Shanbhag, ICML 2022, arXiv 2206.06737), because their decision is not the mean of the members';
    the mean of scores is.

    Args:
        others: see `ensemble`.
        m: draws averaged in a deployed score.
        align: see `ensemble`.
        calibration: see `ensemble`.

    Every member sees the image as it is. `cost` counts a draw as one forward, whatever the size of the member.
    """

    name = "random-metric"
    randomised = True

    def __init__(
        self,
        metric: Metric,
        others: str = SHIPPED,
        m: int = 1,
        align: Align | None = "quantile",
        calibration: str = CALIBRATION,
    ) -> None:
        check_draws(f"random-metric[m={m}]", m)
        super().__init__(metric, others, align, calibration)
        self.cost = m

    def _drawn(self, x: torch.Tensor, rng: Streams, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Members drawn (draws,B) on the CPU, and the scores (n,B) of all that were drawn for an image, others 0."""
        index = (rng.numbers(draws) * self.size).long().T
        return index, scores_of_drawn(x, index, self.size, self.score)

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B) differentiable scores of members drawn independently."""
        index, scores = self._drawn(x, rng, draws)
        return scores.gather(0, index.to(x.device))

    def aggregate(self, scores: torch.Tensor) -> torch.Tensor:
        """What is deployed is a mean."""
        return scores.double().mean(0)

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        index, scores = self._drawn(x, rng, self.cost)
        return estimate_of_few(index, scores)
