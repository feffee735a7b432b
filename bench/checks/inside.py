"""Attacks inside the radius: nothing that an attack reaches at an eps may leave the certificate for that eps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..api import Certificate, DefendedMetric, Direction, Norm, Threat
from ..build import load_attack, load_defense
from ..datasets import load_dataset
from ..errors import Incompatible
from ..measures import violation_p
from ..metrics import load_metric
from .toys import SIGMA, TOYS, image_at

PHOTOGRAPHS = "photos[size=128,subset=quick]"
STRONG = 0.9
"""Share of the optimum on a linear metric below which an attack proves nothing."""

_DIRECTIONS: tuple[Direction, ...] = ("up", "down")
_BUDGETS: dict[Norm, tuple[float, ...]] = {"l2": (0.05, 0.12), "linf": (0.25 / 255, 1 / 255)}


@dataclass(frozen=True)
class Inside:
    """What attacks within eps reached of one certificate.

    Attributes:
        images: attacked images, each in both directions.
        violations: those whose attacked score left the bound: for `population` with its whole confidence interval.
        p: probability of so many if the certificate holds (`measures.violation_p`); NaN where the deployed scores have
            no finite interval by which a population bound could be judged.
        tightness: largest shift of the deployed score, clean and attacked on the same draws, over the bound's.
    """

    metric: str
    defense: str
    kind: str
    norm: str
    eps: float
    alpha: float
    images: int
    violations: int
    p: float
    tightness: float


def attack_inside(metric: str, defense: str, images: int = 5, alpha: float = 0.001, seed: int = 0) -> list[Inside]:
    """Certify photographs, attack them at the same norm and eps in both directions, compare.

    Args:
        metric, defense: plug-in strings; the defence must be certified.
        images: number of photographs, of the embedded data set.
        alpha: error probability of the certificate.
        seed: base seed.

    Raises:
        Incompatible: the defence has no certificate.
    """
    g = load_defense(defense, load_metric(metric))
    norm = g.certified_norm
    if norm is None:
        raise Incompatible(f"defence {defense!r} has no certificate to attack: name a certified one")
    dataset = load_dataset(PHOTOGRAPHS)
    images = min(images, len(dataset))
    # Spread over the data set: its versions of one photograph follow each other.
    chosen = np.linspace(0, len(dataset) - 1, images).round().astype(int)
    x = torch.stack([dataset.load(int(i)) for i in chosen])
    certificate = g.certify(x, _BUDGETS[norm], alpha, seed)
    kinds = [certificate, *([certificate.deployed] if certificate.deployed else [])]
    found = []
    for j, eps in enumerate(_BUDGETS[norm]):
        reached = [_attack(g, x, Threat(norm, eps), direction, seed) for direction in _DIRECTIONS]
        found += [_compared(g, c, j, reached) for c in kinds]
    return found


def weak_attacks(seed: int = 0) -> list[str]:
    """A sentence for each attack of this harness that no longer reaches the known optimum of a linear metric.

    An attack that does nothing would let every bound pass.
    """
    toy = next(toy for toy in TOYS if toy.name == "linear")
    x = image_at(np.linspace(-0.5, 0.5, 8), np.zeros(8), seed)
    found = []
    for defense in ("median-smoothing[m=501]", "none"):
        g = load_defense(defense, toy.metric())
        _, _, _, moved = _attack(g, x, Threat("l2", 0.05), "up", seed)
        share = float(moved.mean()) / (5 * 0.05 / SIGMA)  # the linear toy's score is 50 + 5 u, and u moves by eps/sigma
        if not share > STRONG:
            found.append(f"the attack on {defense} reaches {share:.2f} of what is possible on a linear metric")
    return found


def _attack(
    g: DefendedMetric, x: torch.Tensor, threat: Threat, direction: Direction, seed: int
) -> tuple[np.ndarray, ...]:
    """Attacked scores (B,), their intervals, and their distance from the clean scores."""
    attack = load_attack("eot-pgd[steps=6]" if g.randomised else "pgd[steps=20]")
    result = attack(g, x, threat, direction, seed)
    return (*result.attacked, result.gain)


def _compared(g: DefendedMetric, c: Certificate, j: int, reached: list[tuple[np.ndarray, ...]]) -> Inside:
    out = np.zeros(len(c.score), dtype=bool)
    judged = np.ones(len(c.score), dtype=bool)
    shift = np.zeros(len(c.score))
    for score, low, high, moved in reached:
        lowest, highest = (low, high) if c.kind == "population" else (score, score)
        out |= (lowest > c.hi[:, j]) | (highest < c.lo[:, j])
        judged &= np.isfinite(lowest) & np.isfinite(highest)
        shift = np.maximum(shift, np.abs(moved))
    finite = np.isfinite(c.delta[:, j]) & (c.delta[:, j] > 0)
    return Inside(
        metric=g.metric.spec,
        defense=g.spec,
        kind=c.kind,
        norm=c.norm,
        eps=c.eps[j],
        alpha=c.alpha,
        images=len(out),
        violations=int(out.sum()),
        p=violation_p(int(out.sum()), int(judged.sum()), c.kind, c.coverage, c.alpha, len(reached)),
        tightness=float((shift / np.where(finite, c.delta[:, j], np.inf)).max()),
    )
