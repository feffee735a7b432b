"""Reading denoiser weights: one clear sentence for whatever can be wrong with a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch

from ...bench.errors import BadData

DENOISER = "denoiser"
DIFFUSION = "diffusion-light"
"""Kinds of network, as a weights file's header says; a file that does not say it holds a `DENOISER`."""

_TRAININGS = {DENOISER: "denoiser", DIFFUSION: "diffusion-denoiser"}


def read_weights(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What the header says, and the tensors, of a file of the expected kind; raises `BadData` for any other file."""
    found = kind_of(path, kind)
    if found != kind:
        raise BadData(f"denoiser weights {str(path)!r} are of kind {found!r}, expected {kind!r}: give another file")
    with readable(path, kind), safetensors.safe_open(path, framework="pt") as file:
        return _about(file), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def kind_of(path: Path, expected: str = DENOISER) -> str:
    """The kind of network in a weights file, `expected` being named in the advice where there is none.

    Raises:
        BadData: the file is missing, corrupt, or of a kind that is not known here.
    """
    if not path.is_file():
        raise BadData(
            f"denoiser weights {str(path)!r} do not exist: check the path, or train them: "
            f"`robustiqa train {_TRAININGS[expected]}`"
        )
    with readable(path, expected), safetensors.safe_open(path, framework="pt") as file:
        kind = str(_about(file).get("kind", DENOISER))
    if kind not in _TRAININGS:
        raise BadData(f"denoiser weights {str(path)!r} are of unknown kind {kind!r}: known are {', '.join(_TRAININGS)}")
    return kind


def _about(file: Any) -> dict[str, Any]:
    """What `save_weights` wrote about the weights; raises `ValueError` where it is not that."""
    about = json.loads((file.metadata() or {}).get("robustiqa", "{}"))
    if not isinstance(about, dict):
        raise ValueError("the header's entry `robustiqa` is not a table")
    return about


@contextlib.contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read, or a network made of it, into one `BadData`."""
    try:
        yield
    except (safetensors.SafetensorError, RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadData(
            f"denoiser weights {str(path)!r} cannot be read ({reason}): expected a file that `robustiqa train "
            f"{_TRAININGS[kind]}` wrote; install the package again or train them"
        ) from error
