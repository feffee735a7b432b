"""Balls and boxes: normalised steps, projections, and the budget to the last bit."""

from __future__ import annotations

import torch

from ..bench.api import Threat
from ..bench.seeds import Streams


def unit(v: torch.Tensor, norm: str) -> torch.Tensor:
    """Steepest-ascent direction of norm 1 for gradient v (B,3,H,W): v/|v|_2, or sign(v); zero stays zero."""
    if norm == "linf":
        return v.sign()
    return v / _length(v)


def project(x_adv: torch.Tensor, x: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Nearest point of the ball around x, then clipped to [0,1].

    For l2 this is not the nearest point of the intersection, but it lies in it: x is in the box, so clipping only
    moves each value towards x.
    """
    return _inside(x_adv - x, threat).add_(x).clamp_(0.0, 1.0)


def inside(delta: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Nearest point of the ball around 0 to perturbations (B,3,H,W)."""
    return _inside(delta.clone(), threat)


def _inside(delta: torch.Tensor, threat: Threat) -> torch.Tensor:
    """`inside` in the memory of `delta`: fresh memory would cost more than the step itself."""
    if threat.norm == "linf":
        return delta.clamp_(-threat.eps, threat.eps)
    return delta.mul_((threat.eps / _length(delta)).clamp_max(1.0))


def _length(v: torch.Tensor) -> torch.Tensor:
    """l2 norms (B,1,1,1) of v (B,3,H,W), not 0; in any order in memory without a copy."""
    return torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)


def stretched(delta: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Multiples of perturbations (B,3,H,W) that spend the whole budget; zero stays zero."""
    if threat.norm == "linf":
        return threat.eps * delta / delta.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)
    return threat.eps * unit(delta, "l2")


def enforce(x_adv: torch.Tensor, x: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Shrink the perturbation until its norm, measured in double precision after float rounding, is within eps."""
    result = project(x_adv, x, threat)
    over = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for attempt in range(12):
        delta = result.double() - x.double()
        flat = delta.flatten(1)
        norms = flat.abs().amax(dim=1) if threat.norm == "linf" else flat.norm(dim=1)
        over = norms > threat.eps
        if not bool(over.any()):
            return result
        # The margin grows: a small one can vanish when each value is rounded to float32 again.
        scale = torch.where(over, threat.eps / norms * (1 - 1e-6 * 3**attempt), torch.ones_like(norms))
        shrunk = (x.double() + delta * scale[:, None, None, None]).to(x.dtype).clamp(0.0, 1.0)
        result = torch.where(over[:, None, None, None], shrunk, result)
    # A budget near the spacing of float32 cannot be spent at all.
    return torch.where(over[:, None, None, None], x, result)


def random_start(x: torch.Tensor, threat: Threat, rng: Streams) -> torch.Tensor:
    """A random point of the ball: uniform in it for linf; for l2 a uniform direction with a uniform radius."""
    if threat.norm == "linf":
        return project(x + threat.eps * rng.uniform(x), x, threat)
    radius = rng.uniform(x[:, :1, :1, :1]).abs()
    return project(x + threat.eps * radius * unit(rng.normal(x, 1)[0], "l2"), x, threat)
