"""What a metric promises of itself, before any defence: sizes, range, its gradient, no side effects (checks 19 to 23).

That it is deterministic, and independent of the batch, checks 2 and 3 tell on the defence `none`.
"""

from __future__ import annotations

import torch

from ..api import Metric
from ..errors import BadImage, BadScore
from ..seeds import generator
from .reliability import Finding, above

STEPS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
"""Lengths of finite differences per pixel: curvature spoils long ones, float32 short ones, so that the best counts."""
DIRECTIONS = 2
MISMATCH = 0.2
BEYOND = 0.1
LARGER = ((0, 0), (0, 13), (1, 0), (31, 13))
"""Pixels added to the smallest side, for height and for width."""


def metric_contract(metric: Metric, x: torch.Tensor, seed: int = 0) -> list[Finding]:
    """Checks 19 to 23 of a metric on images (B,3,H,W) in [0,1]."""
    drift = _drift(metric, x)  # first: the others may set off what it looks for
    return [
        above("size-misdeclared", _refused(metric, seed), 0.0),
        _beyond(metric, x),
        above("input-changed", _changed(metric, x), 0.0),
        above("metric-drifts", drift, 0.0),
        _slopes(metric, x, seed),
    ]


def sameness(metric: Metric, x: torch.Tensor) -> list[Finding]:
    """Checks 3 and 2 of a metric alone, on two images or more: a second call, and one image without its neighbours."""
    with torch.inference_mode():
        first, again = metric(x).double(), metric(x).double()
        alone = torch.cat([metric(image[None]) for image in x]).double()
    scale = max(1e-6, metric.span if metric.score_range else float(first.max() - first.min()))
    return [
        above("irreproducible", float((again - first).abs().max()) / scale, 1e-6),
        above("batch-dependent", float((alone - first).abs().max()) / scale, 1e-4),
    ]


def _refused(metric: Metric, seed: int) -> float:
    """Check 19: share of sizes, from the declared smallest side on, that give no finite score."""
    failed = 0
    for height, width in ((metric.min_size + a, metric.min_size + b) for a, b in LARGER):
        image = torch.rand(1, 3, height, width, generator=generator("sizes", seed, height, width)).to(metric.device)
        try:
            with torch.inference_mode():
                failed += not bool(torch.isfinite(metric(image)).all())
        except (BadImage, BadScore, RuntimeError):
            failed += 1
    return failed / len(LARGER)


def _beyond(metric: Metric, x: torch.Tensor) -> Finding:
    """Check 20: how far scores lie outside the declared range, in its width; outside a bounded one they are errors."""
    if metric.score_range is None:
        return Finding("range-left", skipped="the metric declares no range")
    low, high = metric.score_range
    with torch.inference_mode():
        scores = metric(x).double()
    out = torch.maximum(low - scores, scores - high).clamp_min(0.0).max()
    return above("range-left", float(out) / (high - low), BEYOND)


def _changed(metric: Metric, x: torch.Tensor) -> float:
    """Check 21: largest change of the images that the metric is handed, in both modes of autograd."""
    given = x.clone()
    with torch.no_grad():
        metric(given)
    changed = float((given - x).abs().max())
    leaf = x.clone().requires_grad_(True)
    metric(leaf)
    return max(changed, float((leaf.detach() - x).abs().max()))


def _drift(metric: Metric, x: torch.Tensor) -> float:
    """Check 22: how much scores move after someone has asked for train mode and followed a gradient."""
    before = {key: value.detach().clone() for key, value in metric.state_dict().items()}
    with torch.inference_mode():
        score = metric(x.clone())
    metric.train()
    leaf = x.clone().requires_grad_(True)
    after = metric(leaf)
    if after.requires_grad:
        torch.autograd.grad(after.sum(), leaf, allow_unused=True)
    moved = [float((value - before[key]).abs().max()) for key, value in metric.state_dict().items() if value.numel()]
    training = float(any(module.training for module in metric.modules()))
    return max([training, float((after.detach() - score).abs().max() > 1e-4 * float(score.abs().max())), *moved])


def _slopes(metric: Metric, x: torch.Tensor, seed: int) -> Finding:
    """Check 23: largest relative error of directional slopes of the score over the images, against central differences.

    Directions are the gradient itself and the gradient of random parts of the image: along random noise most networks'
    slope is lost in the rounding of float32.
    """
    if not metric.differentiable:
        return Finding("score-slope", skipped="the metric declares that it has no gradient")
    # Away from black and white, where a clamp has no slope, and with no two equal neighbours.
    source = generator("score slopes", seed)
    x = 0.1 + 0.8 * x + (torch.rand(x.shape[1:], generator=source).to(x) - 0.5) / 255
    leaf = x.clone().requires_grad_(True)
    score = metric(leaf)
    if not score.requires_grad:
        return above("score-slope", float("inf"), MISMATCH)
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    masks = torch.rand((DIRECTIONS, *x.shape[1:]), generator=source).to(x) < 0.5
    parts = [gradient] + [gradient * mask for mask in masks[1:]]
    directions = torch.stack([_unit(part) for part in parts])
    promised = torch.stack([(gradient * d).double().flatten(1).sum(1) for d in directions])
    best = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    with torch.inference_mode():
        for step in STEPS:
            seen = torch.stack([(metric(x + step * d).double() - metric(x - step * d).double()) / (2 * step)
                                for d in directions])  # fmt: skip
            error = (seen - promised).norm(dim=0) / promised.norm(dim=0).clamp_min(1e-12)
            best = torch.minimum(best, error)
    return above("score-slope", float(best.max()), MISMATCH)


def _unit(direction: torch.Tensor) -> torch.Tensor:
    """Scaled to a root mean square of 1 for each image (B,3,H,W), so that a step is a length per pixel."""
    rms = direction.flatten(1).double().square().mean(1).sqrt().clamp_min(1e-30)
    return direction / rms.to(direction)[:, None, None, None]
