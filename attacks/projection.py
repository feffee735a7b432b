"""Balls and boxes: normalised steps, projections, and the budget to the last bit."""

from __future__ import annotations

import torch

from ..bench.api import Threat
from ..bench.memory import laid_out_like
from ..bench.seeds import Streams


def unit(v: torch.Tensor, norm: str) -> torch.Tensor:
    """Steepest-ascent direction of norm 1 for gradient v (B,3,H,W): v/|v|_2, or sign(v); zero stays zero."""
    if norm == "linf":
        return v.sign()
    return v / _length(v)


def stepped(z: torch.Tensor, v: torch.Tensor, size: float, norm: str) -> torch.Tensor:
    """z + size * unit(v) for points z and gradients v (B,3,H,W), in as few passes over the memory as it takes."""
    if norm == "linf":
        return torch.add(z, v.sign(), alpha=size)
    return torch.addcmul(z, v, size / _length(v))


def project(x_adv: torch.Tensor, x: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Nearest point of the ball around x, then clipped to [0,1].

    For l2 this is not the nearest point of the intersection, but it lies in it: x is in the box, so clipping only
    moves each value towards x.
    """
    delta = x_adv - x
    if threat.norm == "linf":
        delta.clamp_(-threat.eps, threat.eps).add_(x)
    else:
        # In the memory of `delta`: fresh memory would cost more than the step itself. A graph would need it.
        graph = torch.is_grad_enabled() and (delta.requires_grad or x.requires_grad)
        delta = torch.addcmul(x, delta, _shrinking(delta, threat), out=None if graph else delta)
    return delta.clamp_(0.0, 1.0)


def inside(delta: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Nearest point of the ball around 0 to perturbations (B,3,H,W)."""
    if threat.norm == "linf":
        return delta.clamp(-threat.eps, threat.eps)
    return delta * _shrinking(delta, threat)


def _shrinking(delta: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Factors (B,1,1,1), at most 1, that bring perturbations (B,3,H,W) into the l2 ball."""
    return (threat.eps / _length(delta)).clamp_max(1.0)


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
    x = laid_out_like(x, x_adv)
    result, exact = project(x_adv, x, threat), x.double()
    over = torch.ones(len(x), 1, 1, 1, dtype=torch.bool, device=x.device)
    order = torch.inf if threat.norm == "linf" else 2
    for attempt in range(12):
        delta = result - exact
        norms = torch.linalg.vector_norm(delta, order, dim=(1, 2, 3), keepdim=True)
        over = norms > threat.eps
        if not bool(over.any()):
            return result
        # The margin grows: a small one can vanish when each value is rounded to float32 again.
        scale = threat.eps / norms * (1 - 1e-6 * 3**attempt)
        shrunk = torch.addcmul(exact, delta, scale).to(x.dtype).clamp_(0.0, 1.0)
        result = torch.where(over, shrunk, result)
    # A budget near the spacing of float32 cannot be spent at all.
    return torch.where(over, x, result)


def random_start(x: torch.Tensor, threat: Threat, rng: Streams) -> torch.Tensor:
    """A random point of the ball: uniform in it for linf; for l2 a uniform direction with a uniform radius."""
    if threat.norm == "linf":
        return project(x + threat.eps * rng.uniform(x), x, threat)
    radius = rng.uniform(x[:, :1, :1, :1]).abs()
    return project(x + threat.eps * radius * unit(rng.normal(x, 1)[0], "l2"), x, threat)
