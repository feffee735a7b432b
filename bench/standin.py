"""A metric that costs nothing, in the place of a defended one: how often an attack asks, not what it finds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from .api import DefendedMetric, Estimate, Metric
from .seeds import Streams


class Passes:
    """Passes of an image through a metric, counted over all images.

    Attributes:
        forwards, backwards: all of them.
        bare_forwards, bare_backwards: those that went to the metric alone, past its defence.
    """

    def __init__(self) -> None:
        self.forwards = self.backwards = self.bare_forwards = self.bare_backwards = 0
        self._defended = False

    @contextlib.contextmanager
    def defended(self) -> Iterator[None]:
        """Passes in the block go through the defence."""
        self._defended = True
        try:
            yield
        finally:
            self._defended = False

    def watch(self, scores: torch.Tensor, passes: int) -> None:
        """Count `passes` forwards now, and as many backwards whenever a gradient comes back through the scores."""
        bare = 0 if self._defended else passes
        self.forwards += passes
        self.bare_forwards += bare
        if scores.requires_grad:
            scores.register_hook(lambda gradient: self._back(passes, bare))

    def _back(self, passes: int, bare: int) -> None:
        self.backwards += passes
        self.bare_backwards += bare


class StandIn(DefendedMetric):
    """Answers like a defended metric of the same traits, from a linear function of the image, and counts.

    Args:
        of: the defended metric whose place it takes: its cost, whether it is randomised, differentiable, how many
            gradients it declares, and what its metric declares.
        passes: what counts.
    """

    def __init__(self, of: DefendedMetric, passes: Passes) -> None:
        m = of.metric
        metric = Metric(
            _Cheap(m.span, passes), m.spec, lower_better=m.lower_better, score_range=m.score_range,
            min_size=m.min_size, differentiable=m.differentiable,
        )  # fmt: skip
        super().__init__(metric.to(m.device))
        self.spec, self.cost, self.randomised, self.certified_norm = of.spec, of.cost, of.randomised, of.certified_norm
        self.differentiable = of.differentiable
        self._passes, self._views = passes, len(of.surrogates())

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        with self._passes.defended():
            shared = self.metric(x)
            self._passes.watch(shared, (self.cost - 1) * len(x))
        scores = shared.double().cpu().numpy()
        return Estimate(scores, scores, scores)

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B) times the same score."""
        with self._passes.defended():
            scores = self.metric(x).expand(draws, -1)
            self._passes.watch(scores, ((draws if self.randomised else self.cost) - 1) * len(x))
        return scores

    def surrogates(self) -> Sequence[DefendedMetric]:
        """Itself, as often as there are gradients."""
        return [self] * self._views


class _Cheap(nn.Module):
    """A linear function of the image whose scores lie within the declared span, counted."""

    def __init__(self, span: float, passes: Passes) -> None:
        super().__init__()
        self.span, self.passes = span, passes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        ramp = torch.linspace(-1, 1, x.shape[-1], device=x.device, dtype=x.dtype)
        scores = (x * ramp).mean((1, 2, 3)) * self.span
        self.passes.watch(scores, len(x))
        return scores
