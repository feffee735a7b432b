"""Attacks that pay for what can be seen: SSIM, low frequencies, smooth regions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from ..bench.api import DefendedMetric, Threat
from ..bench.errors import Absent, BadParameter
from ..bench.metrics.pyiqa_adapter import Difference
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Attack, Candidate
from .pgd import Pgd, State
from .projection import project, unit


class _Penalised(Pgd):
    """PGD on the score, in shares of the metric's declared range, minus a weighted visible difference."""

    def __init__(self, steps: int, step: float | None, draws: int, weight: float) -> None:
        super().__init__(steps, step)
        if draws < 1 or not weight >= 0:
            raise BadParameter(
                f"{type(self).__name__}[draws={draws},weight={weight}]: expected draws >= 1, weight >= 0"
            )
        self.draws, self.weight = draws, weight

    @abstractmethod
    def difference(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Visible difference (B,) of images z to x, 0 where they are equal; differentiable in z."""

    def _gradient(self, objective: Objective, z: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = objective.gradient(z, self.draws)
        leaf = z.detach().clone().requires_grad_(True)
        (seen,) = torch.autograd.grad(self.difference(leaf, state.x).sum(), leaf)
        # LPIPS takes a root that is 0 where all features of a place are: no slope there, rather than NaN.
        seen = torch.where(torch.isfinite(seen), seen, torch.zeros_like(seen))
        return value, gradient - self.weight * objective.g.metric.span * seen


@register_attack("zhang-ssim")
class ZhangSsim(_Penalised):
    """Score minus a multiple of 1 - SSIM (Zhang et al., NeurIPS 2022, arXiv 2210.00933), within the threat's ball.

    The authors take 200 steps and a grid of multipliers; LPIPS and DISTS are `zhang-lpips` and `zhang-dists`. The best
    score of all points counts, so the penalty decides the path and not the choice.

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 2.5 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        weight: multiplier of 1 - SSIM, in shares of the metric's declared range.
    """

    def __init__(self, steps: int = 50, step: float | None = None, draws: int = 1, weight: float = 1.0) -> None:
        super().__init__(steps, step, draws, weight)

    def difference(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """1 - SSIM of the luma."""
        return 1 - ssim(luma(z), luma(x))


class _Zhang(_Penalised):
    """Score minus a multiple of a full-reference measure of pyiqa, loaded when it is first needed."""

    measure: str

    def __init__(self, steps: int = 50, step: float | None = None, draws: int = 1, weight: float = 1.0) -> None:
        super().__init__(steps, step, draws, weight)
        self._net: Difference | None = None

    def skip(self, g: DefendedMetric, threat: Threat) -> str | None:
        """As for every attack; and pyiqa with the weights of the measure, which are optional, have to be here."""
        reason = super().skip(g, threat)
        if reason:
            return reason
        try:
            self._net = self._net or Difference(self.measure)
        except Absent as error:
            return f"{self.spec!r}: {error}"
        return None

    def difference(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The measure, on the device of the images."""
        self._net = (self._net or Difference(self.measure)).to(x.device)
        return self._net(z, x)


@register_attack("zhang-lpips", packages=("pyiqa", "torchvision"))
class ZhangLpips(_Zhang):
    """Score minus a multiple of LPIPS (Zhang et al., NeurIPS 2022, arXiv 2210.00933), within the threat's ball.

    As `zhang-ssim`, with the distance of AlexNet's features (Zhang et al. 2018, arXiv 1801.03924) from pyiqa, which is
    optional: `pip install 'robustiqa[pyiqa]'`.

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 2.5 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        weight: multiplier of LPIPS, in shares of the metric's declared range.
    """

    measure = "lpips"


@register_attack("zhang-dists", packages=("pyiqa", "torchvision"))
class ZhangDists(_Zhang):
    """Score minus a multiple of DISTS (Zhang et al., NeurIPS 2022, arXiv 2210.00933), within the threat's ball.

    As `zhang-ssim`, with structure and texture of VGG's features (Ding et al. 2020, arXiv 2004.07728) from pyiqa, which
    is optional: `pip install 'robustiqa[pyiqa]'`.

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 2.5 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        weight: multiplier of DISTS, in shares of the metric's declared range.
    """

    measure = "dists"


@register_attack("ssah")
class Ssah(_Penalised):
    """Score minus a multiple of the change of the low frequencies (after SSAH, Luo et al. 2022, arXiv 2203.05151).

    Of SSAH's two parts the frequency constraint is meant (its semantic part needs a classifier): smooth l1 between the
    low-pass bands of one Haar level, as peers run it on quality metrics.

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 2.5 / steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
        weight: multiplier of the mean smooth l1 difference in grey levels, in shares of the metric's declared range.
    """

    def __init__(self, steps: int = 20, step: float | None = None, draws: int = 1, weight: float = 0.1) -> None:
        super().__init__(steps, step, draws, weight)

    def difference(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Mean smooth l1 distance of the low-pass bands, in grey levels."""
        low, base = (255 * F.avg_pool2d(v, 2, ceil_mode=True) for v in (z, x))
        return F.smooth_l1_loss(low, base, reduction="none").mean((1, 2, 3))


@register_attack("ioi")
class Ioi(Attack):
    """One signed step, kept only in high frequencies and busy regions (IOI, Shumitskaya et al. 2024, arXiv 2403.05955).

    The perturbation of one step is freed of the image's strongest frequencies, then multiplied by a map of the local
    standard deviation (3x3, its square root, divided by its maximum, 0 where it is below 0.01).

    Args:
        keep: share of the image's FFT coefficients, the largest of each channel, that count as low frequencies.
        draws: draws averaged in the gradient of a randomised defence (EOT).
    """

    def __init__(self, keep: float = 0.07, draws: int = 1) -> None:
        if not 0 <= keep < 1 or draws < 1:
            raise BadParameter(f"ioi[keep={keep},draws={draws}]: expected 0 <= keep < 1 and draws >= 1")
        self.keep, self.draws = keep, draws

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The single step."""
        _, gradient = objective.gradient(x, self.draws)
        delta = masked(threat.eps * gradient.sign(), x, self.keep)
        if threat.norm == "l2":  # the whole budget for what is left of the step
            delta = threat.eps * unit(delta, "l2")
        yield Candidate(project(x + delta, x, threat))


def masked(delta: torch.Tensor, x: torch.Tensor, keep: float) -> torch.Tensor:
    """What is left of a perturbation (B,3,H,W) of images x outside their strongest frequencies and smooth regions."""
    spectrum = torch.fft.fft2(x)
    strength = spectrum.abs().flatten(2)
    count = round(keep * strength.shape[2])
    high = torch.fft.fft2(delta)
    if count:
        least = strength.topk(count, dim=2).values[..., -1:]
        # A coefficient and its conjugate are equally strong, but for rounding: both go, or the rest would not be real.
        high = high * (strength < least * (1 - 1e-4)).view_as(x)
    return busyness(x) * torch.fft.ifft2(high).real


def busyness(x: torch.Tensor) -> torch.Tensor:
    """(B,1,H,W) in [0,1]: root of the local standard deviation of the luma in 3x3 windows, over its maximum."""
    padded = F.pad(luma(x), (1, 1, 1, 1), mode="replicate")
    mean, square = F.avg_pool2d(padded, 3, stride=1), F.avg_pool2d(padded.square(), 3, stride=1)
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    deviation = torch.where(deviation < 0.01, torch.zeros_like(deviation), deviation)
    return (deviation / deviation.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)).sqrt()


def luma(x: torch.Tensor) -> torch.Tensor:
    """(B,3,H,W) to (B,1,H,W), weights of BT.601."""
    return (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Structural similarity (B,) of (B,1,H,W) in [0,1] (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5.

    Images smaller than the window take the largest odd window that fits.
    """
    size = min(11, *(side - 1 + side % 2 for side in a.shape[2:]))
    line = torch.exp(-0.5 * ((torch.arange(size, device=a.device) - size // 2) / 1.5).square()).to(a)
    window = (line[:, None] * line[None] / line.sum().square())[None, None]
    mean_a, mean_b = F.conv2d(a, window), F.conv2d(b, window)
    var_a = F.conv2d(a * a, window) - mean_a.square()
    var_b = F.conv2d(b * b, window) - mean_b.square()
    both = F.conv2d(a * b, window) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return (similarity / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))).mean((1, 2, 3))
