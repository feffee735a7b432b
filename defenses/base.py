"""Bases for defences that change the image before the metric sees it, or the network that scores it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from scipy.stats import t
from torch import nn

from ..bench.api import INTERVAL_ERROR, DefendedMetric, Estimate, Metric
from ..bench.errors import BadParameter
from ..bench.images import check_size
from ..bench.memory import joined
from ..bench.objective import MAX_PIXELS
from ..bench.seeds import Streams
from ..bench.threads import crew

MOST_DRAWS = 10_000
"""Most draws that a deployed score may average; more would run for hours on one image."""


def check_draws(given: str, m: int) -> None:
    """Raise `BadParameter` for an impossible number of draws; `given` is what the user wrote, for the error."""
    if not 1 <= m <= MOST_DRAWS:
        raise BadParameter(f"{given}: expected 1 to {MOST_DRAWS} draws for a deployed score")


def exact(scores: torch.Tensor) -> Estimate:
    """Estimate of a deterministic score: the interval is the score itself."""
    values = scores.double().cpu().numpy()
    return Estimate(values, values, values)


def scores_of_drawn(
    x: torch.Tensor, index: torch.Tensor, count: int, score: Callable[[int, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Scores (count,B) of the versions that were drawn for an image, others 0.

    A version is deterministic: it is scored once on an image, however often it was drawn, and not if it was not.

    Args:
        x: (B,3,H,W).
        index: (m,B) the versions drawn, 0 to count - 1, on the CPU.
        count: number of versions.
        score: version k on images (b,3,H,W) to (b,).
    """
    rows = []
    for k in range(count):
        chosen = (index == k).any(0).nonzero().flatten().to(x.device)
        row = x.new_zeros(len(x))
        rows.append(row.index_put((chosen,), score(k, x[chosen]).to(row)) if len(chosen) else row)
    return torch.stack(rows)


def estimate_of_few(index: torch.Tensor, scores: torch.Tensor) -> Estimate:
    """Estimate of the mean over n equally likely versions of a score, some of them drawn; exact, unlike Student's t.

    A few draws of one version agree and say nothing of the others: nothing is known until every version was drawn, and
    then the mean over them is.

    Args:
        index: (m,B) the versions drawn, on the CPU.
        scores: (n,B) the score of each version; of one that was not drawn for an image, anything finite.
    """
    held = scores.double().cpu()
    values, mean = held.gather(0, index).mean(0), held.mean(0)
    known = torch.stack([(index == k).any(0) for k in range(len(scores))]).all(0)
    lo = torch.minimum(values, mean).where(known, -torch.inf)
    hi = torch.maximum(values, mean).where(known, torch.inf)
    return Estimate(values.numpy(), lo.numpy(), hi.numpy())


def mean_estimate(draws: torch.Tensor) -> Estimate:
    """Estimate of a mean from draws (m,B): their mean, with Student's t interval; of a single draw nothing is known.

    The interval is exact for normal scores and otherwise approximate: with tiny-iqa on five photographs of 128 px,
    where `INTERVAL_ERROR` promises .001, those of random-crop, random-rotation, random-resize and random-noise missed
    the mean of all draws in up to .0043 of the cases for m = 8, up to .0018 for m = 32 and up to .007 for m = 2. Draws
    with a few values only, such as mirrored images in a chain, may happen to agree; an interval without width is then
    wrong.
    """
    values = draws.double().cpu()
    m, score = len(values), values.mean(0)
    half = torch.full_like(score, torch.inf)
    if m > 1:
        half = values.std(0) * float(t.ppf(1 - INTERVAL_ERROR / 2, m - 1)) / m**0.5
    return Estimate(score.numpy(), (score - half).numpy(), (score + half).numpy())


