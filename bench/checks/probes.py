"""Probes of a defended metric itself: determinism, batches, gradients, saturation (checks 1 to 7 and 12)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from torch import nn

from ..api import L2, DefendedMetric, Metric
from ..build import load_attack, load_defense
from ..errors import BadScore, Incompatible
from ..judge import scored
from ..measures import FEW_GROUPS, srocc
from ..seeds import Role, Streams, generator, image_keys
from .contract import Transforming, contract
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
    """Checks 1 to 7, 12 and 14 to 18 on some images (B,3,H,W).

    A probe that fails with an error of ours is skipped with that sentence; a defence may have no gradient at all.
    """
    keys = image_keys(x)
    clean = scored(g, x, keys, seed).score
    scale = scale_of(g, clean)
    found = [*_repeat(g, x, keys, clean, scale, seed), _alone(g, x, keys, clean, scale, seed), _inner(g, x, keys)]
    found += _gradients(g, x, keys, clean, seed)
    found.append(_planted(g, x, seed))
    undefended = load_defense("none", g.metric).estimate(x).score
    if len(x) < FEW_GROUPS:
        found.append(Finding("inaccurate", skipped=f"{len(x)} images tell nothing of an order: give {FEW_GROUPS}"))
    else:
        found.append(below("inaccurate", srocc(clean, undefended), 0.3))
    return found + contract(g, x, keys, scale, seed)


def _repeat(
    g: DefendedMetric, x: torch.Tensor, keys: list[str], clean: np.ndarray, scale: float, seed: int
) -> list[Finding]:
    """Checks 1 and 3: other streams, and the same streams again."""
    others = [scored(g, x, keys, seed + k).score for k in range(1, CALLS)]
    moved = max(float(np.abs(o - clean).max()) for o in others) / scale
    again = scored(g, x, keys, seed).score
    found = [above("irreproducible", float(np.abs(again - clean).max()) / scale, 1e-6)]
    if not g.randomised:
        found.append(above("random-undeclared", moved, 1e-6))
        if g.certified_norm == "l2" and g.certify(x[:1], [1e-3], seed=seed).sigma > 0:
            found.append(below("fixed-noise", moved, 1e-12))
    else:
        with torch.inference_mode():
            draws = [g.surrogate(x, Streams.create(keys, Role.SEARCH, s), g.cost) for s in range(seed, seed + CALLS)]
            answers = torch.stack([g.aggregate(d).double() for d in draws])
        alive = float((draws[0] - draws[1]).abs().max()) / scale
        # A deployed score that stands still while the same statistic of fresh draws moves is made of known draws.
        if float((answers - answers[0]).abs().max()) > 0:
            alive = min(alive, moved)
        found.append(below("fixed-noise", alive, 1e-12))
    return found


def _alone(g: DefendedMetric, x: torch.Tensor, keys: list[str], clean: np.ndarray, scale: float, seed: int) -> Finding:
    parts = [scored(g, x[i : i + 1], [keys[i]], seed).score[0] for i in range(len(x))]
    return above("batch-dependent", float(np.abs(np.array(parts) - clean).max()) / scale, 1e-4)


def _inner(g: DefendedMetric, x: torch.Tensor, keys: list[str]) -> Finding:
    with _backward_calls(g.metric) as calls:
        g.estimate(x[:1], Streams.create(keys[:1], Role.EVALUATION))
        with torch.no_grad():
            g.surrogate(x[:1], Streams.create(keys[:1], Role.SEARCH), 1)
    return above("optimises-inside", len(calls), 0)


@contextlib.contextmanager
def _backward_calls(metric: Metric) -> Iterator[list[str]]:
    """A list that grows with each backward pass in the block: through torch.autograd, or through the metric."""
    calls: list[str] = []

    def passed(*_: object) -> None:
        calls.append("metric")

    with contextlib.ExitStack() as stack:
        # Who imported `grad` by name is seen here.
        stack.callback(metric.register_full_backward_hook(passed).remove)
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
        reason = "the defence declares that it has no gradient"
        return [above(names[0], 1.0, 0.5), *(Finding(name, skipped=reason) for name in names[1:])]

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
    # A single value that is not finite spoils every step: that alone is reason enough.
    broken = not bool(torch.isfinite(gradient).all())
    found = [above("gradient-missing", float("nan") if broken else float(missing.mean()), 0.5)]
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
    """A metric that is nothing but a slope along a smooth pattern, which compression and noise do not remove."""

    def __init__(self, pattern: torch.Tensor, slope: float, middle: float) -> None:
        super().__init__()
        self.slope, self.middle = slope, middle
        self.register_buffer("pattern", pattern)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        pattern = self.get_buffer("pattern").to(x)
        if pattern.shape[1:] != x.shape[2:]:  # a defence that resizes
            pattern = nn.functional.interpolate(pattern[None], x.shape[2:], mode="bilinear", align_corners=False)[0]
            pattern = pattern * (self.get_buffer("pattern")[0].numel() / pattern[0].numel())
        return self.middle + self.slope * ((x - 0.5) * pattern).sum((1, 2, 3))


def planted_pattern(height: int, width: int) -> torch.Tensor:
    """(3,H,W) of length 1: random values on a grid of 16 pixels, enlarged smoothly."""
    rows, columns = max(2, -(-height // 16)), max(2, -(-width // 16))
    coarse = torch.randn(1, 3, rows, columns, generator=generator("planted", height, width))
    pattern = nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    return pattern / pattern.norm()


def _planted(g: DefendedMetric, x: torch.Tensor, seed: int) -> Finding:
    """Check 12: the metric is replaced by a slope worth a third of the scale over the budget; eot-pgd looks for it.

    The pattern is orthogonal to the images, so that all of them score in the middle of the declared range: a clamp to
    it hides nothing. What counts is how far the attack goes along the pattern, because a score in coarse steps may
    stand still, or, behind a transform, what the score gains of that: one that moves the image about
    makes another pattern of it.
    """
    m = g.metric
    low, high = m.score_range or (0.0, 1.0)
    slope = (high - low) / 3 / PLANTED_EPS
    flat = (x - 0.5).flatten(1).double().cpu()
    basis = torch.linalg.qr(flat.T).Q
    pattern = planted_pattern(x.shape[2], x.shape[3]).flatten().double()
    pattern = pattern - basis @ (basis.T @ pattern)
    pattern = (pattern / pattern.norm()).view(x.shape[1:]).to(x)
    toy = _Planted(pattern, m.sign * slope, (low + high) / 2)
    planted = Metric(toy, m.spec, lower_better=m.lower_better, score_range=m.score_range).to(x.device)
    try:
        with warnings.catch_warnings():
            # A defence that calibrates itself on the metric rightly finds this one odd.
            warnings.simplefilter("ignore", UserWarning)
            found = load_attack("eot-pgd")(load_defense(g.spec, planted), x, L2(PLANTED_EPS), seed=seed)
    except Incompatible as error:  # a defence of certain networks only
        return Finding("planted-missed", skipped=str(error))
    except BadScore:  # the attack cannot take a step
        return Finding("planted-missed", raised=True)
    along = ((found.adversarial - x) * pattern).flatten(1).sum(1) / PLANTED_EPS
    if isinstance(g, Transforming):  # behind others the score may rise for other reasons than the pattern
        along = torch.maximum(along, torch.from_numpy(found.gain).to(along) / (slope * PLANTED_EPS))
    return below("planted-missed", float(along.median()), 1 / 3)
