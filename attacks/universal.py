"""Attacks that were trained beforehand: at test time they ask the metric nothing."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..bench.api import Direction, Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Attack, Candidate
from .projection import project, stretched
from .stored import AUTO, METHODS, SHIPPED, read_generators, read_tiles


class _Stored(Attack):
    """One candidate, from a file; what it holds is stretched to spend the budget in the threat's norm."""

    white_box = False

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The single candidate; a metric or norm other than that which the file was trained for is warned of."""
        about, delta = self.perturbation(x, objective.direction, threat)
        trained, attacked = (about["metric"], about["norm"]), (objective.g.metric.spec, threat.norm)
        if trained != attacked:
            warnings.warn(
                f"{self.spec} was trained for the metric {trained[0]!r} in {trained[1]}, and is transferred to "
                f"{attacked[0]!r} in {attacked[1]}: robustiqa train makes one of your own",
                stacklevel=1,
            )
        yield Candidate(project(x + delta, x, threat))

    @abstractmethod
    def perturbation(
        self, x: torch.Tensor, direction: Direction, threat: Threat
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """What the file says of itself, and the perturbations (B,3,H,W) of images x."""


@register_attack("uap")
class Uap(_Stored):
    """Universal adversarial perturbation (Shumitskaya et al., BMVC 2022, arXiv 2211.00366): one for all images.

    A square tile that `robustiqa train perturbation` made is repeated over the image from its top left corner and cut
    at its borders, as the authors do. The attacked metric is never asked. On another metric or behind a defence than
    the file's this is a transfer attack; with `file=auto` that is so for every metric but `tiny-iqa`, with a warning.

    Args:
        file: safetensors file of a universal perturbation; auto for a shipped one, trained in the threat's norm.
        kind: optimised, cumulative or generative: the shipped one to take, none for optimised; with a file of one's
            own, what it has to be, none for any.
        amplitude: share of the budget that is spent. The authors train at linf .1 and apply .2, .4 and .8 of it.
    """

    def __init__(self, file: str = AUTO, kind: str | None = None, amplitude: float = 1.0) -> None:
        if not 0 < amplitude <= 1:
            raise BadParameter(f"uap[amplitude={amplitude}]: expected a share of the budget, above 0 and at most 1")
        if kind is not None and kind not in METHODS:
            raise BadParameter(f"uap[kind={kind}]: expected one of {', '.join(METHODS)}")
        self.amplitude = amplitude
        paths = {n: SHIPPED[kind or METHODS[0], n] if file == AUTO else Path(file) for n in self.norms}
        self._files = {norm: read_tiles(path) for norm, path in paths.items()}
        for (about, _), path in zip(self._files.values(), paths.values(), strict=True):
            if kind is not None and about["method"] != kind:
                raise BadParameter(f"uap[kind={kind}]: {str(path)!r} holds one of kind {about['method']!r}")

    def perturbation(
        self, x: torch.Tensor, direction: Direction, threat: Threat
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """The header and the tiled perturbation (1,3,H,W), the same for all images."""
        about, tiles = self._files[threat.norm]
        tile = tiles[direction].to(x)
        # Of a file the scale is nothing to rely on: its square could leave float32.
        return about, self.amplitude * stretched(tiled(tile / tile.abs().max(), x), threat)


@register_attack("facpa")
class Facpa(_Stored):
    """FACPA (Shumitskaya et al., Tiny Papers at ICLR 2023, arXiv 2305.15544): a network that answers with the attack.

    One forward of a small fully convolutional U-Net that `robustiqa train generator` made; the attacked metric is never
    asked. The authors' network halves the resolution eight times and begins with 64 channels, this one three times and
    with 16, so that every size works. On another metric or behind a defence than the file's this is a transfer attack;
    with `file=auto` that is so for every metric but `tiny-iqa`, with a warning.

    Args:
        file: safetensors file of a generator; auto for the shipped one that was trained in the threat's norm.
    """

    def __init__(self, file: str = AUTO) -> None:
        paths = {n: SHIPPED["facpa", n] if file == AUTO else Path(file) for n in self.norms}
        self._files = {norm: read_generators(path) for norm, path in paths.items()}

    def perturbation(
        self, x: torch.Tensor, direction: Direction, threat: Threat
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """The header and a perturbation (B,3,H,W) for each image."""
        about, nets = self._files[threat.norm]
        with torch.inference_mode():
            return about, stretched(nets[direction].to(x.device)(x), threat)


def tiled(tile: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A tile (3,S,S) repeated from the top left corner to the size of images x: (1,3,H,W)."""
    height, width = x.shape[-2:]
    down, across = -(-height // tile.shape[1]), -(-width // tile.shape[2])
    return tile.repeat(1, down, across)[None, :, :height, :width]
