"""A user's own file of weights for a metric of pyiqa: read without running code, and held against the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import BadData
from ...foreign_weights import is_plain, read_tensors
from ...weights import finite

_WRAPPERS = ("params", "state_dict", "model")
"""Keys under which training codes put the state dict."""
_SHOWN = 3


def read_state(path: Path, name: str) -> dict[str, torch.Tensor]:
    """The state dict in a .safetensors file, or in what `torch.save` wrote, which may wrap it in a dict.

    Raises:
        BadData: the file cannot be read, or holds more than names and tensors.
    """
    found: Any = read_tensors(path)
    for key in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(k, str) and _is_weight(v) for k, v in found.items()):
        raise BadData(f"weights {str(path)!r} are a {type(found).__name__}, not a state dict of {name}: expected names "
                      "and tensors, as `torch.save(network.state_dict(), FILE)` writes them")  # fmt: skip
    return {key.removeprefix("module."): value for key, value in found.items()}


def _is_weight(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and is_plain(value)


def check_pickle(path: Path, name: str) -> None:
    """Raise `BadData` unless a file that pyiqa will unpickle holds tensors and plain values only: it runs no code."""
    if path.suffix == ".safetensors":
        raise BadData(f"weights {str(path)!r} of {name}: expected what `torch.save` writes, pyiqa reads nothing else")
    read_tensors(path)


def fill(net: nn.Module, state: dict[str, torch.Tensor], path: Path, name: str) -> None:
    """Put a state dict into a network that it has to fit to the last key and shape.

    pyiqa loads some files without looking at the keys: an empty one would leave the network untrained, silently.

    Raises:
        BadData: which keys or shapes do not fit, or that values are not finite.
    """
    own = net.state_dict()
    if not own:
        raise BadData(f"{name} has no weights of its own that {str(path)!r} could replace: leave `weights` out")
    wrong = [f"lacks {_some(own.keys() - state.keys())}"] if own.keys() - state.keys() else []
    wrong += [f"has {_some(state.keys() - own.keys())} besides"] if state.keys() - own.keys() else []
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    wrong += [f"has other shapes of {_some(shapes)}"] if shapes else []
    if wrong:
        raise BadData(f"weights {str(path)!r} do not fit {name}: the file {' and '.join(wrong)}; give the state dict "
                      "of this network")  # fmt: skip
    try:
        net.load_state_dict(finite(state))
    except ValueError as error:
        raise BadData(f"weights {str(path)!r} of {name}: {error}; train again, or give others") from error


def _some(keys: Any) -> str:
    """The first few of some keys."""
    keys = sorted(keys)
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
