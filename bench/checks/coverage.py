"""Coverage by simulation: many certificates of one defence, each held against the known worst case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from ..api import Certificate, DefendedMetric
from ..build import load_defense
from ..seeds import Role, Streams, image_key
from .toys import SIGMA, Toy, image_at

FAMILY = 5
ALPHA = 0.05
"""alpha = .05, and .01 from the same draws through a family of 5."""


_ONE_EVENT = ("score-bins", "center-smoothing")
"""Methods whose two sides fail together, so that each side may have all of alpha."""


@dataclass(frozen=True)
class Coverage:
    """How often certificates failed, of one method, toy metric, kind, alpha and eps.

    Attributes:
        trials, failures: simulated certificates, and those that the known worst case leaves.
        p: probability of so many failures if each has probability alpha (exact binomial, one-sided); for methods that
            spend alpha/2 a side the smallest of the p-values of both together and of each side.
        vacuous: share of certificates with an infinite side or as wide as the range.
        width: mean width of the finite ones.
        exact: whether the method should fail nearly alpha of the time.
    """

    defense: str
    toy: str
    kind: str
    alpha: float
    eps: float
    trials: int
    failures: int
    p: float
    vacuous: float
    width: float
    exact: bool

    @property
    def rate(self) -> float:
        """Observed failure rate."""
        return self.failures / self.trials


@dataclass(frozen=True)
class Independence:
    """Correlation that must be zero: between images, or between certification and evaluation draws."""

    defense: str
    toy: str
    between: str
    correlation: float
    trials: int

    @property
    def broken(self) -> bool:
        """Whether it is beyond what chance explains (5 standard errors), or the draws do not vary at all."""
        return not abs(self.correlation) < 5 / np.sqrt(self.trials)


def simulate(
    defense: str, toy: Toy, trials: int, eps: tuple[float, ...] = (0.05, 0.12), seed: int = 0
) -> tuple[list[Coverage], list[Independence]]:
    """Certify `trials` images of a toy metric and hold each certificate against the truth.

    The defence is used through its public methods alone: streams, engine, indices and all are under test. A population
    bound fails if the exact statistic at some attacked image leaves it, a deployed one if the m-draw score at the image
    attacked in one direction, with fresh draws, does.

    Args:
        defense: plug-in string of a sampled defence with the methods of `Smoothed`.
        toy: metric with known distributions.
        trials: number of certificates.
        eps: l2 budgets.
        seed: base seed.
    """
    g = load_defense(defense, toy.metric())
    count = len(toy.places)
    place = np.arange(trials) % count
    u, c = np.array(toy.places)[place].T
    x = image_at(u, c, seed)
    keys = [image_key(image) for image in x]
    direct = g.certify(x, eps, ALPHA, seed, FAMILY)
    clean = _exact(g, toy, 0.0)[:, 0][place]
    found: list[Coverage] = []
    residual = np.zeros(trials)
    for j, e in enumerate(eps):
        truth = _exact(g, toy, e / SIGMA)
        # One direction for each image, all of them in turn within each place.
        turn = (np.arange(trials) // count) % len(toy.directions)
        move = np.array(toy.directions)[turn] * e / SIGMA
        attacked = image_at(u + move[:, 0], c + move[:, 1], seed)
        score = g.estimate(attacked, Streams.create(keys, Role.EVALUATION, seed)).score
        residual = score - truth[place, turn]
        for certificate in (direct, direct.family):
            assert certificate is not None
            whole = truth[place]
            found.append(_judged(defense, toy, certificate, j, whole.min(1), whole.max(1)))
            if certificate.deployed is not None:
                found.append(_judged(defense, toy, certificate.deployed, j, score, score))
    if not toy.exact:  # a statistic that takes few values says little about its draws
        return found, []
    independent = [
        Independence(defense, toy.name, "images", _correlation(direct.score - clean, place, shift=count), trials),
        Independence(
            defense, toy.name, "certification and evaluation",
            _correlation(direct.score - clean, place, residual), trials,
        ),
    ]  # fmt: skip
    return found, independent


def _exact(g: DefendedMetric, toy: Toy, shift: float) -> np.ndarray:
    """Exact statistic (places, directions) after a move by `shift` in each direction."""
    population: Any = g.population  # what a sampled defence answers to the whole distribution
    rows = [[toy.quantiles(u + shift * a, c + shift * b) for a, b in toy.directions] for u, c in toy.places]
    return np.stack([population(np.stack(row)) for row in rows])


def _judged(
    defense: str, toy: Toy, certificate: Certificate, j: int, lowest: np.ndarray, highest: np.ndarray
) -> Coverage:
    lo, hi = certificate.lo[:, j], certificate.hi[:, j]
    # The truth is known to the resolution of its grid only.
    slack = 1e-6 * (1 + np.abs(highest))
    below, above = lowest < lo - slack, highest > hi + slack
    failures = int((below | above).sum())
    p = _excess(failures, len(lo), certificate.alpha)
    if not defense.startswith(_ONE_EVENT):
        # A slip of one side alone hides behind the other, which errs less often than it may.
        p = min(p, *(_excess(int(side.sum()), len(lo), certificate.alpha / 2) for side in (below, above)))
    finite = np.isfinite(hi - lo)
    return Coverage(
        defense=defense,
        toy=toy.name,
        kind=certificate.kind,
        alpha=certificate.alpha,
        eps=certificate.eps[j],
        trials=len(lo),
        failures=failures,
        p=p,
        vacuous=float(np.mean(~finite | (hi - lo >= 100))),
        width=float(np.mean((hi - lo)[finite])) if finite.any() else float("inf"),
        exact=toy.exact and certificate.kind == "population" and defense.startswith("median-smoothing"),
    )


def _excess(failures: int, trials: int, alpha: float) -> float:
    return float(binomtest(failures, trials, alpha, alternative="greater").pvalue)


def _correlation(a: np.ndarray, place: np.ndarray, b: np.ndarray | None = None, shift: int = 0) -> float:
    """Correlation of a with b, or with itself `shift` images on, each centred within its place; NaN if constant."""

    def centred(v: np.ndarray) -> np.ndarray:
        return v - (np.bincount(place, v) / np.bincount(place))[place]

    first = centred(a)
    second = np.roll(first, shift) if b is None else centred(b)
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size > 1e-9 * len(a) else float("nan")


def absurdly_wide(c: Coverage) -> bool:
    """Whether a method that is exact fails less than a third as often as it may."""
    return c.exact and bool(binomtest(c.failures, c.trials, c.alpha / 3, alternative="less").pvalue < 1e-4)
