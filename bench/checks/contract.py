"""What a defence promises of itself: sizes, range, an exact surrogate, its gradient, its cost (checks 15 to 18)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ..api import DefendedMetric, Metric
from ..seeds import Role, Streams, generator
from .reliability import Finding, above

Draws = Callable[[], Streams]
"""Gives the same streams anew in every call."""
DIRECTIONS = 4
STEPS = (1e-3, 3e-4, 1e-4)
"""Lengths of finite differences per pixel, a quarter of a grey level and less: curvature spoils long ones, float32
short ones, so that the best counts."""
MISMATCH = 0.2
MARGIN = 0.1
"""Distance from black and white of the images on which slopes are compared: clamps have none beyond them."""


@runtime_checkable
class Transforming(Protocol):
    """A defence that hands a changed image to the metric, as `defenses.base.Transform` does."""

    smooth: bool

    def step(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """The deployed transform, one draw."""
        ...

    def step_surrogate(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """The same values with a gradient."""
        ...

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the metric sees."""
        ...


def contract(g: DefendedMetric, x: torch.Tensor, keys: list[str], scale: float, seed: int = 0) -> list[Finding]:
    """Checks 15 to 18 on images (B,3,H,W) with these content keys; `scale` is the unit of scores."""

    def draws() -> Streams:
        return Streams.create(keys, Role.SEARCH, seed, "contract")

    found = [_inexact(g, x, draws, scale), _cost(g, x, draws)]
    if not isinstance(g, Transforming):
        why = "the defence hands no changed image to the metric"
        return [*found, Finding("output-invalid", skipped=why), Finding("slope-mismatch", skipped=why)]
    found.append(_output(g, x, draws))
    if not g.smooth:
        found.append(
            Finding(
                "slope-mismatch",
                skipped="it is not declared smooth: its gradient is a surrogate (BPDA), or its slope jumps",
            )
        )
    else:
        found.append(above("slope-mismatch", _slopes(g, MARGIN + (1 - 2 * MARGIN) * x, draws, seed), MISMATCH))
    return found


def _output(g: Transforming, x: torch.Tensor, draws: Draws) -> Finding:
    """Check 15: share of images that come out in another size than declared, or outside [0,1]."""
    with torch.inference_mode():
        out = g.step(x, draws())
    if tuple(out.shape) != (len(x), 3, *g.output_size(x.shape[2], x.shape[3])):
        return above("output-invalid", 1.0, 0.0)
    inside = (out >= 0) & (out <= 1)  # NaN is not
    return above("output-invalid", float((~inside.flatten(1).all(1)).double().mean()), 0.0)


def _inexact(g: DefendedMetric, x: torch.Tensor, draws: Draws, scale: float) -> Finding:
    """Check 16: deployed scores against the surrogate's of the same draws."""
    deployed = g.estimate(x, draws()).score
    with torch.no_grad():
        scores = g.surrogate(x, draws(), g.cost if g.randomised else 1)
    values = (g.aggregate(scores) if g.randomised else scores[0]).double().cpu().numpy()
    return above("surrogate-inexact", float(np.abs(values - deployed).max()) / scale, 1e-4)


def _slopes(g: Transforming, x: torch.Tensor, draws: Draws, seed: int) -> float:
    """Check 17: largest relative error of directional slopes of the transform over the images.

    A random weighting of all output pixels is derived along random directions, by autograd and by central differences.
    """
    source = generator("slopes", seed)
    # Files have equal neighbours, at which a median has no slope: half a grey level of noise parts them.
    x = x + (torch.rand(x.shape[1:], generator=source).to(x) - 0.5) / 255
    with torch.inference_mode():
        out = g.step(x, draws())
    weights = torch.randn(out.shape[1:], generator=source).to(x)
    directions = torch.randn((DIRECTIONS, *x.shape[1:]), generator=source).to(x)
    leaf = x.detach().clone().requires_grad_(True)
    image = g.step_surrogate(leaf, draws())
    if not image.requires_grad:
        return float("inf")
    (gradient,) = torch.autograd.grad((image * weights).sum(), leaf)
    promised = torch.stack([(gradient * d).double().flatten(1).sum(1) for d in directions])

    def value(images: torch.Tensor) -> torch.Tensor:
        return (g.step(images, draws()).double() * weights).flatten(1).sum(1)

    best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    with torch.inference_mode():
        for h in STEPS:
            seen = torch.stack([(value(x + h * d) - value(x - h * d)) / (2 * h) for d in directions])
            best = torch.minimum(best, (seen - promised).norm(dim=0) / seen.norm(dim=0).clamp_min(1e-12))
    return float(best.max())


def _cost(g: DefendedMetric, x: torch.Tensor, draws: Draws) -> Finding:
    """Check 18: forwards of metrics in one deployed score, over the declared cost; fewer are no breach."""
    with _forwards(g) as counted:
        g.estimate(x, draws())
    return above("cost-misdeclared", sum(counted) / len(x) / g.cost, 1.0 + 1e-9)


@contextlib.contextmanager
def _forwards(g: DefendedMetric) -> Iterator[list[int]]:
    """A list that grows by the batch of each forward pass of a metric inside the defence."""
    counted: list[int] = []

    def passed(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        counted.append(len(arguments[0]))

    metrics = [module for module in g.modules() if isinstance(module, Metric)]
    # What a metric has inside (`aligned` has another metric) is its own business: it is one forward from outside.
    inner = {id(module) for metric in metrics for module in metric.module.modules()}
    with contextlib.ExitStack() as stack:
        for module in metrics:
            if id(module) not in inner:
                stack.callback(module.register_forward_pre_hook(passed).remove)
        yield counted
