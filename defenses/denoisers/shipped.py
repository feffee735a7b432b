"""The denoisers that come with the package, as plug-ins."""

from __future__ import annotations

from torch import nn

from ...bench.registry import register_denoiser
from . import DENOISERS, load_file


@register_denoiser("light-s0.12")
def light_012(sigma: float) -> nn.Module:
    """Residual U-Net of 0.14 M parameters, trained by plain MSE for noise of .12 whatever sigma it is used at."""
    net = load_file(DENOISERS["light-s0.12"], sigma)
    net.trained_sigma = 0.12  # the file was made before files recorded it
    return net


@register_denoiser("diffusion-light")
def diffusion_light(sigma: float) -> nn.Module:
    """One step of a small diffusion model, for noise between .03 and .3."""
    return load_file(DENOISERS["diffusion-light"], sigma)
