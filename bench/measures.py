"""The measures of the suite, pure numpy and scipy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import binomtest, kendalltau, pearsonr, spearmanr
from scipy.stats import t as student_t

from .logistic import fit_logistic
from .seeds import derive_seed

FEW_GROUPS = 20
INTERVAL_ERROR = 0.001
"""Error probability of the interval of a deployed score (`api.Estimate`), by which violations are judged."""

RESAMPLES = 2000
"""Bootstrap resamples of every interval."""

_DRAWN = 2**18
"""Groups that a bootstrap draws at once."""


class Interval(NamedTuple):
    """A mean with its bootstrap confidence interval."""

    mean: float
    lo: float
    hi: float


def srocc(score: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's rank correlation; NaN with fewer than 3 images, constant scores, or a missing truth."""
    return _correlation(spearmanr, score, truth)


def krocc(score: np.ndarray, truth: np.ndarray) -> float:
    """Kendall's tau-b; NaN with fewer than 3 images or constant scores."""
    return _correlation(kendalltau, score, truth)


def plcc(score: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's correlation of the raw scores; NaN with fewer than 3 images or constant scores."""
    return _correlation(pearsonr, score, truth)


def plcc_logistic(score: np.ndarray, truth: np.ndarray, parameters: Literal[4, 5] = 4) -> float:
    """Pearson's correlation after a logistic fit, without sign; NaN where `fit_logistic` gives a reason for none."""
    return fit_logistic(score, truth, parameters).plcc


def score_range(scores: np.ndarray) -> tuple[float, float]:
    """1st and 99th percentile of clean scores: their difference R is the unit of every gain."""
    low, high = np.percentile(scores, [1, 99])
    return float(low), float(high)


def r_score(clean: np.ndarray, attacked: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Per-image R-score: log10( max(b - q, q - a) / max(|q' - q|, 1e-3 (b - a)) ), [a,b] the range.

    The form of the AAAI 2024 benchmark with its tiny constant replaced by a floor on the change, so that an image that
    does not move counts 3 at most. Larger = more robust.
    """
    a, b = ends
    room = np.maximum(b - clean, clean - a)
    return np.log10(room / np.maximum(np.abs(attacked - clean), 1e-3 * (b - a)))


def bootstrap_mean(values: np.ndarray, groups: Sequence[str], label: str, level: float = 0.95) -> Interval:
    """Mean with an interval over groups (the reference photographs): percentile bootstrap, resampled by group.

    With fewer than 20 groups the percentile bootstrap is far too narrow (five groups: 83% instead of 95%), and the
    interval is Student's t of the ratio of group sums to group sizes instead. One group gives no interval.

    Args:
        values: (N,) one value an image.
        groups: (N,) images with equal entries are drawn together.
        label: names the statistic; it seeds the resampling, so that a table is the same on every run.
        level: confidence.
    """
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    rng = np.random.default_rng(derive_seed("bootstrap", label))
    groups_n = len(sums)
    if groups_n < FEW_GROUPS:
        mean = float(np.mean(values))
        residual = (sums - mean * counts) / counts.mean()
        error = np.sqrt(np.square(residual).sum() / (groups_n * (groups_n - 1))) if groups_n > 1 else np.nan
        reach = float(student_t.ppf(0.5 + level / 2, max(groups_n - 1, 1)) * error)
        return Interval(mean, mean - reach, mean + reach)
    means = np.empty(RESAMPLES)
    rows = max(1, _DRAWN // groups_n)  # all at once would be 320 MB for ten thousand images
    for start in range(0, RESAMPLES, rows):
        part = means[start : start + rows]
        drawn = rng.integers(groups_n, size=(len(part), groups_n))
        part[:] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(np.mean(values)), float(low), float(high))


def violation_p(violations: int, images: int, certificate: str, coverage: str, alpha: float, attacks: int) -> float:
    """One-sided p-value of that many images whose bound some attack left, if the certificate holds.

    An image may be lost by the certificate's own error, or by the fresh draws of any of the attacks on it: alpha and
    `INTERVAL_ERROR` an attack for a population bound, judged by confidence intervals; alpha/2 and alpha/2 an attack for
    a deployed one. A bound without probability ("exact") has no excuse at all.

    Args:
        violations, images: images with a violation, and images judged.
        certificate: "population" or "deployed".
        coverage: as in `Certificate`.
        alpha: error probability of the certificate.
        attacks: attacked versions of each image that were judged.
    """
    if not images:
        return float("nan")
    if coverage == "exact":
        return 0.0 if violations else 1.0
    null = alpha + attacks * INTERVAL_ERROR if certificate == "population" else alpha * (1 + attacks) / 2
    return float(binomtest(violations, images, min(null, 1.0), alternative="greater").pvalue)


class CertifiedOrder(NamedTuple):
    """What no perturbation of any image can undo.

    Attributes:
        pairs: share of image pairs whose order is certified.
        krocc: lower bound on Kendall's tau to the ground truth under attack; NaN without ground truth.
        srocc: lower bound on Spearman's rho under attack; NaN without ground truth.
    """

    pairs: float
    krocc: float
    srocc: float


def certified_order(lo: np.ndarray, hi: np.ndarray, truth: np.ndarray | None) -> CertifiedOrder:
    """Order certificate from per-image bounds (N,) at alpha/N, scores oriented so that larger = better.

    A pair (i,j) is certified if lo_i > hi_j. Every pair of different truth that is not certified concordant is counted
    as discordant: C - D >= 2 C - Pt, with Pt the pairs of different truth among all P. That bounds tau-b, whose
    denominator is sqrt(P Pt) for untied scores. Durbin and Stuart (1951): rho >= (3 tau - 1) / 2 without ties; with
    ties it holds for the mean over all ways to break them, so for mid-rank rho where it is not negative. Otherwise the
    trivial bound -1 is returned.
    """
    above = lo[:, None] > hi[None, :]
    total = len(lo) * (len(lo) - 1) / 2
    share = float(above.sum() / total) if total else float("nan")
    if truth is None:
        return CertifiedOrder(share, float("nan"), float("nan"))
    better = truth[:, None] > truth[None, :]
    if not better.any():
        return CertifiedOrder(share, float("nan"), float("nan"))
    untied = float(better.sum())
    surplus = float(2 * (above & better).sum() - untied)
    tau = surplus / np.sqrt(total * untied) if surplus >= 0 else surplus / untied
    spearman = (3 * surplus / total - 1) / 2
    holds = spearman >= 0 or (untied == total and surplus >= 0)
    return CertifiedOrder(share, float(tau), spearman if holds else -1.0)


def _degenerate(a: np.ndarray, b: np.ndarray) -> bool:
    return len(a) < 3 or not np.isfinite(np.concatenate([a, b])).all() or np.ptp(a) == 0 or np.ptp(b) == 0


def _correlation(statistic, a: np.ndarray, b: np.ndarray) -> float:
    return float("nan") if _degenerate(a, b) else float(statistic(a, b)[0])
