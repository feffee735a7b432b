"""Coverage by simulation: many certificates of one defence, each held against the known worst case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from ..api import Certificate, DefendedMetric
from ..api import Coverage as CoverageMode
from ..build import load_defense
from ..judge import scored
from ..seeds import image_keys
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
    keys = image_keys(x)
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
        score = scored(g, attacked, keys, seed).score
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
        Independence(defense, toy.name, "images", _neighbours(direct.score - clean, place), trials),
        Independence(
            defense, toy.name, "certification and evaluation",
            _correlation(direct.score - clean, place, residual), trials,
        ),
    ]  # fmt: skip
    return found, independent


def simulate_curve(defense: str, toy: Toy, trials: int, coverage: CoverageMode, seed: int = 0) -> Coverage:
    """Certify `trials` images on a grid of eps at ALPHA; a certificate fails if the truth leaves it at any of them."""
    g = load_defense(defense, toy.metric())
    place = np.arange(trials) % len(toy.places)
    along_u, along_c = np.array(toy.places)[place].T
    x = image_at(along_u, along_c, seed)
    grid = tuple(np.linspace(0.01, 0.12, 8).tolist())
    c = g.certify(x, grid, ALPHA, seed, coverage=coverage)
    out = np.zeros(trials, dtype=bool)
    for j, e in enumerate(grid):
        truth = _exact(g, toy, e / SIGMA)[place]
        out |= ~((truth.min(1) >= c.lo[:, j] - 1e-6) & (truth.max(1) <= c.hi[:, j] + 1e-6))
    return _counted(defense, toy, f"curve, {c.coverage}", grid[-1], out, float(np.mean(c.hi - c.lo)))


def simulate_decisions(defense: str, toy: Toy, trials: int, eps: float = 0.05, seed: int = 0) -> Coverage:
    """Decide `trials` times, with tau the exact shift of a linear metric: the window is off on one side or the other
    whatever the centre, so every `certified` is a failure."""
    g = load_defense(defense, toy.metric())
    place = np.arange(trials) % len(toy.places)
    along_u, along_c = np.array(toy.places)[place].T
    x = image_at(along_u, along_c, seed)
    clean, moved = _exact(g, toy, 0.0)[:, 0], _exact(g, toy, eps / SIGMA).max(1)
    found = g.decide(x, eps, float((moved - clean).mean()) - 1e-3, ALPHA, seed)
    return _counted(defense, toy, "decision", eps, found.certified, float("nan"))


def _counted(defense: str, toy: Toy, kind: str, eps: float, failed: np.ndarray, width: float) -> Coverage:
    failures = int(failed.sum())
    p = _excess(failures, len(failed), ALPHA)
    return Coverage(defense, toy.name, kind, ALPHA, eps, len(failed), failures, p, 0.0, width, False)


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
    below, above = ~(lowest >= lo - slack), ~(highest <= hi + slack)  # a bound that is NaN holds nothing
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


def _neighbours(a: np.ndarray, place: np.ndarray) -> float:
    """The largest correlation of a with itself one to so many images on as there are places."""
    found = [_correlation(a, place, shift=k) for k in range(1, int(place.max()) + 2)]
    return max(found, key=abs)


def _correlation(a: np.ndarray, place: np.ndarray, b: np.ndarray | None = None, shift: int = 0) -> float:
    """Correlation of a with b, or with itself `shift` images on, each centred within its place; NaN if constant."""

    def centred(v: np.ndarray) -> np.ndarray:
        return v - (np.bincount(place, v) / np.bincount(place))[place]

    first = centred(a)
    first, second = (first[shift:], first[: len(first) - shift]) if b is None else (first, centred(b))
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size > 1e-9 * len(a) else float("nan")


def absurdly_wide(c: Coverage) -> bool:
    """Whether a method that is exact fails less than a third as often as it may."""
    return c.exact and bool(binomtest(c.failures, c.trials, c.alpha / 3, alternative="less").pvalue < 1e-4)
