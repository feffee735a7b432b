"""Attacks whose result still works after it has been saved as a JPEG file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.jpeg import Surrogate, check_jpeg, compress, compress_surrogate
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Candidate
from .pgd import Pgd, State


@register_attack("jpeg-pgd")
class JpegPgd(Pgd):
    """PGD on the score that is left after JPEG compression, the mean over several qualities (Shin and Song 2017).

    Every point is judged as Pillow's files of these qualities are scored (4:2:0); the gradient runs through a surrogate
    of the compression (BPDA). The result is the image before compression, and is itself within the budget. Shin and
    Song attack an ensemble of qualities through a codec with a smooth rounding, of which kornia's is one (Reich et al.
    2024, arXiv 2309.06978, compare such codecs), and not judged by real files as here.

    Args:
        steps: gradient steps a restart; each costs a forward and a backward for each quality.
        step: step size as a fraction of eps; none for 2.5 / steps.
        restarts: the first starts at the image itself, the others at random points of the ball.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        qualities: of the files, 1 to 95, with `+` between them.
        surrogate: diffjpeg: gradient of kornia's differentiable JPEG; identity: that of no compression.
    """

    def __init__(
        self,
        steps: int = 20,
        step: float | None = None,
        restarts: int = 1,
        draws: int = 8,
        qualities: str = "50+75+90",
        surrogate: Surrogate = "diffjpeg",
    ) -> None:
        super().__init__(steps, step, restarts)
        if draws < 1:
            raise BadParameter(f"jpeg-pgd[draws={draws}]: expected at least 1")
        try:
            self.qualities = [int(part) for part in qualities.split("+")]
        except ValueError as error:
            raise BadParameter(
                f"jpeg-pgd[qualities={qualities}]: expected whole numbers with + between them"
            ) from error
        for quality in self.qualities:
            check_jpeg("jpeg-pgd", quality, surrogate)
        self.draws = draws
        self.surrogate: Surrogate = surrogate

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """Each point with the value of its compressed versions, on the selection stream where that has to be drawn."""
        for candidate in super().candidates(objective, x, threat):
            value = candidate.value
            if value is None:
                files = [compress(candidate.x, quality) for quality in self.qualities]
                value = torch.stack([objective.select(file, self.selection_draws) for file in files]).mean(0)
            yield Candidate(candidate.x, value)

    def _gradient(self, objective: Objective, z: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        files = [partial(compress_surrogate, quality=q, surrogate=self.surrogate) for q in self.qualities]
        values, gradients = zip(*(objective.gradient(z, self.draws, render=file) for file in files), strict=True)
        return torch.stack(values).mean(0), torch.stack(gradients).mean(0)
