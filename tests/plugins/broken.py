"""Defences with a known fault each: reliability checks have to find it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from robustiqa.bench import register_defense
from robustiqa.bench.api import DefendedMetric, Estimate
from robustiqa.bench.images import straight_through
from robustiqa.bench.seeds import Streams
from robustiqa.defenses.base import Purification, exact
from robustiqa.defenses.certified.median import MedianSmoothing
from robustiqa.defenses.identity import NoDefense
from torch.autograd import grad as early_grad
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


@register_defense("two-faced")
class TwoFaced(Killer):
    """An exact score with a gradient of zero, which declares the true gradient as another surrogate."""

    def surrogates(self) -> Sequence[DefendedMetric]:
        """Itself and the metric."""
        return [self, NoDefense(self.metric)]


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
            gradient = self.slope(self.metric(leaf).sum(), leaf)
        return (x - 1e-3 * gradient.sign()).clamp(0, 1)

    def slope(self, score: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        """Gradient by `torch.autograd.grad`, looked up when it is called."""
        return torch.autograd.grad(score, leaf)[0]


@register_defense("broken-white")
class White(Purification):
    """Nearly white images: some metrics break on them."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Bright."""
        return 0.9 + 0.1 * x


class _NanColumn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].clone()
        gradient[..., 0] = torch.nan
        return gradient


@register_defense("broken-nan")
class NanColumn(Killer):
    """An exact score whose gradient is not finite in one column."""

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(1,B)."""
        return self.metric(_NanColumn.apply(x))[None]


@register_defense("broken-memory")
class Memory(MedianSmoothing):
    """Deploys a score of known draws, though its surrogate draws anew."""

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        known = Streams(tuple(torch.Generator().manual_seed(1) for _ in rng.generators))
        return super()._estimate(x, known)


@register_defense("broken-import")
class Import(InnerLoop):
    """The inner loop with a function that was imported by its name."""

    def slope(self, score: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
        """Gradient by the imported function."""
        return early_grad(score, leaf)[0]


@register_defense("broken-smooth-blind")
class SmoothBlind(Purification):
    """An exact score whose gradient lacks the smooth directions."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The image itself."""
        return x

    def purify_surrogate(self, x: torch.Tensor) -> torch.Tensor:
        """The image minus its low-pass."""
        low = F.interpolate(F.avg_pool2d(x, 4, ceil_mode=True), x.shape[2:], mode="bilinear", align_corners=False)
        return straight_through(x, x - low)


@register_defense("broken-declared-blind")
class DeclaredBlind(Rounding):
    """Eight grey levels, and says that it has no gradient."""

    differentiable = False


@register_defense("inverted-blind")
class InvertedBlind(DefendedMetric):
    """The metric of the negative, under noise, with no gradient: what leads up on the bare metric leads down here."""

    randomised = True
    differentiable = False

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B)."""
        noise = rng.normal(x, draws)
        return torch.stack([self.metric(1 - x + 1e-3 * n) for n in noise]).detach()

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        return exact(self.surrogate(x, rng)[0])


@register_defense("enlarged")
class Enlarged(Purification):
    """Twice as large: images fit for a metric that refuses them otherwise."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """Each pixel four times."""
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
