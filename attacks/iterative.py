"""The iterative fast gradient sign family: plain, momentum, Nesterov, diverse inputs, variance tuning."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from ..bench.seeds import Streams
from .pgd import Pgd, State
from .projection import unit


@register_attack("i-fgsm")
class IFgsm(Pgd):
    """Signed gradient steps of eps / steps from the image itself (I-FGSM or BIM, Kurakin et al. 2017).

    Peers' defaults for quality metrics are 10 steps of 1/255 within 10/255. In l2 the steps go along the gradient.

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 1 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT); no effect on a deterministic one.
    """

    concurrent = True

    way = 1.0
    """Length of the way, in units of eps, that the default step size allows."""

    def __init__(self, steps: int = 10, step: float | None = None, draws: int = 1) -> None:
        super().__init__(steps, step)
        if draws < 1:
            raise BadParameter(f"{type(self).__name__}[draws={draws}]: expected at least 1")
        self.draws = draws
        self.step = self.way / steps if step is None else step


@register_attack("mi-fgsm")
class MiFgsm(IFgsm):
    """I-FGSM with momentum on normalised gradients (MI-FGSM, Dong et al. 2018, arXiv 1710.06081, algorithm 1).

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 1 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        momentum: weight of what was accumulated, 1 in the paper.
    """

    concurrent = True

    def __init__(self, steps: int = 10, step: float | None = None, draws: int = 1, momentum: float = 1.0) -> None:
        super().__init__(steps, step, draws)
        if not momentum >= 0:
            raise BadParameter(f"{type(self).__name__}[momentum={momentum}]: expected a number >= 0")
        self.momentum = momentum

    def _scaled(self, gradient: torch.Tensor) -> torch.Tensor:
        return mean_one(gradient)


@register_attack("ni-fgsm")
class NiFgsm(MiFgsm):
    """MI-FGSM whose gradient is taken where the momentum leads (NI-FGSM, Lin et al. 2020, arXiv 1908.06281)."""

    concurrent = True

    def _gradient(self, objective: Objective, z: torch.Tensor, state: State) -> tuple[None, torch.Tensor]:
        # The unit of `velocity` is a mean absolute value of 1; in l2 the jump is as long as a step.
        ahead = state.velocity if state.threat.norm == "linf" else unit(state.velocity, "l2")
        there = (z + self.step * state.threat.eps * self.momentum * ahead).clamp(0.0, 1.0)
        return None, objective.gradient(there, self.draws)[1]


@register_attack("di-fgsm")
class DiFgsm(MiFgsm):
    """MI-FGSM on randomly shrunk and padded copies (M-DI2-FGSM, Xie et al. 2019, arXiv 1803.06978).

    The copy keeps the size of the image: shrunk to a random size of at least `shrink` and padded at a random place, as
    the variants for fixed input sizes do (the paper enlarges 299 pixels to 330).

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 1 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        momentum: weight of what was accumulated.
        chance: probability of a changed copy.
        shrink: smallest size of the copy, as a fraction of the image.
    """

    concurrent = True

    def __init__(
        self,
        steps: int = 10,
        step: float | None = None,
        draws: int = 1,
        momentum: float = 1.0,
        chance: float = 0.5,
        shrink: float = 0.9,
    ) -> None:
        super().__init__(steps, step, draws, momentum)
        if not (0 <= chance <= 1 and 0 < shrink <= 1):
            raise BadParameter(f"di-fgsm[chance={chance},shrink={shrink}]: expected 0 <= chance <= 1, 0 < shrink <= 1")
        self.chance, self.shrink = chance, shrink

    def _gradient(self, objective: Objective, z: torch.Tensor, state: State) -> tuple[None, torch.Tensor]:
        numbers = objective.search_streams.numbers(4).tolist()

        def render(images: torch.Tensor) -> torch.Tensor:
            return torch.stack([self._copy(image, *four) for image, four in zip(images, numbers, strict=True)])

        return None, objective.gradient(z, self.draws, render=render)[1]

    def _copy(self, image: torch.Tensor, coin: float, size: float, top: float, left: float) -> torch.Tensor:
        if coin >= self.chance:
            return image
        height, width = image.shape[1:]
        factor = self.shrink + (1 - self.shrink) * size
        h, w = max(1, round(factor * height)), max(1, round(factor * width))
        small = F.interpolate(image[None], (h, w), mode="bilinear", align_corners=False)[0]
        up, before = int(top * (height - h + 1)), int(left * (width - w + 1))
        return F.pad(small, (before, width - w - before, up, height - h - up))


@register_attack("vmi-fgsm")
class VmiFgsm(MiFgsm):
    """MI-FGSM with variance tuning (VMI-FGSM, Wang and He 2021, arXiv 2103.15571).

    Each gradient is corrected by how far the gradients around the last point were from its own.

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 1 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        momentum: weight of what was accumulated.
        neighbours: points in the neighbourhood, 20 in the paper.
        reach: size of the neighbourhood in units of eps, 1.5 in the paper.
    """

    concurrent = True

    def __init__(
        self,
        steps: int = 10,
        step: float | None = None,
        draws: int = 1,
        momentum: float = 1.0,
        neighbours: int = 5,
        reach: float = 1.5,
    ) -> None:
        super().__init__(steps, step, draws, momentum)
        if neighbours < 1 or not reach > 0:
            raise BadParameter(f"vmi-fgsm[neighbours={neighbours},reach={reach}]: expected positive numbers")
        self.neighbours, self.reach = neighbours, reach

    def _gradient(self, objective: Objective, z: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = objective.gradient(z, self.draws)
        tuned = gradient + state.variance  # of the last step; the first has none
        around = torch.zeros_like(z)
        for _ in range(self.neighbours):
            offset = self.reach * state.threat.eps * _offset(z, state.threat, objective.search_streams)
            around += objective.gradient((z + offset).clamp(0.0, 1.0), self.draws)[1] / self.neighbours
        state.variance = around - gradient
        return value, tuned


def mean_one(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient divided by its mean absolute value, per image; zero stays zero."""
    return gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)


def _offset(z: torch.Tensor, threat: Threat, rng: Streams) -> torch.Tensor:
    """Uniform in the cube for linf, a random direction of length 1 for l2."""
    return rng.uniform(z) if threat.norm == "linf" else unit(rng.normal(z, 1)[0], "l2")
