"""Transfer: what works on metrics that the attacker has, tried on one that he has not."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..bench.api import DefendedMetric, Threat
from ..bench.build import load_defense
from ..bench.errors import BadParameter
from ..bench.metrics import load_metric
from ..bench.objective import Objective
from ..bench.registry import SELF, register_attack, registry
from ..bench.spec import parse_list
from .base import Candidate
from .iterative import MiFgsm
from .pgd import State
from .projection import unit


@register_attack("transfer", parts={"source": "metric"})
class Transfer(MiFgsm):
    """MI-FGSM on other metrics: the attacked one is never asked, neither for scores nor for gradients.

    With several sources each gives its steepest-ascent direction, of the same length, so that no scale has to be known
    (the signed ensemble of SEGA, arXiv 2509.18546, without its filters). `source=self` is the attacked metric without
    its defence: where that beats the attack through the defence, the defence hides its gradient.

    Args:
        source: `self`, or metrics as plug-in strings with `;` between them.
        steps: gradient steps.
        step: step size as a fraction of eps; none for 1 / steps.
        momentum: weight of what was accumulated.
    """

    white_box = False

    def __init__(self, source: str = SELF, steps: int = 20, step: float | None = None, momentum: float = 1.0) -> None:
        super().__init__(steps, step, momentum=momentum)
        self.sources = parse_list(source)
        if not all(self.sources):
            raise BadParameter(f"transfer[source={source}]: expected self, or metrics with ; between them")
        for name in self.sources:
            if name != SELF:  # an unknown one is told now, not image by image
                registry.resolve("metric", name)
        self._loaded: dict[tuple[str, str], DefendedMetric] = {}

    def skip(self, g: DefendedMetric, threat: Threat) -> str | None:
        """As for every attack; and the attacked metric needs a gradient where it is a source."""
        if SELF in self.sources and not g.metric.differentiable:
            return f"attack {self.spec!r} needs gradients, which metric {g.metric.spec!r} does not give: name a source"
        return super().skip(g, threat)

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The last point: choosing between points would ask the attacked metric."""
        *_, last = self._ascend(objective, x, x, threat)
        yield last

    def _gradient(self, objective: Objective, z: torch.Tensor, state: State) -> tuple[None, torch.Tensor]:
        directions = [
            unit(objective.of(self._source(name, objective.g, z.device)).gradient(z, self.draws)[1], state.threat.norm)
            for name in self.sources
        ]
        return None, torch.stack(directions).mean(0)

    def _source(self, name: str, g: DefendedMetric, device: torch.device) -> DefendedMetric:
        if name == SELF:
            return load_defense("none", g.metric)
        if (name, str(device)) not in self._loaded:
            self._loaded[name, str(device)] = load_defense("none", load_metric(name, str(device)))
        return self._loaded[name, str(device)]
