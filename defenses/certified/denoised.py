"""Denoised smoothing (Salman et al. 2020): a denoiser between the noise and the metric.

The denoiser belongs to the smoothed function, so every theorem stays; only its default differs from the plain method.
"""

from __future__ import annotations

from ...bench.api import Metric
from ...bench.registry import register_defense
from ..denoisers.choose import AUTO, NOISE, ordinary
from .bins import ScoreBins
from .median import MedianSmoothing
from .smoothed import Precision


@register_defense("denoised-median-smoothing", strength=NOISE)
class DenoisedMedianSmoothing(MedianSmoothing):
    """Median of metric(denoiser(noisy image)), with a denoiser trained by plain MSE.

    Args:
        sigma: noise level in [0,1] pixel units; the denoiser should be trained for it.
        n: draws for a certificate.
        m: draws for a deployed score.
        denoiser: name of a shipped denoiser, or the path of a weights file;
            auto for the light one of the nearest level.
        precision: number format of denoiser and metric, part of what is certified: float32, bfloat16 or float16.
        compiled: torch.compile the network for certificates and deployed scores: half a minute for each image size,
            then faster; attacks follow gradients through the network as it is.
    """

    concurrent = True

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n: int = 1000,
        m: int = 101,
        denoiser: str = AUTO,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        super().__init__(metric, sigma, n, m, ordinary(sigma) if denoiser == AUTO else denoiser, precision, compiled)


@register_defense("diffusion-denoised-median-smoothing")
class DiffusionDenoisedMedianSmoothing(MedianSmoothing):
    """Median of metric(one diffusion step(noisy image)) (Carlini et al. 2023), for any noise level the model covers.

    Args:
        sigma: noise level in [0,1] pixel units; the model's step is chosen by it.
        n: draws for a certificate.
        m: draws for a deployed score.
        denoiser: name of a shipped diffusion model, or the path of its safetensors file.
        precision: number format of denoiser and metric, part of what is certified: float32, bfloat16 or float16.
        compiled: torch.compile the network for certificates and deployed scores: half a minute for each image size,
            then faster; attacks follow gradients through the network as it is.
    """

    concurrent = True

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n: int = 1000,
        m: int = 101,
        denoiser: str = "diffusion-light",
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        super().__init__(metric, sigma, n, m, denoiser, precision, compiled)


@register_defense("denoised-score-bins")
class DenoisedScoreBins(ScoreBins):
    """Most likely bin of metric(denoiser(noisy image)).

    Args:
        sigma: noise level in [0,1] pixel units; the denoiser should be trained for it.
        n0: draws that choose the bin.
        n: draws that certify it.
        m: draws for a deployed score.
        bins: bins of equal width between the ends of the range; two open ones lie outside.
        low, high: the range; none for the metric's declared one.
        denoiser: name of a shipped denoiser, or the path of a weights file;
            auto for the light one of the nearest level.
    """

    concurrent = True

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n0: int = 100,
        n: int = 1000,
        m: int = 101,
        bins: int = 10,
        low: float | None = None,
        high: float | None = None,
        denoiser: str = AUTO,
    ) -> None:
        named = ordinary(sigma) if denoiser == AUTO else denoiser
        super().__init__(metric, sigma, n0, n, m, bins, low, high, named)
