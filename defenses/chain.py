"""Several purifications, one after the other, in front of the metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from ..bench.api import Metric
from ..bench.build import load_defense
from ..bench.errors import BadImage, BadParameter
from ..bench.registry import register_defense
from ..bench.seeds import Streams
from ..bench.spec import parse_list
from .base import Transform, check_draws

T = TypeVar("T")


class Chain(Transform):
    """Transforms one after the other; see `chain`.

    Args:
        metric: the metric inside.
        steps: at least one, in order.
        m: draws of the whole chain averaged in a deployed score.
    """

    def __init__(self, metric: Metric, steps: Sequence[Transform], m: int = 1) -> None:
        super().__init__(metric)
        self.steps = list(steps)
        # Steps may hold networks, which `to(device)` has to find.
        self.networks = nn.ModuleList(steps)
        self.randomised = any(step.randomised for step in steps)
        self.smooth = all(step.smooth for step in steps)
        self.differentiable = all(step.differentiable for step in steps)
        check_draws(f"chain[m={m}]", m)
        if m > 1 and not self.randomised:
            raise BadParameter(f"chain[m={m}]: expected 1 where no step is random")
        self.cost = m

    def step(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """One draw of every step, in order."""
        return self._through(x, lambda step, y: step.step(y, rng))

    def step_surrogate(self, x: torch.Tensor, rng: Streams) -> torch.Tensor:
        """The steps' differentiable views, one through the other."""
        return self._through(x, lambda step, y: step.step_surrogate(y, rng))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """What the last step leaves; raises `BadImage` where a step says that it gets too small an image."""
        return self._through((height, width), lambda step, size: step.output_size(*size))

    def surrogates(self) -> Sequence[Chain]:
        """Itself; then, while a step knows more gradients, all steps with their next one, or the first if none is left.

        Not every combination: k steps with two gradients each would make 2^k views, and an attack follows each.
        """
        views = [[view for view in step.surrogates() if isinstance(view, Transform)] for step in self.steps]
        found: list[Chain] = [self]
        for i in range(1, max(map(len, views))):
            other = Chain(self.metric, [known[i] if i < len(known) else known[0] for known in views], self.cost)
            other.spec = self.spec
            found.append(other)
        return found

    def _through(self, value: T, apply: Callable[[Transform, T], T]) -> T:
        for number, step in enumerate(self.steps, 1):
            try:
                value = apply(step, value)
            except BadImage as error:
                raise BadImage(f"step {number} of a chain, {step.spec!r}: {error}") from error
        return value


@register_defense("chain", parts={"steps": "defense"})
def chain(metric: Metric, steps: str = "diffusion-purification;unsharp", m: int = 1) -> Chain:
    """Purifications one after the other; a mean over m draws if one of them is random, else deterministic.

    Raff et al., "Barrage of Random Transforms for Adversarially Robust Defense", CVPR 2019, chain weak random
    transforms, and draw also which ones and their order; here both are given. Each step hands its exact image to the
    next one and gradients go back through all of them; random steps take their numbers from the same streams, in the
    order of the chain.

    Args:
        steps: plug-in strings with `;` between them: purifications, random or not, and other chains. The default left
            the best images of the sixteen purifiers in arXiv 2404.06957.
        m: draws of the whole chain averaged in a deployed score; 1 where no step is random. A step has none of its own.

    The metric sees what the last step leaves.
    """
    parts = parse_list(steps)
    if not all(parts):
        raise BadParameter(f"chain[steps={steps}]: expected plug-in strings with ; between them, such as "
                           "jpeg[quality=70];gaussian-blur")  # fmt: skip
    return Chain(metric, [_step(part, metric) for part in parts], m)


def _step(text: str, metric: Metric) -> Transform:
    """The transform of a plug-in string; raises `BadParameter` for a defence that is none, or averages by itself."""
    step = load_defense(text, metric)
    if not isinstance(step, Transform):
        raise BadParameter(f"chain[steps={text}]: expected purifications, which hand on an image; this defence only "
                           "gives a score")  # fmt: skip
    if step.cost != 1:
        raise BadParameter(f"chain[steps={text}]: expected a step of one draw; give the draws to the chain: "
                           f"chain[steps=...,m={step.cost}]")  # fmt: skip
    return step
