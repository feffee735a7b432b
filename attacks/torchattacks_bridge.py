"""The published torchattacks implementations, run on a score: a cross-check of ours.

torchattacks assumes a classifier. The two-logit view [0, s f + 200] with label 0 makes its cross-entropy ascent equal
to ascent on s f: log(1 + exp(z)) = z to the last bit of float32 once z is far in the linear part.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..bench.api import DefendedMetric, Threat
from ..bench.errors import BadParameter, BadPlugin, BadScore
from ..bench.objective import Objective
from ..bench.registry import register_attack
from ..bench.seeds import derive_seed
from .base import Attack, Candidate

INSTALL = "pip install --no-deps torchattacks==3.5.1"
SHIFT = 200.0
"""Added to the score's logit; the scores have to stay well above -SHIFT."""


class _ContiguousGradient(torch.autograd.Function):
    """Identity with a contiguous gradient: torchattacks calls `view` on it, which fails for channels-last networks."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0].contiguous()


class TwoLogit(nn.Module):
    """The oriented score as the second of two logits."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self._objective = objective
        # torchattacks asks the model's parameters for its device.
        self._device = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,2) logits."""
        score = self._objective.differentiable(_ContiguousGradient.apply(x))
        if not bool((score > 20.0 - SHIFT).all()):
            raise BadScore(f"torchattacks bridge: scores down to {float(score.min()):.4g} leave the linear part of its "
                           f"two-logit view (above {20 - SHIFT:g}): use pgd instead")  # fmt: skip
        return torch.stack([torch.zeros_like(score), score + SHIFT], dim=1)


class _Bridge(Attack):
    """Common part: build a torchattacks attack around the two-logit view and run it once."""

    def __init__(self, steps: int = 10, step: float | None = None, random_start: bool = True) -> None:
        if steps < 1 or (step is not None and step <= 0):
            raise BadParameter(f"{type(self).__name__}[steps={steps},step={step}]: expected positive numbers")
        self.steps, self.random_start = steps, random_start
        self.step = 2.5 / steps if step is None else step

    def _build(self, torchattacks: Any, model: nn.Module, threat: Threat) -> Any:
        raise NotImplementedError

    def skip(self, g: DefendedMetric, threat: Threat) -> str | None:
        """As for every attack; and torchattacks, which is optional, has to be installed."""
        if importlib.util.find_spec("torchattacks") is None:
            return f"{self.spec!r} needs torchattacks: {INSTALL}"
        return super().skip(g, threat)

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """What torchattacks returns, its last iterate, image by image.

        Its random start comes from the global generator, which knows nothing of images: in a batch, one image's start
        would depend on the others.
        """
        try:
            import torchattacks
        except ImportError as error:
            raise BadPlugin(f"torchattacks cannot be imported ({error}): {INSTALL}") from error
        yield Candidate(torch.cat([self._one(torchattacks, objective, i, x[i : i + 1], threat) for i in range(len(x))]))

    def _one(self, torchattacks: Any, objective: Objective, i: int, x: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Attack image i, (1,3,H,W), and add its passes to the objective's counts."""
        alone = objective.only(i)
        model = TwoLogit(alone).to(x.device)
        attack = self._build(torchattacks, model, threat)
        label = torch.zeros(1, dtype=torch.long, device=x.device)
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            torch.random.manual_seed(derive_seed(objective.seed, self.spec, objective.keys[i]))
            result = attack(x, label)
        if model.training:
            raise BadPlugin("torchattacks left the metric in train mode: scores may have drifted; use version 3.5.1")
        objective.charge(alone, i)
        return result.detach()


@register_attack("torchattacks-pgd")
class TorchattacksPgd(_Bridge):
    """`torchattacks.PGD` (linf): signed steps from a random start, last iterate.

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 2.5 / steps.
        random_start: as in torchattacks.
    """

    norms = ("linf",)

    def _build(self, torchattacks: Any, model: nn.Module, threat: Threat) -> Any:
        alpha = self.step * threat.eps
        return torchattacks.PGD(model, threat.eps, alpha, self.steps, random_start=self.random_start)


@register_attack("torchattacks-pgdl2")
class TorchattacksPgdL2(_Bridge):
    """`torchattacks.PGDL2`: normalised steps from a random start, last iterate.

    Args:
        steps: gradient steps.
        step: step size as a fraction of eps; none for 2.5 / steps.
        random_start: as in torchattacks.
    """

    norms = ("l2",)

    def _build(self, torchattacks: Any, model: nn.Module, threat: Threat) -> Any:
        alpha = self.step * threat.eps
        return torchattacks.PGDL2(model, threat.eps, alpha, self.steps, random_start=self.random_start)
