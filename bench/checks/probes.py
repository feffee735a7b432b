"""Probes of a defended metric itself: determinism, batches, gradients, saturation (checks 1 to 7 and 12)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from torch import nn

from ..api import L2, DefendedMetric, Metric
from ..build import load_attack, load_defense
from ..errors import RobustIQAError
from ..measures import FEW_GROUPS, srocc
from ..seeds import Role, Streams, generator, image_key
from .reliability import Finding, above, below, share_above

CALLS = 5
RADII = (0.02, 0.1, 0.5)
"""l2 lengths of the antithetic steps."""
DRAWS = 16
PLANTED_EPS = 0.5


def scale_of(g: DefendedMetric, scores: np.ndarray) -> float:
    """Unit of the thresholds: the width of the declared range, else the spread of these scores, at least 1e-6."""
    if g.metric.score_range is not None:
        return g.metric.score_range[1] - g.metric.score_range[0]
    return max(1e-6, float(np.ptp(scores)))


def probe(g: DefendedMetric, x: torch.Tensor, seed: int = 0) -> list[Finding]:
    """Checks 1 to 7, 12 and 14 on some images (B,3,H,W).

    A probe that fails with an error of ours is skipped with that sentence; a defence may have no gradient at all.
    """
    keys = [image_key(image) for image in x]
    clean = g.estimate(x, Streams.create(keys, Role.EVALUATION, seed)).score
    scale = scale_of(g, clean)
    found = [*_repeat(g, x, keys, clean, scale, seed), _alone(g, x, keys, clean, scale, seed), _inner(g, x, keys)]
    found += _gradients(g, x, keys, clean, seed)
    found.append(_planted(g, x, seed))
    undefended = load_defense("none", g.metric).estimate(x).score
    if len(x) < FEW_GROUPS:
        found.append(Finding("inaccurate", skipped=f"{len(x)} images tell nothing of an order: give {FEW_GROUPS}"))
    else:
        found.append(below("inaccurate", srocc(clean, undefended), 0.3))
    return found


def _repeat(
    g: DefendedMetric, x: torch.Tensor, keys: list[str], clean: np.ndarray, scale: float, seed: int
) -> list[Finding]:
    """Checks 1 and 3: other streams, and the same streams again."""
    others = [g.estimate(x, Streams.create(keys, Role.EVALUATION, seed + k)).score for k in range(1, CALLS)]
    moved = max(float(np.abs(o - clean).max()) for o in others) / scale
    again = g.estimate(x, Streams.create(keys, Role.EVALUATION, seed)).score
    found = [above("irreproducible", float(np.abs(again - clean).max()) / scale, 1e-6)]
    if not g.randomised:
        found.append(above("random-undeclared", moved, 1e-6))
        if g.certified_norm == "l2" and g.certify(x[:1], [1e-3], seed=seed).sigma > 0:
            found.append(below("fixed-noise", moved, 1e-12))
    else:
        with torch.inference_mode():
            first, second = (g.surrogate(x, Streams.create(keys, Role.SEARCH, s), 1) for s in (seed, seed + 1))
        found.append(below("fixed-noise", float((first - second).abs().max()) / scale, 1e-12))
    return found


def _alone(g: DefendedMetric, x: torch.Tensor, keys: list[str], clean: np.ndarray, scale: float, seed: int) -> Finding:
    parts = [g.estimate(x[i : i + 1], Streams.create([keys[i]], Role.EVALUATION, seed)).score[0] for i in range(len(x))]
    return above("batch-dependent", float(np.abs(np.array(parts) - clean).max()) / scale, 1e-4)


def _inner(g: DefendedMetric, x: torch.Tensor, keys: list[str]) -> Finding:
    with _backward_calls() as calls:
        g.estimate(x[:1], Streams.create(keys[:1], Role.EVALUATION))
        with torch.no_grad():
            g.surrogate(x[:1], Streams.create(keys[:1], Role.SEARCH), 1)
    return above("optimises-inside", len(calls), 0)


@contextlib.contextmanager
def _backward_calls() -> Iterator[list[str]]:
    """A list that grows with each backward pass in the block."""
    calls: list[str] = []
    with contextlib.ExitStack() as stack:
        for name in ("grad", "backward"):
            original = getattr(torch.autograd, name)

            def counted(*args: object, _name: str = name, _original: object = original, **options: object) -> object:
                calls.append(_name)
                return _original(*args, **options)  # type: ignore[operator]

            stack.enter_context(mock.patch.object(torch.autograd, name, counted))
        yield calls


def _gradients(g: DefendedMetric, x: torch.Tensor, keys: list[str], clean: np.ndarray, seed: int) -> list[Finding]:
    """Checks 4, 5 and 7."""
    names = ("gradient-missing", "gradient-mismatch", "saturated")
    if not g.differentiable:
        return [Finding(name, skipped="the defence declares that it has no gradient") for name in names]

    def draws() -> Streams:
        return Streams.create(keys, Role.SEARCH, seed, "probe")

    def value(images: torch.Tensor) -> torch.Tensor:
        # Common draws: what differs is the image, not the noise.
        return g.surrogate(images, draws(), DRAWS if g.randomised else 1).double().mean(0)

    leaf = x.detach().clone().requires_grad_(True)
    score = value(leaf)
    gradient = torch.autograd.grad(score.sum(), leaf)[0] if score.requires_grad else torch.zeros_like(x)
    dead = ~torch.isfinite(gradient) | (gradient == 0)
    missing = dead.flatten(1).double().mean(1).cpu().numpy()
    found = [above("gradient-missing", float(missing.mean()), 0.5)]
    found.append(_saturated(g, clean, missing))
    length = torch.nan_to_num(gradient).flatten(1).norm(dim=1).double()
    unit = torch.nan_to_num(gradient) / length.clamp_min(1e-30).to(x)[:, None, None, None]
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    with torch.inference_mode():
        for radius in RADII:
            ahead, behind = (x + radius * unit).clamp(0, 1), (x - radius * unit).clamp(0, 1)
            # Clipping shortens a step: the gradient's promise is taken over the step that was made.
            promised = (torch.nan_to_num(gradient) * (ahead - behind)).flatten(1).double().sum(1)
            ratio = ((value(ahead) - value(behind)) / promised.clamp_min(1e-30)).cpu()
            best = torch.minimum(best, ratio.clamp_min(1e-12).log().abs())
    found.append(above("gradient-mismatch", share_above(best.exp().numpy(), 3.0), 0.5))
    return found


def _saturated(g: DefendedMetric, clean: np.ndarray, missing: np.ndarray) -> Finding:
    if g.metric.score_range is None:
        return Finding("saturated", skipped="the metric declares no range")
    low, high = g.metric.score_range
    near = np.minimum(np.abs(clean - low), np.abs(high - clean)) <= 1e-3 * (high - low)
    return above("saturated", float(np.mean(near & (missing > 0.99))), 0.1)


class _Planted(nn.Module):
    """The metric plus a slope along a smooth pattern, which compression and noise do not remove."""

    def __init__(self, metric: Metric, slope: float) -> None:
        super().__init__()
        self.metric, self.slope = metric, slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        pattern = planted_pattern(x.shape[2], x.shape[3]).to(x)
        return self.metric(x) + self.metric.sign * self.slope * ((x - 0.5) * pattern).sum((1, 2, 3))


def planted_pattern(height: int, width: int) -> torch.Tensor:
    """(3,H,W) of length 1: random values on a grid of 16 pixels, enlarged smoothly."""
    rows, columns = max(2, -(-height // 16)), max(2, -(-width // 16))
    coarse = torch.randn(1, 3, rows, columns, generator=generator("planted", height, width))
    pattern = nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    return pattern / pattern.norm()


def _planted(g: DefendedMetric, x: torch.Tensor, seed: int) -> Finding:
    """Check 12: a slope worth a third of the scale over the budget is planted, and looked for with eot-pgd."""
    scale = scale_of(g, g.metric(x).detach().cpu().numpy())
    slope = scale / 3 / PLANTED_EPS
    m = g.metric
    # Unbounded, whatever the metric is: the slope may carry it beyond its range.
    planted = Metric(_Planted(m, slope), m.spec, lower_better=m.lower_better, score_range=m.score_range)
    try:
        other = load_defense(g.spec, planted)
        gain = load_attack("eot-pgd")(other, x, L2(PLANTED_EPS), seed=seed).gain
    except RobustIQAError as error:
        return Finding("planted-missed", skipped=str(error))
    return below("planted-missed", float(np.median(gain)) * m.sign / (slope * PLANTED_EPS), 1 / 3)
