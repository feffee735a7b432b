"""Defences with a known fault each: reliability checks have to find it."""

from __future__ import annotations

import torch
from robustiqa.bench import register_defense
from robustiqa.bench.api import DefendedMetric, Estimate
from robustiqa.bench.seeds import Streams
from robustiqa.defenses.base import Purification, exact, straight_through
from robustiqa.defenses.certified.median import MedianSmoothing
from torch.nn import functional as F


@register_defense("broken-killer")
class Killer(Purification):
    """An exact score with a gradient of zero."""

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(1,B)."""
        return straight_through(self.metric(x), 0 * x.sum((1, 2, 3)))[None]

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The image itself."""
        return x


@register_defense("broken-compass")
class Compass(Killer):
    """An exact score with a gradient that points anywhere."""

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(1,B)."""
        anywhere = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0))
        return straight_through(self.metric(x), (x * anywhere).sum((1, 2, 3)))[None]


@register_defense("broken-rounding")
class Rounding(Purification):
    """Eight grey levels, and no surrogate for the gradient."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Rounded."""
        return (x * 7).round() / 7


@register_defense("broken-train-mode")
class TrainMode(Purification):
    """Normalises with the statistics of the batch."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Batch norm in training mode."""
        return (0.5 + 0.2 * F.batch_norm(x, None, None, training=True)).clamp(0, 1)


@register_defense("broken-fixed-noise")
class FixedNoise(MedianSmoothing):
    """Median smoothing that claims its certificate for one draw, always the same."""

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B)."""
        known = Streams(tuple(torch.Generator().manual_seed(1) for _ in rng.generators))
        return super().surrogate(x, known, draws)

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        known = Streams(tuple(torch.Generator().manual_seed(1) for _ in rng.generators))
        return super()._estimate(x, known)


@register_defense("broken-saturating")
class Saturating(DefendedMetric):
    """Scores so steep that the clamp holds most of them."""

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        return (50 + 100 * (self.metric(x) - 50)).clamp(0, 100)

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        return exact(self._scores(x))

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(1,B)."""
        return self._scores(x)[None]


@register_defense("broken-dice")
class Dice(Purification):
    """Noise from the global generator, undeclared."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Noisy."""
        return (x + 0.1 * torch.randn(x.shape)).clamp(0, 1)


@register_defense("broken-inner-loop")
class InnerLoop(Purification):
    """Takes a gradient step on the score before it scores."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """One step down the gradient."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.metric(leaf).sum(), leaf)
        return (x - 1e-3 * gradient.sign()).clamp(0, 1)


@register_defense("broken-white")
class White(Purification):
    """Nearly white images: some metrics break on them."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Bright."""
        return 0.9 + 0.1 * x
