"""What an attack may ask of a defended metric: oriented values and gradients, every call counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .api import DefendedMetric, Direction, Estimate, check_finite
from .errors import BadParameter, BadScore, Incompatible
from .seeds import Role, Streams

MAX_PIXELS = 32 * 128 * 128
"""Pixels in one batch through the network: bounds memory whatever the number of draws or images."""


class Objective:
    """Maximised by an attack: `direction` * quality of the defended metric, for B images.

    Attributes:
        forwards, backwards: (B,) passes of the metric network so far, per image.
    """

    def __init__(
        self, g: DefendedMetric, keys: Sequence[str], direction: Direction = "up", seed: int = 0, salt: str = ""
    ) -> None:
        if direction not in ("up", "down"):
            raise BadParameter(f"unknown direction {direction!r}: expected up or down")
        self.g, self.seed, self.keys = g, seed, list(keys)
        self._made_of = (direction, seed, salt)
        self.sign = g.metric.sign * (1.0 if direction == "up" else -1.0)
        self.forwards = np.zeros(len(self.keys), dtype=np.int64)
        self.backwards = np.zeros(len(self.keys), dtype=np.int64)
        # The defence is not part of the seed: defences are compared on common random numbers.
        self._search = self.streams(Role.SEARCH, salt)
        self._selection = self.streams(Role.SELECTION, salt)

    def only(self, index: int) -> Objective:
        """The same objective for one of the images, with streams and counts of its own."""
        return Objective(self.g, [self.keys[index]], *self._made_of)

    def streams(self, role: Role, *extra: object) -> Streams:
        """Fresh streams of a role for these images."""
        return Streams.create(self.keys, role, self.seed, *extra)

    @property
    def search_streams(self) -> Streams:
        """The attack's own randomness: starting points, random directions."""
        return self._search

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """Exact oriented score (B,) of a deterministic defence; for a randomised one use `select`."""
        self._count(self.g.cost)
        return self._oriented(self.g.estimate(x, self._selection.fork()))

    def select(self, x: torch.Tensor, draws: int) -> torch.Tensor:
        """Oriented score (B,) from `draws` fresh draws of the selection stream, the same for every candidate.

        The best iterate is chosen on these draws and judged on others: a choice judged on its own draw is biased
        upwards.
        """
        if not self.g.randomised:
            return self.value(x)
        self._count(draws)
        with torch.inference_mode():
            chunks = self._chunks(x, draws, self._selection.fork())
            scores = torch.cat([self.g.surrogate(x, rng, d) for d, rng in chunks])
        check_finite(scores.cpu().numpy(), self.g.metric.spec)
        return self.sign * self.g.aggregate(scores).double().cpu()

    def gradient(self, x: torch.Tensor, draws: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Oriented mean score (B,) over `draws` fresh search draws, and its gradient (B,3,H,W) (EOT).

        Raises:
            Incompatible: the defended metric has no gradient at all.
            BadScore: a score or gradient is NaN or infinite.
        """
        if not self.g.differentiable:
            raise Incompatible(f"{self.g.spec!r} has no gradient: use a black-box attack")
        draws = draws if self.g.randomised else 1
        total = torch.zeros(x.shape[0], dtype=torch.float64)
        gradient = torch.zeros_like(x)
        leaf = x.detach().clone()
        for d, rng in self._chunks(x, draws, self._search):
            leaf.requires_grad_(True)
            scores = self.g.surrogate(leaf, rng, d)
            if not scores.requires_grad:
                what = f"metric {self.g.metric.spec!r} behind defence {self.g.spec!r}"
                raise Incompatible(f"{what} returns scores without gradient: use a black-box attack")
            (part,) = torch.autograd.grad(scores.sum(), leaf)
            gradient += part
            total += scores.detach().double().sum(0).cpu()
            leaf = leaf.detach()
        self._count(draws, backward=True)
        check_finite(total.numpy(), self.g.metric.spec)
        if not bool(torch.isfinite(gradient).all()):
            raise BadScore(f"{self.g.spec!r} has a NaN or infinite gradient: recorded as an error, not as a result")
        return (self.sign / draws) * total, (self.sign / draws) * gradient

    def differentiable(self, x: torch.Tensor) -> torch.Tensor:
        """Oriented scores (B,) of one search draw with their graph, for attacks that call `backward` themselves."""
        self._count(1, backward=True)
        return self.sign * self.g.surrogate(x, self._search, 1).mean(0)

    def _chunks(self, x: torch.Tensor, draws: int, rng: Streams) -> list[tuple[int, Streams]]:
        """Draw counts that keep a batch within MAX_PIXELS; `rng` runs on from chunk to chunk."""
        if not self.g.randomised:
            return [(1, rng)]
        most = max(1, MAX_PIXELS // (x.shape[0] * x.shape[2] * x.shape[3]))
        return [(min(most, draws - done), rng) for done in range(0, draws, most)]

    def _oriented(self, estimate: Estimate) -> torch.Tensor:
        return self.sign * torch.as_tensor(estimate.score, dtype=torch.float64)

    def _count(self, passes: int, backward: bool = False) -> None:
        self.forwards += passes
        if backward:
            self.backwards += passes
