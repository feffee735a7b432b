"""`auto-iqa`: the standard worst case, a fixed set of attacks without parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..bench.api import DefendedMetric, Threat
from ..bench.errors import BadImage, BadScore, Incompatible
from ..bench.objective import Objective
from ..bench.registry import register_attack
from .apgd import Apgd
from .base import Attack, Candidate, range_end
from .eot import EotPgd
from .naive import Naive
from .pgd import Pgd
from .quantised import QuantisedPgd
from .square import Square
from .surrogates import SurrogatePgd
from .transfer import Transfer

END = 1e-4
"""Share of a bounded metric's range that counts as its end."""


def members(g: DefendedMetric) -> list[Attack]:
    """The attacks of version 2, in the order in which they run, for a defence.

    Version 1 took 20 steps on randomised defences, where 100 gain up to twice as much: they gained rank by the steps.
    """
    named: dict[str, Attack] = (
        {
            "eot-pgd": EotPgd(steps=100, draws=8),
            "apgd-eot": Apgd(steps=100, draws=8),
            "apgd-kernel": Apgd(steps=50, draws=8, centre="kernel"),
            "naive": Naive(),
            "transfer": Transfer(steps=20),
            "quantised": QuantisedPgd(steps=20, draws=8),
        }
        if g.randomised
        else {
            "apgd": Apgd(steps=100),
            "apgd-random": Apgd(steps=100, start="random"),
            "pgd": Pgd(steps=100),
            "momentum": EotPgd(steps=100),
            "naive": Naive(),
            "transfer": Transfer(steps=20),
            "quantised": QuantisedPgd(steps=20),
            "square": Square(queries=1000),
        }
    )
    views = len(g.surrogates())
    if views > 1:
        # Many gradients are declared where no single one leads far, such as those of an ensemble's majorities.
        named["surrogates"] = SurrogatePgd(steps=50 if views == 2 else 100, momentum=0.75)
    for name, attack in named.items():
        attack.spec = f"auto-iqa/{name}"
    return list(named.values())


@register_attack("auto-iqa", version=2)
class AutoIqa(Attack):
    """The standard worst case of the board: several attacks without parameters, and per image the best of them.

    On a deterministic defence, in this order: APGD; APGD from a random point; PGD, without and with momentum; APGD and
    MI-FGSM on the undefended metric, which no defence can mislead; quantisation-aware PGD; Square, which needs no
    gradient.

    On a randomised one: PGD with EOT; APGD with EOT; APGD with draws weighted around their median; APGD and MI-FGSM on
    the undefended metric; quantisation-aware PGD. Square is left out where these climb: an answer costs m forwards, and
    within a budget like that of the others it found no more than random noise. Where no gradient leads upwards, or the
    metric has none, Square comes last with 200 queries.
    Where a defence declares several surrogate gradients, PGD along each and along their mean comes last.

    A later member runs only where the earlier ones have left room: not on images whose score stands at the end of a
    range that the metric promises never to leave. A range that is merely declared is no end: scores go beyond it.
    """

    concurrent = True

    white_box = False

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The clean image, then the best image of each member where it ran."""
        clean = objective.select(x, self.selection_draws)
        yield Candidate(x, clean)
        climbed = torch.zeros(len(x), dtype=torch.bool)
        everywhere = list(range(len(x)))
        for member, candidate in self._run(members(objective.g), objective, x, threat, everywhere):
            if member.white_box and candidate.value is not None:
                climbed |= candidate.value > clean
            yield candidate
        if objective.g.randomised and not bool(climbed.all()):
            alone = Square(queries=200)
            alone.spec = "auto-iqa/square"
            stuck = [i for i in everywhere if not bool(climbed[i])]
            for _, candidate in self._run([alone], objective, x, threat, stuck):
                yield candidate

    def _run(
        self, attacks: list[Attack], objective: Objective, x: torch.Tensor, threat: Threat, left: list[int]
    ) -> Iterator[tuple[Attack, Candidate]]:
        """What each attack finds on the images `left`, as long as there is room."""
        room = [_room(objective.g, sign) for sign in objective.signs.tolist()]
        for member in attacks:
            if not left or member.skip(objective.g, threat) is not None:
                continue
            found = x.clone()
            try:
                with objective.counted_unless(BadImage, BadScore):
                    found[left] = _find(member, objective, x, threat, left)
            except Incompatible:  # scores that turn out to have no gradient
                continue
            except (BadImage, BadScore):
                if not isinstance(member, Transfer | Naive):
                    raise
                # Only the defence makes some of these images fit for the metric; which, their neighbours do not decide.
                for i in left:
                    with contextlib.suppress(BadImage, BadScore):
                        found[[i]] = _find(member, objective, x, threat, [i])
            value = torch.full((len(x),), -torch.inf, dtype=torch.float64)
            value[left] = objective.part(left).select(found[left], self.selection_draws)
            yield member, Candidate(found, value)
            left = [i for i in left if float(value[i]) < room[i]]


def _find(member: Attack, objective: Objective, x: torch.Tensor, threat: Threat, index: list[int]) -> torch.Tensor:
    """What a member finds on some of the images x (B,3,H,W)."""
    part = objective.part(index).salted(member.salt(threat))
    part.limit = member.queries
    return member.find(part, x[index], threat)


def _room(g: DefendedMetric, sign: float) -> float:
    """The oriented score beyond which nothing is left to gain: the end of a range that is promised to hold."""
    if g.metric.score_range is None or not g.metric.bounded:
        return float("inf")
    return range_end(g, sign) - END * g.metric.span