class Transform(DefendedMetric):
    """A transform of the image in front of the metric, deterministic (`Purification`) or drawn (`RandomPurification`).

    Attributes:
        smooth: whether the gradient that attacks follow is that of the deployed transform itself, and finite
            differences show it; False where it is a surrogate (BPDA), or the slope jumps everywhere.
    """

    smooth: bool = True

    @abstractmethod
    def step(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """The deployed transform, exact, one draw: (B,3,H,W) in [0,1] to (B,3,H',W') in [0,1]."""

    @abstractmethod
    def step_surrogate(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Differentiable view of `step`: same values for the same draws."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the metric sees of an image of this size; here the same."""
        return height, width

    def check_takes(self, height: int, width: int) -> None:
        """Raise `BadImage` when what is left of an image of this size is too small for the metric."""
        self._check_left(self.output_size(height, width), height, width)

    def _check_left(self, left: tuple[int, int], height: int, width: int) -> None:
        if left == (height, width):
            return self.metric.check_takes(height, width)
        what = f"what {self.spec!r} leaves of {width}x{height} px for the metric {self.metric.spec!r}"
        return check_size(*left, self.metric.min_size, what)

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B) differentiable scores of independent draws; a deterministic transform has one."""
        return self._scores(self.step_surrogate, x, rng, draws if self.randomised else 1)

    def aggregate(self, scores: torch.Tensor) -> torch.Tensor:
        """What is deployed is a mean."""
        return scores.double().mean(0)

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        scores = self._scores(self.step, x, rng, self.cost if self.randomised else 1)
        return mean_estimate(scores) if self.randomised else exact(scores[0])

    def _scores(
        self, step: Callable[[torch.Tensor, Streams], torch.Tensor], x: torch.Tensor, rng: Streams, draws: int
    ) -> torch.Tensor:
        """Scores (draws,B), as many draws in one call of the metric as MAX_PIXELS lets in.

        One call a draw leaves a network idle on a single small image: up to 1.6 times as long on a CPU core.
        """
        height, width = self.output_size(x.shape[2], x.shape[3])
        most = max(1, MAX_PIXELS // crew() // (len(x) * height * width))
        parts = []
        for done in range(0, draws, most):
            drawn = joined([step(x, rng) for _ in range(min(most, draws - done))])
            self._check_left((drawn.shape[2], drawn.shape[3]), x.shape[2], x.shape[3])
            parts.append(self.metric(drawn).reshape(-1, len(x)))
        return joined(parts)


class Purification(Transform):
    """A deterministic transform of the image in front of the metric."""

    @abstractmethod
    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The deployed transform, exact: (B,3,H,W) in [0,1] to (B,3,H',W')."""

    def purify_surrogate(self, x: torch.Tensor) -> torch.Tensor:
        """Differentiable view with the same forward values; `purify` itself where that is differentiable."""
        return self.purify(x)

    def step(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """`purify`."""
        return self.purify(x)

    def step_surrogate(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """`purify_surrogate`."""
        return self.purify_surrogate(x)


class RandomPurification(Transform):
    """A transform that is drawn anew for every score; the deployed score is the mean over `m` draws.

    Args:
        metric: the metric inside.
        m: draws averaged in a deployed score; one, as in most of the literature, leaves its chance in the score.
    """

    randomised = True

    def __init__(self, metric: Metric, m: int = 1) -> None:
        super().__init__(metric)
        check_draws(f"m={m}", m)
        self.cost = m

    @abstractmethod
    def draw(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """One draw of the deployed transform: (B,3,H,W) in [0,1] to (B,3,H',W') in [0,1].

        Every random number comes from `rng`, one stream an image; the size does not depend on the draw.
        """

    def draw_surrogate(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """Differentiable view with the same values for the same draws; `draw` itself where that is differentiable."""
        return self.draw(x, rng)

    def step(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """`draw`."""
        return self.draw(x, rng)

    def step_surrogate(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """`draw_surrogate`."""
        return self.draw_surrogate(x, rng)


class Replacement(DefendedMetric):
    """A deterministic score of another network in the metric's place.

    Args:
        metric: the metric that is defended; attacks that know no defence see it.
        network: what scores instead: a module of the same interface, direction, range and smallest image.
    """

    def __init__(self, metric: Metric, network: nn.Module) -> None:
        super().__init__(metric)
        self.replacement = Metric(
            network,
            metric.spec,
            lower_better=metric.lower_better,
            score_range=metric.score_range,
            bounded=metric.bounded,
            min_size=metric.min_size,
            differentiable=metric.differentiable,
        )

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        return exact(self.replacement(x))

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(1,B) scores of the other network with their own gradient."""
        return self.replacement(x)[None]
