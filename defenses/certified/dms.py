"""DMS-IQA (arXiv 2411.12575): median smoothing with a denoiser that was trained for the metric with a ranking loss."""

from __future__ import annotations

from ...bench.api import Metric
from ...bench.registry import register_defense
from ..denoisers.choose import AUTO, DMS, NOISE, TIGHT, trained_for
from .median import MedianSmoothing
from .smoothed import Precision


@register_defense("dms-iqa", strength=NOISE)
class DMSIQA(MedianSmoothing):
    """Median of metric(denoiser(noisy image)); the denoiser is trained by image, target and ranking loss.

    The certificate is that of median smoothing: a denoiser belongs to the function that is smoothed.

    Args:
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
        denoiser: name of a shipped denoiser, or the path of a safetensors file; auto for the one shipped for this
            metric and sigma.
        precision: number format of denoiser and metric, part of what is certified: float32, bfloat16 or float16.
        compiled: torch.compile the network for certificates and deployed scores: half a minute for each image size,
            then faster; attacks follow gradients through the network as it is.
    """

    concurrent = True

    family = DMS

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
        chosen = trained_for(metric.spec, sigma, self.family) if denoiser == AUTO else denoiser
        super().__init__(metric, sigma, n, m, chosen, precision, compiled)

    def _wrong_metric(self, made_for: str | None) -> tuple[str, ...]:
        if made_for is not None:
            return super()._wrong_metric(made_for)
        return (f"denoiser {self._denoiser_name!r} was not trained for a metric: this is denoised median smoothing",)


@register_defense("dms-iqa-tight", strength=NOISE)
class DMSIQATight(DMSIQA):
    """A variant of ours, not the paper's: dms-iqa whose denoiser is also trained for a small spread of scores.

    The width of a median's certificate is that spread; see `docs/dms-iqa.md` for what it gains and costs.

    It takes the parameters of `dms-iqa`.
    """

    concurrent = True

    family = TIGHT
