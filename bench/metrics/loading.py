"""Weights files of the embedded metrics: one way to read them, with the same messages for all."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import safetensors
from safetensors.torch import load_file
from torch import nn

from ..errors import BadData, BadParameter

FOLDER = Path(__file__).parent / "weights"
"""The shipped weights; the model card of each is the `.md` beside it."""

Net = TypeVar("Net", bound=nn.Module)


def load_weights(net: Net, weights: str, name: str, training: str) -> Net:
    """Fill a network from a safetensors file; returns it frozen in evaluation mode.

    Args:
        net: the network.
        weights: path of the file; empty means the shipped one, `FOLDER/NAME.safetensors`.
        name: name of the metric.
        training: the command that trains it.

    Raises:
        BadData: the file is missing, corrupt, or belongs to another network.
        BadParameter: the file is not a safetensors file.
    """
    path = Path(weights) if weights else FOLDER / f"{name}.safetensors"
    check_file(path, training)
    try:
        net.load_state_dict(load_file(path))
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadData(
            f"weights {str(path)!r} cannot be read as {name} ({reason}): install the package again, or train them "
            f"with `{training}`"
        ) from error
    return net.eval().requires_grad_(False)


def check_file(path: Path, training: str) -> None:
    """Raise `BadParameter` for a path that is no .safetensors file, `BadData` for one that does not exist."""
    if path.suffix != ".safetensors":
        raise BadParameter(f"weights {str(path)!r}: expected a .safetensors file, as `{training}` writes")
    if not path.is_file():
        raise BadData(f"weights {str(path)!r} do not exist: check the path, or train them with `{training}`")
