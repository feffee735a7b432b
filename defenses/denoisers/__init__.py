"""Denoisers for smoothed defences: networks, shipped weights, training."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ...bench.errors import BadData, BadParameter, BadPlugin
from ...bench.registry import registry
from ...bench.seeds import generator
from ...bench.spec import parse_spec
from ...bench.weights import finite
from .diffusion import OneShotDiffusion, load_diffusion
from .files import DENOISER, DIFFUSION, kind_of, read_weights, readable
from .kair import load_kair
from .nets import DnCNN, LightDenoiser

_WEIGHTS = Path(__file__).parent / "weights"
_ANY_LEVEL = 0.06
"""Noise level asked for where every step of a diffusion model is wanted: one that any has."""

DENOISERS: MappingProxyType[str, Path] = MappingProxyType(
    {
        "light-s0.06": _WEIGHTS / "light-s0.06.safetensors",
        "light-s0.12": _WEIGHTS / "denoiser-light-s0.12.safetensors",
        "light-s0.18": _WEIGHTS / "light-s0.18.safetensors",
        "light-s0.25": _WEIGHTS / "light-s0.25.safetensors",
        "diffusion-light": _WEIGHTS / "diffusion-light.safetensors",
        **{
            name: _WEIGHTS / f"{name}.safetensors"
            for kind in ("dms", "tight")
            for name in (f"{kind}-tiny-iqa-s{level}" for level in ("0.06", "0.12", "0.18", "0.25"))
        },
    }
)
"""Shipped denoisers by name; a number is the noise's standard deviation for pixels in [0,1]."""


def load_denoiser(name_or_path: str, sigma: float) -> nn.Module:
    """A denoiser in evaluation mode, without trainable parameters, mapping (B,3,H,W) to the same shape.

    Its attribute `trained_sigma`, where it has one, is the only noise level that it is made for, or None where it
    adapts or is not known.

    Args:
        name_or_path: a registered denoiser, or a .safetensors file that `robustiqa train denoiser` or `robustiqa train
            diffusion-denoiser` wrote; the file says which. A .pth file is a DnCNN in KAIR's layout (`load_kair`).
        sigma: standard deviation of the noise to be removed, pixels in [0,1]: a diffusion model chooses its step by it,
            KAIR's DnCNN is scaled to it; a denoiser for one level ignores it.

    Raises:
        UnknownName: neither a known name nor a .safetensors or .pth path.
        BadData: the file is missing, corrupt, or of another network.
        BadParameter: a diffusion model, or KAIR's DnCNN, cannot remove noise of this level.
        BadPlugin: a registered factory does not give an `nn.Module`.
    """
    if name_or_path.endswith(".safetensors"):
        return load_file(Path(name_or_path), sigma)
    if name_or_path.endswith(".pth"):
        return load_kair(Path(name_or_path), sigma)
    if name_or_path not in registry.names("denoiser") and Path(name_or_path).exists():
        raise BadData(f"denoiser {name_or_path!r}: expected a .safetensors file, as `robustiqa train denoiser` writes "
                      "(OUT/denoiser.safetensors), or KAIR's .pth")  # fmt: skip
    plugin = registry.get("denoiser", name_or_path)
    net = plugin.factory(sigma)
    if not isinstance(net, nn.Module):
        raise BadPlugin(f"denoiser {name_or_path!r} gives a {type(net).__name__}: expected a torch.nn.Module")
    net = net.eval().requires_grad_(False)
    if plugin.origin != "built-in":
        _check(net, name_or_path)
    return net


def load_diffusion_model(name_or_path: str) -> OneShotDiffusion:
    """A diffusion model, for whatever goes through several of its steps; `load_denoiser` gives one step of it.

    Args:
        name_or_path: as in `load_denoiser`. The factory of an own plug-in returns an `OneShotDiffusion` of network and
            table, whatever noise level it is asked for.

    Raises:
        BadParameter: it is a denoiser that predicts no diffusion's noise; and what `load_denoiser` raises.
    """
    model = load_denoiser(name_or_path, _ANY_LEVEL)
    if not isinstance(model, OneShotDiffusion):
        raise BadParameter(
            f"denoiser {name_or_path!r} is a {type(model).__name__}: expected a diffusion model, such as "
            "diffusion-light, weights of `robustiqa train diffusion-denoiser`, or a plug-in that returns an "
            "OneShotDiffusion"
        )
    return model


def _check(net: nn.Module, name: str) -> None:
    """Raise `BadPlugin` unless a denoiser keeps the shape and treats every image on its own, always alike.

    The draws of a certificate are independent only if no image of a batch touches another one's result.
    """
    x = torch.rand((3, 3, 64, 72), generator=generator("denoiser check"))
    with torch.inference_mode():
        together, again, alone = net(x), net(x), net(x[1:2])
    if not isinstance(together, torch.Tensor) or together.shape != x.shape:
        shape = tuple(together.shape) if isinstance(together, torch.Tensor) else type(together).__name__
        raise BadPlugin(f"denoiser {name!r} maps {tuple(x.shape)} to {shape}: expected the same shape")
    if not (torch.equal(together, again) and torch.allclose(together[1:2], alone, rtol=1e-3, atol=1e-4)):
        raise BadPlugin(
            f"denoiser {name!r} gives an image another result in a batch or in a second call: a certificate needs "
            "every image treated on its own, without randomness"
        )


def load_file(path: Path, sigma: float) -> LightDenoiser | DnCNN | OneShotDiffusion:
    """The denoiser of a weights file, for noise of level sigma."""
    if kind_of(path) == DIFFUSION:
        return load_diffusion(path, sigma)
    about, state = read_weights(path, DENOISER)
    with readable(path, DENOISER):
        net = _empty(str(about.get("net", "unet")), state)
        net.load_state_dict(finite(state))
        net.sigma, net.trained_metric = sigma, _metric(about)
        low, high = (_level(about, key) for key in ("low", "sigma"))
        if low is not None and high is not None and low < high:
            net.trained_range = (low, high)
        else:
            net.trained_sigma = high
    return net.eval().requires_grad_(False)


def _level(about: dict[str, Any], key: str) -> float | None:
    """A noise level of the header, None where it is not there; raises `ValueError` for what is none."""
    if key not in about:
        return None
    level = float(about[key])
    if not 0 <= level <= 1:
        raise ValueError(f"the header's noise level {level:g} is outside [0,1]")
    return level


def _metric(about: dict[str, Any]) -> str | None:
    """The metric of the header, None where it is not there; raises `ValueError` for what is no plug-in string."""
    metric = about.get("metric")
    if metric is None:
        return None
    try:
        return str(parse_spec(metric))
    except (BadParameter, TypeError, AttributeError) as error:
        raise ValueError("the header's metric is no plug-in string") from error


def _empty(net: str, state: dict[str, torch.Tensor]) -> LightDenoiser | DnCNN:
    """A network of the size that the tensors have."""
    first = state["layers.0.weight" if net == "dncnn" else "first.weight"]
    width, channels = first.shape[:2]
    if net == "dncnn":
        return DnCNN(sum(key.endswith(".weight") for key in state), width, channels == 4)
    if net != "unet":
        raise ValueError(f"unknown network {net!r}: known are unet and dncnn")
    return LightDenoiser(width, channels == 4)
