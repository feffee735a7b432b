"""Reading denoiser weights: one clear sentence for whatever can be wrong with a file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from ...bench import weights
from ...bench.errors import BadData
from ...bench.weights import read_header, read_safetensors

DENOISER = "denoiser"
DIFFUSION = "diffusion-light"
"""Kinds of network, as a weights file's header says; a file that does not say it holds a `DENOISER`."""

_TRAININGS = {DENOISER: "denoiser", DIFFUSION: "diffusion-denoiser"}


def read_weights(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What the header says, and the tensors, of a file of the expected kind; raises `BadData` for any other file."""
    found = kind_of(path, kind)
    if found != kind:
        raise BadData(f"denoiser weights {str(path)!r} are of kind {found!r}, expected {kind!r}: give another file")
    with readable(path, kind):
        return read_safetensors(path)


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
    with readable(path, expected):
        kind = str(read_header(path).get("kind", DENOISER))
    if kind not in _TRAININGS:
        raise BadData(f"denoiser weights {str(path)!r} are of unknown kind {kind!r}: known are {', '.join(_TRAININGS)}")
    return kind


def readable(path: Path, kind: str) -> AbstractContextManager[None]:
    """Turn whatever goes wrong while a file is read, or a network made of it, into one `BadData`."""
    return weights.readable(path, "denoiser weights", f"robustiqa train {_TRAININGS[kind]}")
