"""The naive attack: made for the undefended metric, and only then shown to the defence."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..bench.api import DefendedMetric, Threat
from ..bench.build import load_attack, load_defense
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .base import Attack, Candidate


@register_attack("naive", parts={"attack": "attack"})
class Naive(Attack):
    """Another attack, run on the undefended metric: what a defence looks like when the attack does not know of it.

    Most published evaluations of empirical defences are of this kind. It is no worst case (Carlini & Wagner, AISec
    2017, arXiv 1705.07263; Athalye et al., ICML 2018, arXiv 1802.00420); it is here to be set beside one, and the
    difference is what is lost to an attacker who knows the defence.

    Args:
        attack: plug-in string of the attack that runs on the undefended metric.
    """

    white_box = False

    def __init__(self, attack: str = "apgd[steps=100]") -> None:
        inner = load_attack(attack)
        if not isinstance(inner, Attack) or isinstance(inner, Naive):
            raise BadParameter(f"naive[attack={attack}]: expected an attack derived from `Attack`, such as apgd")
        self.norms, self.queries, self._inner = inner.norms, inner.queries, inner

    def skip(self, g: DefendedMetric, threat: Threat) -> str | None:
        """Why the inner attack cannot run on the undefended metric, or None."""
        return self._inner.skip(load_defense("none", g.metric), threat)

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """What the inner attack finds; the defence is not asked."""
        bare = objective.of(load_defense("none", objective.g.metric)).salted(self._inner.salt(threat))
        yield Candidate(self._inner.find(bare, x, threat))
