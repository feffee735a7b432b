"""Perturbations that were trained beforehand: what the files hold, reading them, and those that are shipped."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..bench.api import Direction, Norm, Threat
from ..bench.errors import BadData, BadParameter
from ..bench.weights import finite, read_safetensors, readable
from .nets import PerturbationGenerator

TILE = "universal-perturbation"
GENERATOR = "perturbation-generator"
"""Kinds of file, as its header says."""

METHODS = ("optimised", "cumulative", "generative")
"""Ways to train a universal perturbation."""

AUTO = "auto"
"""Stands for the shipped file, trained for tiny-iqa in the threat's norm."""

DIRECTIONS: tuple[Direction, ...] = ("up", "down")
NORMS: tuple[Norm, ...] = ("linf", "l2")
SHIPPED_FOR = "tiny-iqa"

_WEIGHTS = Path(__file__).parent / "weights"
SHIPPED: MappingProxyType[tuple[str, Norm], Path] = MappingProxyType(
    {(name, norm): _WEIGHTS / f"{name}-{SHIPPED_FOR}-{norm}.safetensors" for name in (*METHODS, "facpa")
     for norm in NORMS}
)  # fmt: skip
"""Shipped files by way of training and norm."""

_COMMANDS = {TILE: "robustiqa train perturbation", GENERATOR: "robustiqa train generator"}


def read_tiles(path: Path) -> tuple[dict[str, Any], dict[Direction, torch.Tensor]]:
    """The header and the square tiles (3,S,S) of a universal perturbation, by direction.

    Raises:
        BadData: the file is missing, corrupt, or of another kind.
    """
    about, tensors = _read(path, TILE)
    with _readable(path, TILE):
        tiles: dict[Direction, torch.Tensor] = {d: tensors[d].float() for d in DIRECTIONS}
        if about["method"] not in METHODS:
            raise ValueError(f"the header's method {about['method']!r} is none of {', '.join(METHODS)}")
        for tile in tiles.values():
            if tile.ndim != 3 or len(tile) != 3 or tile.shape[1] != tile.shape[2] or not bool((tile != 0).any()):
                raise ValueError(f"a tile of shape {tuple(tile.shape)}, expected (3,S,S) and not all zero")
            threat, wide = _threat(about), tile.double()
            length = float(wide.abs().max() if threat.norm == "linf" else wide.norm())
            if length > 1.01 * threat.eps:  # half precision
                raise ValueError(f"a tile of {threat.norm} norm {length:.3g}, beyond its own eps {threat.eps:.3g}")
    return about, tiles


def read_generators(path: Path) -> tuple[dict[str, Any], dict[Direction, PerturbationGenerator]]:
    """The header and the networks of an image-conditioned perturbation, by direction.

    Raises:
        BadData: the file is missing, corrupt, or of another kind.
    """
    about, tensors = _read(path, GENERATOR)
    nets: dict[Direction, PerturbationGenerator] = {}
    with _readable(path, GENERATOR):
        for direction in DIRECTIONS:
            prefix = f"{direction}."
            own = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
            nets[direction] = _generator(own, _threat(about))
            nets[direction].eval().requires_grad_(False)
    return about, nets


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise BadData(f"{_what(kind)} {str(path)!r} does not exist: check the path, or train it: `{_COMMANDS[kind]}`")
    with _readable(path, kind):
        about, tensors = read_safetensors(path)
        if about.get("kind") != kind:
            raise ValueError(f"it is of kind {about.get('kind')!r}, expected {kind!r}")
        if not isinstance(about.get("metric"), str):
            raise ValueError("the header names no metric")
        if _threat(about).eps == 0:
            raise ValueError("the header's eps is 0: it was trained for no change")
        if odd := [name for name, tensor in tensors.items() if not tensor.is_floating_point()]:
            raise ValueError(f"{odd[0]!r} holds {tensors[odd[0]].dtype}, expected floats")
        return about, finite({name: tensor.float() for name, tensor in tensors.items()})


def _generator(tensors: dict[str, torch.Tensor], threat: Threat) -> PerturbationGenerator:
    """The network with these weights; nothing is allocated before all shapes fit together."""
    width = len(tensors["down.0.bias"])
    with torch.device("meta"):
        net = PerturbationGenerator(threat, width)
    for name, expected in net.state_dict().items():
        if name in tensors and tensors[name].shape != expected.shape:
            raise ValueError(f"{name!r} has the shape {tuple(tensors[name].shape)}, expected {tuple(expected.shape)}")
    net.load_state_dict(tensors, assign=True)
    if not bool(tensors["up.2.weight"].any()):
        raise ValueError("the last layer is all zero: it changes nothing")
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _readable(path: Path, kind: str) -> AbstractContextManager[None]:
    return readable(path, _what(kind), _COMMANDS[kind])


def _what(kind: str) -> str:
    return kind.replace("-", " ")


def _threat(about: dict[str, Any]) -> Threat:
    """The threat of the training; raises `ValueError` for what is none."""
    try:
        return Threat(about["norm"], float(about["eps"]))
    except BadParameter as error:
        raise ValueError(f"the header's threat: {error}") from error
