"""A denoiser network in front of the metric."""

from __future__ import annotations

import math

import torch

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.registry import Strength, register_defense
from ..base import Purification
from ..denoisers import load_denoiser
from ..denoisers.choose import AUTO, LEVELS, ordinary


@register_defense("denoise", strength=Strength("sigma", LEVELS))
class Denoise(Purification):
    """A denoiser network, applied to the image as it is: no noise is added.

    A network that removes Gaussian noise takes a small perturbation for noise, and removes a part of it ("DnCNN
    purification"; denoisers as purifiers: Liao et al., "Defense against Adversarial Attacks Using High-Level
    Representation Guided Denoiser", CVPR 2018, arXiv 1712.02976). It is deterministic and differentiable as it is. An
    image without noise is smoothed a little, the more the stronger the noise that the network was made for. With noise
    before the denoiser it is another defence: `denoised-median-smoothing`, or one step of `diffusion-purification`.

    Args:
        denoiser: a registered denoiser (light-s0.06, dms-tiny-iqa-s0.06, diffusion-light, or your own plug-in), or the
            path of a weights file: .safetensors of `robustiqa train`, or a DnCNN in KAIR's layout (.pth). auto for the
            light one of the level. It sees the pixels in [0,1]; what it returns is clamped to [0,1].
        sigma: standard deviation of the noise that it is set to remove, pixels in [0,1]; none for .06, which a
            denoiser for one level ignores. The light ones are made for .06, .12, .18 and .25, dncnn_25 for .098, and
            diffusion-light takes .03 to .3.

    The metric sees an image of the same size.
    """

    def __init__(self, metric: Metric, denoiser: str = AUTO, sigma: float | None = None) -> None:
        super().__init__(metric)
        level = LEVELS[0] if sigma is None else sigma
        if level <= 0:
            raise BadParameter(f"denoise[sigma={level}]: expected a noise level > 0, in [0,1] pixel units")
        name = ordinary(level) if denoiser == AUTO else denoiser
        self.denoiser = load_denoiser(name, level).to(metric.device)
        made_for = getattr(self.denoiser, "trained_sigma", None)
        low, high = getattr(self.denoiser, "trained_range", (0.0, math.inf))
        # Without noise there is nothing that sigma could describe: one that the network ignores is a mistake.
        if sigma is not None and made_for is not None and not math.isclose(sigma, made_for, rel_tol=0.05):
            raise BadParameter(
                f"denoise[sigma={sigma}]: denoiser {name!r} is made for {made_for:.4g} alone and ignores another "
                "level: leave sigma out, or give another denoiser (diffusion-light takes 0.03 to 0.3)"
            )
        if not low <= level <= high:
            raise BadParameter(
                f"denoise[sigma={level}]: denoiser {name!r} was trained for {low:g} to {high:g}: expected sigma between"
            )

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The denoised images (B,3,H,W), clamped to [0,1]."""
        return self.denoiser(x).clamp(0, 1)
