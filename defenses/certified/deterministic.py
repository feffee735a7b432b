"""Certificates without sampling: what a metric's architecture proves about itself."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ...bench.api import Certificate, CertifyRequest, Metric
from ...bench.errors import Incompatible
from ...bench.intervals import propagate
from ...bench.registry import register_defense
from ..base import Purification

ROUNDING = 1e-4
"""Share of the score's size by which bounds are widened, for the float32 arithmetic of the network (seen: 2e-6)."""


class Deterministic(Purification):
    """The metric itself, unchanged, with a bound that its architecture gives."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The image itself."""
        return x

    @abstractmethod
    def _range(self, x: torch.Tensor, score: np.ndarray, eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds (B,E) of the scores (B,) under each eps, in exact arithmetic."""

    def _certify(self, request: CertifyRequest) -> Certificate:
        assert self.certified_norm is not None
        score = self.estimate(request.x).score
        lo, hi = self._range(request.x, score, request.eps)
        slack = ROUNDING * np.maximum(np.abs(score), 1.0)[:, None]
        bottom, top = self.metric.score_range if self.metric.bounded and self.metric.score_range else (-np.inf, np.inf)
        certificate = Certificate(
            kind="population",
            norm=self.certified_norm,
            eps=tuple(request.eps.tolist()),
            score=score,
            lo=np.maximum(lo - slack, bottom),
            hi=np.minimum(hi + slack, top),
            n=0,
            alpha=request.alpha,
            sigma=0.0,
            spread=np.zeros(len(score)),
            lower_better=self.metric.lower_better,
            coverage="exact",
        )
        # The score that is shipped is the one that is bounded, and no probability is spent on a family.
        whole = replace(certificate, deployed=replace(certificate, kind="deployed"))
        return replace(whole, family=whole) if request.family > 1 else whole


@register_defense("lipschitz")
class Lipschitz(Deterministic):
    """A metric with a known Lipschitz constant: |g(x + d) - g(x)| <= L |d|_2, in one forward pass.

    For metrics whose module has `lipschitz(height, width)`, an upper bound of the constant for images of that size that
    is computed from the weights, such as `lip-iqa`.
    """

    certified_norm = "l2"

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric)
        if not callable(getattr(metric.module, "lipschitz", None)):
            raise Incompatible(
                f"metric {metric.spec!r} has no known Lipschitz constant: use one with a method `lipschitz(height, "
                "width)`, such as lip-iqa, or a smoothed defence such as median-smoothing"
            )

    def _range(self, x: torch.Tensor, score: np.ndarray, eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        constant: float = self.metric.module.lipschitz(x.shape[2], x.shape[3])  # type: ignore[operator]
        reach = constant * eps[None, :]
        return score[:, None] - reach, score[:, None] + reach


@register_defense("interval-bounds")
class IntervalBounds(Deterministic):
    """Interval bound propagation (Gowal et al. 2018): l_inf bounds of the metric itself, in one pass per eps.

    For metrics whose module has `layers`, an `nn.Sequential` that interval arithmetic covers, such as `ibp-iqa`.
    Perturbed images stay in [0,1], so the box is cut there.
    """

    certified_norm = "linf"

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric)
        layers = getattr(metric.module, "layers", None)
        if not isinstance(layers, nn.Sequential):
            raise Incompatible(
                f"metric {metric.spec!r} cannot be bounded by intervals: use one whose module has `layers`, an "
                "nn.Sequential of supported layers, such as ibp-iqa, or a smoothed defence such as median-smoothing"
            )
        self._layers = layers

    def _range(self, x: torch.Tensor, score: np.ndarray, eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends = [propagate(self._layers, (x - e).clamp(0, 1), (x + e).clamp(0, 1)) for e in eps.tolist()]
        lo, hi = (torch.stack([end.reshape(len(x)) for end in side], dim=1) for side in zip(*ends, strict=True))
        return lo.double().cpu().numpy(), hi.double().cpu().numpy()
