"""The denoisers that come with the package, as plug-ins."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ...bench.registry import register_denoiser
from . import DENOISERS, load_file


@register_denoiser("diffusion-light")
def diffusion_light(sigma: float) -> nn.Module:
    """One step of a small diffusion model, for noise between .03 and .3."""
    return load_file(DENOISERS["diffusion-light"], sigma)


def _of_one_level(name: str, about: str) -> Callable[[float], nn.Module]:
    level = name.rpartition("-s")[2]

    def factory(sigma: float) -> nn.Module:
        net = load_file(DENOISERS[name], sigma)
        net.trained_sigma = float(level)  # light-s0.12 was made before files recorded it
        return net

    factory.__doc__ = f"{about} for noise of {level} whatever sigma it is used at."
    return factory


for _name in DENOISERS:
    if _name.startswith("light-"):
        register_denoiser(_name)(_of_one_level(_name, "Residual U-Net of 0.14 M parameters, trained by plain MSE"))
    elif _name.startswith(("dms-", "tight-")):
        _kind, _metric = _name.rpartition("-s")[0].split("-", 1)
        _losses = "image, target and ranking loss" + (", and for a small spread" if _kind == "tight" else "")
        _about = f"Residual U-Net of 0.14 M parameters, trained for the metric {_metric} by {_losses}"
        register_denoiser(_name)(_of_one_level(_name, _about))
