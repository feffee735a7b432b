"""Adaptive PGD for randomised defences: expectation over their randomness."""

from __future__ import annotations

from ..bench.errors import BadParameter
from ..bench.objective import Centre, check_centre
from ..bench.registry import register_attack
from .pgd import Pgd


@register_attack("eot-pgd")
class EotPgd(Pgd):
    """PGD whose gradient is the mean over fresh draws of the defence (EOT, Athalye et al. 2018), with momentum.

    The gradient of an empirical median is that of a single draw; the mean of the draws has far less variance and,
    for a score distribution that moves as a whole, the same direction. Momentum averages over the steps as well.
    The best iterate is chosen on draws of its own, and scored on others. On a deterministic defence it is PGD with
    momentum.

    Args:
        steps: gradient steps a restart.
        draws: draws a step.
        step: step size as a fraction of eps; none for 2.5 / steps.
        restarts: the first starts at the image itself, the others at random points of the ball.
        momentum: weight of the past steps' directions.
        centre: mean of the draws; kernel or quantile: draws near their median, in value or in rank, count most (see
            `Objective.gradient`).
        fixed: keep the same draws in all steps (SmoothAdv, Salman et al. 2019). Their mean then is a deterministic
            function that PGD climbs far, and fresh draws share only a part of what it gains.
    """

    concurrent = True

    def __init__(
        self,
        steps: int = 10,
        draws: int = 8,
        step: float | None = None,
        restarts: int = 1,
        momentum: float = 0.75,
        centre: Centre = "mean",
        fixed: bool = False,
    ) -> None:
        super().__init__(steps, step, restarts)
        if draws < 1 or not 0 <= momentum < 1:
            name = type(self).__name__
            raise BadParameter(f"{name}[draws={draws},momentum={momentum}]: expected draws >= 1, 0 <= momentum < 1")
        check_centre(centre)
        self.draws, self.momentum, self.centre, self.fixed = draws, momentum, centre, fixed


@register_attack("fixed-noise-pgd")
class FixedNoisePgd(EotPgd):
    """PGD on noise draws that are kept in all steps (SmoothAdv, Salman et al. 2019, arXiv 1906.04584).

    The mean over the kept draws is a deterministic function, which PGD climbs far: the attack for a defence whose noise
    is known. Where the deployed score draws anew, only a part of that gain is left, and `eot-pgd` fits better. On a
    deterministic defence, such as a smoothing with one fixed draw, it is PGD.

    Args:
        steps: gradient steps a restart.
        draws: draws that are kept, 1 to 8 in the paper.
        step: step size as a fraction of eps; none for 2.5 / steps.
        restarts: the first starts at the image itself, the others at random points of the ball.
    """

    concurrent = True

    def __init__(self, steps: int = 20, draws: int = 8, step: float | None = None, restarts: int = 1) -> None:
        super().__init__(steps, draws, step, restarts, momentum=0.0, fixed=True)
