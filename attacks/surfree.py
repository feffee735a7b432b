"""SurFree: the shortest step that leads over a score boundary, with nothing but scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from scipy.fft import idctn

from .projection import project, unit
from .search import Asking, Walk

_ANGLE, _WIDENED = 30.0, 0.98
"""First largest angle in degrees, and what a failure multiplies it by; both as Yang et al. 2024 set them."""

_PRECISION, _BISECTIONS = 0.01, 10
"""Difference of cosines at which a bisection ends, and its most steps."""

_REMEMBERED = 10
"""Directions tried last, to which a new one is orthogonal."""


@dataclass
class Boundary:
    """A score to be passed, and the point beyond it that lies nearest to the point at hand.

    Attributes:
        walk: the search, which stands at the point at hand.
        bound: (1,H,W) largest change of a value of the clean image.
        goal: oriented score.
        near: (3,H,W) the nearest point known whose score is above the goal; the point at hand until there is one.
        value: its score.
    """

    walk: Walk
    bound: torch.Tensor
    goal: float
    near: torch.Tensor = field(init=False)
    value: float = field(init=False)

    def __post_init__(self) -> None:
        self.near, self.value = self.walk.image, self.walk.value

    @property
    def distance(self) -> float:
        """l2 distance from the point at hand to the nearest point known."""
        return float((self.near - self.walk.image).norm())

    def crosses(self, z: torch.Tensor) -> Asking[bool]:
        """Whether an image, put inside the bounds, scores above the goal; the nearest that does is kept."""
        x = self.walk.x
        z = project(torch.clamp(z, x - self.bound, x + self.bound)[None], x[None], self.walk.threat)[0]
        value = yield z
        if value > self.goal and (self.distance == 0 or float((z - self.walk.image).norm()) < self.distance):
            self.near, self.value = z, value
        return value > self.goal

    def shorten(self, queries: int) -> Asking[None]:
        """Come nearer along the boundary, with so many queries (SurFree, Maho et al. 2021, arXiv 2011.12807)."""
        moves = self._surfree()
        z = next(moves)
        for _ in range(queries):
            z = moves.send((yield z))

    def _surfree(self) -> Asking[None]:
        start, far, low, high = self.walk.image, self.near, 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            passed = yield from self.crosses(start + middle * (far - start))
            low, high = (low, middle) if passed else (middle, high)
        widest, tried = _ANGLE, []
        while True:
            length, along = self.distance, unit((self.near - start)[None], "l2")[0]
            recent = tried[-_REMEMBERED:]
            tried = [*recent, self._direction([*recent, along])]
            for across in (tried[-1], -tried[-1]):
                if (yield from self._turn(length, along, across, widest)):
                    widest = min(widest / _WIDENED, 90.0)
                    break
            else:
                widest *= _WIDENED

    def _turn(self, length: float, along: torch.Tensor, across: torch.Tensor, angle: float) -> Asking[bool]:
        """Go along the circle through the point at hand and the nearest point, as far as the score allows."""

        def at(degrees: float) -> torch.Tensor:
            c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            return self.walk.image + length * c * (c * along + s * across)

        if not (yield from self.crosses(at(angle))):
            return False
        low, high = angle, min(2 * angle, 90.0)
        while high < 90 and (yield from self.crosses(at(high))):
            low, high = high, min(high + angle, 90.0)
        for _ in range(_BISECTIONS):
            if math.cos(math.radians(low)) - math.cos(math.radians(high)) <= _PRECISION:
                break
            middle = (low + high) / 2
            passed = yield from self.crosses(at(middle))
            low, high = (middle, high) if passed else (low, middle)
        return True

    def _direction(self, others: list[torch.Tensor]) -> torch.Tensor:
        """A random direction (3,H,W) of the lower half of the DCT basis, of length 1, orthogonal to the last of others.

        It is nearly so to the ones before, which need not be orthogonal to each other.
        """
        shape = self.walk.x.shape
        signs = (3 * self.walk.numbers(math.prod(shape))).long().view(shape) - 1
        rows, columns = (torch.arange(size) / size for size in shape[1:])
        coefficients = signs * (rows[:, None] + columns[None] < 1)
        v = torch.from_numpy(idctn(coefficients.double().numpy(), axes=(1, 2), norm="ortho")).to(self.walk.x)
        for other in others:
            v = v - (v * other).sum() * other
        return unit(v[None], "l2")[0]
