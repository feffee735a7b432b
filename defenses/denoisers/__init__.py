"""Denoisers for smoothed defences: networks, shipped weights, training."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import safetensors
from safetensors.torch import load_file
from torch import nn

from ...bench.errors import BadData, UnknownName
from .nets import LightDenoiser

_WEIGHTS = Path(__file__).parent / "weights"

DENOISERS: MappingProxyType[str, Path] = MappingProxyType(
    {"light-s0.12": _WEIGHTS / "denoiser-light-s0.12.safetensors"}
)
"""Shipped denoisers by name; the number is the noise's standard deviation for pixels in [0,1]."""


def load_denoiser(name_or_path: str) -> nn.Module:
    """A denoiser in evaluation mode, without trainable parameters, mapping (B,3,H,W) to the same shape.

    Args:
        name_or_path: a key of `DENOISERS`, or a .safetensors file that `robustiqa train denoiser` wrote.

    Raises:
        UnknownName: neither a known name nor a .safetensors path.
        BadData: the file is missing, corrupt, or of another network.
    """
    if not name_or_path.endswith(".safetensors") and name_or_path not in DENOISERS:
        raise UnknownName("denoiser", name_or_path, DENOISERS, "; your own: give the path of a .safetensors file")
    path = DENOISERS.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise BadData(
            f"denoiser weights {str(path)!r} do not exist: check the path, or train them: `robustiqa train denoiser`"
        )
    try:
        state = load_file(path)
        # The file says how wide the network is.
        net = LightDenoiser(state["first.weight"].shape[0])
        net.load_state_dict(state)
    except (safetensors.SafetensorError, RuntimeError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadData(
            f"denoiser weights {str(path)!r} cannot be read ({reason}): expected a file that `robustiqa train "
            "denoiser` wrote; install the package again or train them"
        ) from error
    return net.eval().requires_grad_(False)
