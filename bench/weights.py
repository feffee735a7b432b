"""Reading weights that a training of ours wrote: one clear sentence for whatever can be wrong with a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch

from .errors import BadData, first_line


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a training wrote into the file's header about its weights, and the tensors; call it inside `readable`."""
    with safetensors.safe_open(path, framework="pt") as file:
        return _about(file), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def read_header(path: Path) -> dict[str, Any]:
    """The first part of `read_safetensors`."""
    with safetensors.safe_open(path, framework="pt") as file:
        return _about(file)


def _about(file: Any) -> dict[str, Any]:
    about = json.loads((file.metadata() or {}).get("robustiqa", "{}"))
    if not isinstance(about, dict):
        raise ValueError("the header's entry `robustiqa` is not a table")
    return about


def finite(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors; raises `ValueError` where a value is NaN or infinite."""
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise ValueError("it holds values that are not finite")
    return tensors


@contextlib.contextmanager
def readable(path: Path, what: str, command: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read, or a network made of it, into one `BadData`.

    Args:
        path: the file.
        what: what it should hold, in words.
        command: the command that writes such files.
    """
    try:
        yield
    except (safetensors.SafetensorError, RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
        raise BadData(
            f"{what} {str(path)!r} cannot be read ({first_line(error)}): expected a file that `{command}` wrote; "
            "install the package again or train them"
        ) from error
