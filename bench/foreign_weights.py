"""Weights of others' networks: a table of tensors from a file, matched to a network name by name."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from .errors import BadData, first_line
from .files import no_file

Net = TypeVar("Net", bound=nn.Module)
State = dict[str, torch.Tensor]

_UNUSED = "num_batches_tracked"
"""Counter of batch norms, which no score depends on; files from before torch 0.4.1 do not have it."""
_SHOWN = 3


def load_foreign(net: Net, path: str | Path, key: str = "", prefix: str | None = None) -> Net:
    """Fill a network from somebody's file; returns it frozen in evaluation mode.

    Every tensor of the network has to be in the file and the other way round, with the same shape, and be finite.

    Args:
        net: the network.
        path: .safetensors, or what `torch.save(net.state_dict(), path)` writes. Of a pickle only tensors are read:
            nothing in it is run.
        key: name under which the file holds the table; empty takes the file itself if it is a table of tensors, else
            the only such table in it.
        prefix: what stands before every name and is taken off, such as "module." after torch's DataParallel; None takes
            off what makes the names fit.

    Raises:
        BadData: the file is missing, unreadable, or belongs to another network.
    """
    path = Path(path)
    return fill(net, read_state(path, key), path, prefix)


def fill(net: Net, state: State, path: Path, prefix: str | None = None) -> Net:
    """`load_foreign` with the table that `read_state` has read; `path` is for messages."""
    expected = net.state_dict()
    state = _renamed(state, expected, prefix, path)
    missing = [name for name in expected if name not in state and not name.endswith(_UNUSED)]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        named = [f"{what}: {_some(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
        raise _foreign(path, net, "; ".join(named))
    for name, value in state.items():
        wanted = expected[name]
        if value.shape != wanted.shape:
            raise _foreign(path, net, f"{name!r} is {tuple(value.shape)}, expected {tuple(wanted.shape)}")
        if not is_plain(value):
            raise _foreign(path, net, f"{name!r} is sparse, quantised or without values: expected an ordinary tensor")
        if value.is_floating_point() != wanted.is_floating_point():
            raise _foreign(path, net, f"{name!r} is {value.dtype}, expected {wanted.dtype}")
        if not bool(torch.isfinite(value).all()):
            raise _foreign(path, net, f"{name!r} holds values that are not finite")
    net.load_state_dict(state, strict=False)  # what may be missing was looked at above
    return net.eval().requires_grad_(False)


def read_state(path: Path, key: str = "") -> State:
    """The table of tensors in a file, see `load_foreign`; raises `BadData`."""
    if not path.is_file():
        raise BadData(f"weights {str(path)!r} {no_file(path, plural=True)}")
    held = read_tensors(path)
    if key:
        if not isinstance(held, Mapping) or key not in held:
            raise BadData(f"weights {str(path)!r} have no entry {key!r}: there is {_entries(held)}")
        held = held[key]
    elif not _is_state(held):
        tables = [name for name, value in held.items() if _is_state(value)] if isinstance(held, Mapping) else []
        if len(tables) > 1:
            raise BadData(f"weights {str(path)!r} hold several networks: choose one with key={'|'.join(tables)}")
        held = held[tables[0]] if tables else held
    if not _is_state(held):
        raise BadData(
            f"weights {str(path)!r} hold no table of tensors such as a state_dict: there is {_entries(held)}; a "
            "network that was saved as a whole has to be saved again by its state_dict"
        )
    return dict(held)


def read_tensors(path: Path) -> Any:
    """What a file holds: tensors and plain values, in dicts and lists; nothing in it is run. Raises `BadData`."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes of another format can raise nearly anything here
        # What torch says of a pickle that it refuses is how to run it all the same.
        refused = isinstance(error, pickle.UnpicklingError)
        reason = "it is no table of tensors, or holds more than that" if refused else first_line(error)
        raise BadData(
            f"weights {str(path)!r} cannot be read as tensors ({reason}): expected a .safetensors file, or what "
            "torch.save(net.state_dict(), FILE) writes; nothing else in a pickle is read, as it could run code"
        ) from error


def is_plain(value: torch.Tensor) -> bool:
    """Whether a tensor holds its numbers as a network's weights do: not sparse, not quantised, not without storage."""
    return value.layout is torch.strided and not value.is_quantized and not value.is_meta


def _is_state(value: Any) -> bool:
    """Whether something maps names to tensors, and to nothing else."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def _renamed(state: State, expected: State, prefix: str | None, path: Path) -> State:
    """The table without the prefix of its names."""
    if prefix is None:
        # What fits all names is the only such prefix; otherwise the best one makes the message to come readable.
        heads = [("", *(name[: i + 1] for i, letter in enumerate(name) if letter == ".")) for name in state]
        fits = Counter(
            head for name, some in zip(state, heads, strict=True) for head in some if name[len(head) :] in expected
        )
        prefix = fits.most_common(1)[0][0] if fits else ""
    elif other := [name for name in state if not name.startswith(prefix)]:
        raise BadData(f"weights {str(path)!r} have names without the prefix {prefix!r}: {_some(other)}")
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _foreign(path: Path, net: nn.Module, why: str) -> BadData:
    return BadData(f"weights {str(path)!r} are not those of {type(net).__name__} ({why}): give the file that belongs "
                   "to it")  # fmt: skip


def _entries(held: Any) -> str:
    """What is in a file, in a few words."""
    return f"entries {_some([str(key) for key in held])}" if isinstance(held, Mapping) else f"a {type(held).__name__}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
