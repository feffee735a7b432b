"""Metrics on tiny images whose scores under Gaussian noise have a known distribution, also after every attack."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import nn

from ..api import Metric
from ..seeds import generator

SIGMA = 0.12
SHAPE = (3, 2, 2)
GRID = 4001
"""Quantiles that stand for a distribution; odd, so that the median is one of them."""

_SPREAD = tuple(zip(np.linspace(-1.3, 1.1, 16).tolist(), np.linspace(-0.9, 0.7, 16).tolist(), strict=True))
_LEVELS = (np.arange(GRID) + 0.5) / GRID
_STEP = 15.0


@dataclass(frozen=True)
class Toy:
    """A metric of two independent standard normal variables, u and c, that noise makes of two directions of the image.

    Attributes:
        name: shown in reports.
        score: (u, c) to scores, for tensors.
        quantiles: (GRID,) quantiles of the score under noise where u and c have these means.
        directions: unit moves of (u, c) among which the worst attack is; for a monotone function of u it is exact.
        exact: whether median smoothing is tight here, so that its failures should come near to alpha.
        places: means (u, c) of the images.
    """

    name: str
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    quantiles: Callable[[float, float], np.ndarray]
    directions: tuple[tuple[float, float], ...] = ((1.0, 0.0), (-1.0, 0.0))
    exact: bool = True
    places: tuple[tuple[float, float], ...] = _SPREAD

    def metric(self) -> Metric:
        """The metric, on images (3,2,2), with the nominal range [0,100]."""
        return Metric(_Module(self), f"toy-{self.name}", score_range=(0, 100))


def axes() -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal directions (3,2,2) of u and c."""
    drawn = torch.randn((2, 12), generator=generator("toy axes"), dtype=torch.float64)
    q, _ = torch.linalg.qr(drawn.T)
    return q[:, 0].reshape(SHAPE), q[:, 1].reshape(SHAPE)


def image_at(u: np.ndarray, c: np.ndarray, seed: int) -> torch.Tensor:
    """Images (B,3,2,2) with these means of u and c, different in all other directions, within [0,1]."""
    along_u, along_c = axes()
    rest = 0.05 * torch.randn((len(u), *SHAPE), generator=generator("toy images", seed), dtype=torch.float64)
    for axis in (along_u, along_c):
        rest = rest - (rest * axis).sum((1, 2, 3), keepdim=True) * axis
    u_, c_ = (torch.from_numpy(v)[:, None, None, None] for v in (u, c))
    return (0.5 + rest + SIGMA * (u_ * along_u + c_ * along_c)).float().clamp(0, 1)


class _Module(nn.Module):
    def __init__(self, toy: Toy) -> None:
        super().__init__()
        self._score = toy.score
        for name, axis in zip("uc", axes(), strict=True):
            self.register_buffer(name, (axis / SIGMA).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - 0.5
        u, c = ((centred * self.get_buffer(name)).sum((1, 2, 3)) for name in "uc")
        return self._score(u, c)


def _monotone(name: str, of_u: Callable[[torch.Tensor], torch.Tensor], exact: bool = True, **more: Any) -> Toy:
    def quantiles(u: float, c: float) -> np.ndarray:
        return of_u(torch.from_numpy(u + norm.ppf(_LEVELS))).numpy()

    return Toy(name, lambda u, c: of_u(u), quantiles, exact=exact, **more)


@functools.cache
def _mixture_quantiles(u: float, c: float) -> np.ndarray:
    """Of 50 + 5u, and 15 more where c > 0: a mixture of two normals, inverted on a fine grid."""
    share = norm.cdf(c)
    grid = np.linspace(50 + 5 * (u - 6), 50 + 5 * (u + 6) + _STEP, 20_001)
    below = (1 - share) * norm.cdf((grid - 50) / 5 - u) + share * norm.cdf((grid - 50 - _STEP) / 5 - u)
    return np.interp(_LEVELS, below, grid)


TOYS = (
    _monotone("linear", lambda u: 50 + 5 * u),
    _monotone("exp", lambda u: 10 * torch.exp(0.5 * u)),
    _monotone("sigmoid", lambda u: 100 * torch.sigmoid(u)),
    _monotone("step", lambda u: 50 + 5 * torch.floor(2 * u), exact=False),
    # Mean smoothing is tight on it; and a bin's true radius is a hair less than eps .05 or .12 at the first places,
    # and well above both at the last, where a deployed bin can be certified.
    _monotone(
        "threshold",
        lambda u: 100.0 * (u > 0),
        exact=False,
        places=tuple((sign * u, 0.0) for u in (0.41, 0.99, 2.0) for sign in (-1, 1)),
    ),
    Toy(
        "mixture",
        lambda u, c: 50 + 5 * u + _STEP * (c > 0),
        _mixture_quantiles,
        tuple((float(np.cos(a)), float(np.sin(a))) for a in np.arange(8) * np.pi / 4),
        exact=False,
    ),
)
"""A linear metric, monotone functions of it (step and threshold have ties), and a mixture of two normals."""
