"""Attacks that move something else than pixels: a flow, a colour curve."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Attack, Candidate


class Rendered(Attack):
    """Adam on parameters of which an image is made; zeros give the image itself.

    After each step the parameters are shrunk towards zero until the image lies within the budget (bisection), so that
    the result is still of the attack's kind: it is never clipped back by value.

    Args:
        steps: gradient steps.
        rate: Adam's rate, in the unit of the parameters.
        draws: draws averaged in the gradient of a randomised defence (EOT).
    """

    def __init__(self, steps: int, rate: float, draws: int) -> None:
        if min(steps, draws) < 1 or not rate > 0:
            name = type(self).__name__
            raise BadParameter(f"{name}[steps={steps},rate={rate},draws={draws}]: expected positive numbers")
        self.steps, self.rate, self.draws = steps, rate, draws

    @abstractmethod
    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Parameters (B,...) of the images themselves: zeros."""

    @abstractmethod
    def render(self, x: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Images (B,3,H,W) in [0,1]."""

    def penalty(self, parameters: torch.Tensor) -> torch.Tensor:
        """What the search avoids, (B,), in shares of the metric's declared range; here nothing."""
        return parameters.new_zeros(len(parameters))

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """Every point on a deterministic defence, the one half way and the last on a randomised one."""
        parameters = self.start(x)
        first, second = torch.zeros_like(parameters), torch.zeros_like(parameters)
        for t in range(1, self.steps + 1):
            _, gradient = objective.gradient(parameters, self.draws, render=lambda p: self.render(x, p))
            leaf = parameters.detach().requires_grad_(True)
            penalty = self.penalty(leaf).sum()
            if penalty.requires_grad:
                gradient = gradient - objective.g.metric.span * torch.autograd.grad(penalty, leaf)[0]
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            step = first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-12)
            parameters = self._inside(x, parameters + self.rate * step, threat)
            if not objective.g.randomised or t in (self.steps // 2, self.steps):
                yield Candidate(self.render(x, parameters))

    def _inside(self, x: torch.Tensor, parameters: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Parameters shrunk, image by image, by the largest factor found whose image is within the budget."""
        view = (-1, *[1] * (parameters.ndim - 1))
        low, high = torch.zeros(len(x), device=x.device), torch.ones(len(x), device=x.device)
        for k in range(10):
            factor = high if k == 0 else (low + high) / 2
            delta = (self.render(x, parameters * factor.view(view)) - x).flatten(1)
            size = delta.abs().amax(1) if threat.norm == "linf" else delta.norm(dim=1)
            low, high = torch.where(size <= threat.eps, factor, low), torch.where(size <= threat.eps, high, factor)
        return parameters * low.view(view)


@register_attack("stadv")
class StAdv(Rendered):
    """Spatially transformed images (stAdv, Xiao et al. 2018, arXiv 1801.02612): a smooth flow moves the pixels.

    The paper minimises with L-BFGS; here Adam moves the flow, and the budget bounds the image that it makes.

    Args:
        steps: gradient steps.
        rate: Adam's rate in pixels.
        smooth: weight of the flow's roughness (the paper's tau, 0.05), per pixel.
        draws: draws averaged in the gradient of a randomised defence (EOT).
    """

    def __init__(self, steps: int = 30, rate: float = 0.05, smooth: float = 0.05, draws: int = 1) -> None:
        super().__init__(steps, rate, draws)
        if not smooth >= 0:
            raise BadParameter(f"stadv[smooth={smooth}]: expected a number >= 0")
        self.smooth = smooth

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """A flow (B,2,H,W) in pixels, right and down."""
        return torch.zeros_like(x[:, :2])

    def render(self, x: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """The image at x + flow, bilinear; beyond the border it goes on as at the border."""
        height, width = x.shape[2:]
        rows, columns = torch.meshgrid(
            torch.arange(height, device=x.device), torch.arange(width, device=x.device), indexing="ij"
        )
        across = 2 * (columns + parameters[:, 0]) / max(1, width - 1) - 1
        down = 2 * (rows + parameters[:, 1]) / max(1, height - 1) - 1
        grid = torch.stack([across, down], dim=-1)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True).clamp(0.0, 1.0)

    def penalty(self, parameters: torch.Tensor) -> torch.Tensor:
        """Mean over pixels of the length of the flow's differences to the right and below (equation 4)."""
        across = (parameters[..., 1:] - parameters[..., :-1]).square().sum(1)
        down = (parameters[..., 1:, :] - parameters[..., :-1, :]).square().sum(1)
        rough = (F.pad(across, (0, 1)) + F.pad(down, (0, 0, 0, 1)) + 1e-8).sqrt()
        return self.smooth * rough.mean((1, 2))


@register_attack("colour-curve")
class ColourCurve(Rendered):
    """A rising curve for each colour channel, the same for all pixels (adversarial colour enhancement).

    The filter of ACE (Zhao et al. 2020, arXiv 2002.01008): piecewise linear in `pieces` parts, whose slopes are
    positive and sum to a curve from 0 to 1. No pattern appears: the image is graded differently.

    Args:
        steps: gradient steps.
        rate: Adam's rate on the logarithms of the slopes.
        pieces: parts of a curve, 64 in the paper.
        draws: draws averaged in the gradient of a randomised defence (EOT).
    """

    def __init__(self, steps: int = 30, rate: float = 0.05, pieces: int = 64, draws: int = 1) -> None:
        super().__init__(steps, rate, draws)
        if pieces < 2:
            raise BadParameter(f"colour-curve[pieces={pieces}]: expected at least 2")
        self.pieces = pieces

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Logarithms of slopes (B,3,pieces)."""
        return x.new_zeros(len(x), 3, self.pieces)

    def render(self, x: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Each channel through its curve."""
        slopes = parameters.exp()
        slopes = slopes / slopes.mean(2, keepdim=True)
        # Value of the curve at the beginning of each piece, and the piece that each pixel lies in.
        begin = F.pad(slopes, (1, 0))[..., :-1].cumsum(2) / self.pieces
        flat = x.flatten(2)
        piece = (flat * self.pieces).long().clamp(0, self.pieces - 1)
        inside = flat - piece / self.pieces
        return (begin.gather(2, piece) + inside * slopes.gather(2, piece)).view_as(x).clamp(0.0, 1.0)
