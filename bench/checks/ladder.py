"""A ladder of attacks on one defended metric: no rung may gain less than a weaker one (checks 8 to 11)."""

from __future__ import annotations

import numpy as np
import torch

from ..api import L2, AttackResult, DefendedMetric
from ..build import load_attack
from ..errors import BadScore, Incompatible
from .probes import scale_of
from .reliability import Finding, above, below, share_above

RUNGS = ("random-noise", "fgsm[draws=8]", "eot-pgd[steps=10]", "eot-pgd[steps=20]")
STRONGEST = RUNGS[-1]
EPS = 0.5
ORDER, BLACK_BOX = 0.02, 0.05
"""Tolerances, as shares of the scale."""
NAMES = ("order-broken", "not-monotone", "black-box-wins", "lost-when-saved")
MOST = 0.2
"""Share of images that may be out of order by chance."""


def climb(g: DefendedMetric, x: torch.Tensor, seed: int = 0) -> list[Finding]:
    """Checks 8 to 11 on some images (B,3,H,W), in l2, upwards.

    Where the metric has no gradient there is no ladder: all four are skipped with the reason.
    """
    queries = 30 if g.randomised else 300
    try:
        rungs = [_attack(g, x, name, EPS, seed) for name in RUNGS]
        others = [_attack(g, x, name, EPS, seed) for name in (f"square[queries={queries}]", "transfer")]
        half, unbounded = (_attack(g, x, STRONGEST, e, seed) for e in (EPS / 2, float(x[0].numel()) ** 0.5))
    except Incompatible as error:
        return [Finding(name, skipped=str(error)) for name in NAMES]
    except BadScore:  # a score or gradient that is not finite: no attack, and nothing to believe
        return [Finding(name, raised=True) for name in NAMES]
    top = rungs[-1]
    scale = scale_of(g, top.clean.score)
    gains = np.array([r.gain for r in rungs]) / scale
    falls = (gains[:-1] - gains[1:]).max(0)
    beaten = np.max([r.gain for r in others], axis=0) / scale - gains[-1]
    reached = _reached(g, unbounded, scale)
    shrinks = share_above((half.gain - top.gain) / scale, ORDER)
    return [
        above("order-broken", share_above(falls, ORDER), MOST),
        above("not-monotone", shrinks, MOST) if not reached < 0.5 else below("not-monotone", reached, 0.5),
        above("black-box-wins", share_above(beaten, BLACK_BOX), MOST),
        _saved(top, scale),
    ]


def _reached(g: DefendedMetric, result: AttackResult, scale: float) -> float:
    """Share of the room above the clean score that an unbounded attack used, on average; NaN where there is none.

    The room ends at the declared range's end, and a metric that has none is asked for its scale.
    """
    if g.metric.score_range is None:
        return float(np.mean(result.gain)) / scale
    low, high = g.metric.score_range
    room = high - result.clean.score if g.metric.sign > 0 else result.clean.score - low
    free = room > 0.1 * scale
    return float(np.mean(result.gain[free] / room[free])) if free.any() else float("nan")


def _attack(g: DefendedMetric, x: torch.Tensor, name: str, eps: float, seed: int) -> AttackResult:
    attack = load_attack(name)
    if reason := attack.skip(g, L2(eps)):
        raise Incompatible(reason)
    return attack(g, x, L2(eps), seed=seed)


def _saved(result: AttackResult, scale: float) -> Finding:
    gain, kept = float(np.mean(result.gain)), float(np.mean(result.gain_8bit))
    if gain / scale <= 0.05:
        return Finding("lost-when-saved", skipped="the attack gains too little to be lost")
    return below("lost-when-saved", kept / gain, 0.5)
