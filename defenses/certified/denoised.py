"""Denoised median smoothing: a denoiser between the noise and the metric (Salman et al. 2020, for a median)."""

from __future__ import annotations

import torch

from ...bench.api import Metric
from ...bench.registry import register_defense
from ..denoisers import load_denoiser
from .median import MedianSmoothing


@register_defense("denoised-median-smoothing")
class DenoisedMedianSmoothing(MedianSmoothing):
    """Median of metric(denoiser(noisy image)): the same theorem, since the denoiser belongs to the smoothed function.

    Args:
        sigma: noise level in [0,1] pixel units; the denoiser should be trained for it.
        n: draws for a certificate.
        m: draws for a deployed score.
        denoiser: name of a shipped denoiser, or the path of a safetensors file.
    """

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n: int = 1000,
        m: int = 101,
        denoiser: str = "light-s0.12",
    ) -> None:
        super().__init__(metric, sigma, n, m)
        device = next((p.device for p in metric.parameters()), torch.device("cpu"))
        self.denoiser = load_denoiser(denoiser).to(device)

    def base_score(self, noisy: torch.Tensor) -> torch.Tensor:
        """Scores (b,) of the denoised images."""
        return self.metric(self.denoiser(noisy))
