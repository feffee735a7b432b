"""Gradients estimated from scores: NES and SPSA."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch

from ..bench.api import Norm, Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Attack, Candidate
from .projection import project, unit


class _Estimated(Attack):
    """Common part: antithetic pairs of queries around the point at hand, then a step.

    The point that a step reaches is scored by a query of its own on a deterministic defence; on a randomised one the
    last point counts.
    """

    white_box = False

    def __init__(self, queries: int, pairs: int, sigma: float, step: float | None) -> None:
        each = 2 * pairs + 1
        name = type(self).__name__
        if pairs < 1 or not sigma > 0 or (step is not None and not step > 0):
            raise BadParameter(f"{name}[pairs={pairs},sigma={sigma},step={step}]: expected positive numbers")
        if queries < each:
            raise BadParameter(
                f"{name}[queries={queries},pairs={pairs}]: one step takes {each} queries: give more queries or fewer "
                "pairs"
            )
        self.queries, self.pairs, self.sigma, self._step, self._asked = queries, pairs, sigma, step, queries

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """Every point on a deterministic defence, the last one on a randomised one."""
        randomised = objective.g.randomised
        steps = self._asked // (2 * self.pairs + (not randomised))
        size = threat.eps * (self._default(steps) if self._step is None else self._step)
        z, state = x, (torch.zeros_like(x), torch.zeros_like(x))
        for t in range(steps):
            gradient = torch.zeros_like(x)
            for _ in range(self.pairs):
                offset = self._direction(objective, x)
                ahead, behind = ((z + s * self.sigma * offset).clamp(0.0, 1.0) for s in (1.0, -1.0))
                difference = (objective.query(ahead) - objective.query(behind)).to(x)
                gradient += (difference / (2 * self.sigma * self.pairs))[:, None, None, None] * offset
            z = project(z + self._move(gradient, state, t, size, threat.norm), x, threat)
            if not randomised:
                yield Candidate(z, objective.query(z))
        if randomised:
            yield Candidate(z)

    @abstractmethod
    def _default(self, steps: int) -> float:
        """Step size as a fraction of eps where none is given."""

    @abstractmethod
    def _direction(self, objective: Objective, x: torch.Tensor) -> torch.Tensor:
        """A random direction (B,3,H,W) with entries of variance 1."""

    @abstractmethod
    def _move(
        self, gradient: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor], t: int, size: float, norm: Norm
    ) -> torch.Tensor:
        """The step (B,3,H,W) of that size; `state` is its memory, zeros at first, which it changes in place."""


@register_attack("nes")
class Nes(_Estimated):
    """Natural evolution strategies (Ilyas et al. 2018, arXiv 1804.08598): Gaussian antithetic pairs, then a PGD step.

    With momentum, as the authors run it. In l2 the step goes along the estimate, in linf along its signs.

    Args:
        queries: calls of the deployed score an image; peers give 10,000 (250 steps).
        pairs: antithetic pairs a step; peers take 20.
        sigma: standard deviation of the pixels' offsets; 0.001 in the paper.
        step: step size as a fraction of eps; none for 2.5 / steps, at least 0.02.
        momentum: weight of the past estimates.
    """

    def __init__(
        self,
        queries: int = 1000,
        pairs: int = 20,
        sigma: float = 0.001,
        step: float | None = None,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(queries, pairs, sigma, step)
        if not 0 <= momentum < 1:
            raise BadParameter(f"nes[momentum={momentum}]: expected 0 <= momentum < 1")
        self.momentum = momentum

    def _default(self, steps: int) -> float:
        return max(2.5 / steps, 0.02)

    def _direction(self, objective: Objective, x: torch.Tensor) -> torch.Tensor:
        return objective.search_streams.normal(x, 1)[0]

    def _move(
        self, gradient: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor], t: int, size: float, norm: Norm
    ) -> torch.Tensor:
        velocity = state[0].mul_(self.momentum).add_(gradient, alpha=1 - self.momentum)
        return size * unit(velocity, norm)


@register_attack("spsa")
class Spsa(_Estimated):
    """SPSA with Adam (Uesato et al. 2018, arXiv 1802.05666; Spall 1992): random signs instead of Gaussian offsets.

    Args:
        queries: calls of the deployed score an image.
        pairs: antithetic pairs a step.
        sigma: size of the offsets; 0.01 in the paper.
        step: Adam's rate as a fraction of eps (in l2, of eps / sqrt(3HW)); none for 1.5 / sqrt(steps): most of
            Adam's steps are a random walk.
    """

    def __init__(self, queries: int = 1000, pairs: int = 20, sigma: float = 0.01, step: float | None = None) -> None:
        super().__init__(queries, pairs, sigma, step)

    def _default(self, steps: int) -> float:
        return 1.5 / steps**0.5

    def _direction(self, objective: Objective, x: torch.Tensor) -> torch.Tensor:
        return objective.search_streams.uniform(x).sign()

    def _move(
        self, gradient: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor], t: int, size: float, norm: Norm
    ) -> torch.Tensor:
        first = state[0].mul_(0.9).add_(gradient, alpha=0.1) / (1 - 0.9 ** (t + 1))
        second = state[1].mul_(0.999).addcmul_(gradient, gradient, value=0.001) / (1 - 0.999 ** (t + 1))
        each = size if norm == "linf" else size / gradient[0].numel() ** 0.5
        return each * first / (second.sqrt() + 1e-12)
