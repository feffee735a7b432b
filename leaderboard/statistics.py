"""Statistics of a ranking: paired tests, intervals of ranks, agreement of rankings. Pure numpy and scipy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau, rankdata
from scipy.stats import t as student_t

from ..bench.measures import FEW_GROUPS
from ..bench.seeds import derive_seed

LEVEL = 0.95
FLIPS = 9999
"""Random sign patterns of a test, where there are too many to take them all."""
ALL_FLIPS = 14
"""Groups up to which every sign pattern is taken."""
DRAWS = 10_000
"""Draws of the largest of several correlated t statistics."""
_CHUNK = 1000


def sign_flip_p(difference: np.ndarray, groups: Sequence[str], label: str) -> float:
    """Two-sided p-value of paired differences whose mean is 0: the sign-flip test, by group.

    If the two sides are exchangeable, the sum of each group's differences is as likely as its negative. With at most 14
    groups all patterns of signs are counted, which is exact; otherwise 9999 random ones and the one observed. Groups of
    a photograph's versions flip together. With G groups no p-value is below 2 / 2^G: five photographs cannot show
    anything at .05.

    Args:
        difference: (N,) one value an image; NaN where one side has no result, which leaves the image out.
        groups: (N,) names.
        label: seeds the random signs.

    Returns:
        the p-value; NaN without any pair.
    """
    there = np.isfinite(difference)
    if not there.any():
        return float("nan")
    _, index = np.unique(np.asarray(groups, dtype=str)[there], return_inverse=True)
    sums = np.bincount(index, weights=difference[there])
    observed = abs(float(sums.sum()))
    # Sums of the same numbers in another order differ by rounding; they are the same sum.
    reach = observed - 1e-12 * float(np.abs(sums).sum())
    if len(sums) <= ALL_FLIPS:
        patterns = np.arange(2 ** (len(sums) - 1))[:, None] >> np.arange(len(sums)) & 1  # the last sign stays +
        return float((np.abs((1 - 2 * patterns) @ sums) >= reach).mean())
    rng = np.random.default_rng(derive_seed("sign-flip", label))
    beyond = 0
    for start in range(0, FLIPS, _CHUNK):
        signs = rng.integers(2, size=(min(_CHUNK, FLIPS - start), len(sums)), dtype=np.int8)
        beyond += int((np.abs((1 - 2 * signs) @ sums) >= reach).sum())
    return (1 + beyond) / (1 + FLIPS)


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values adjusted by Holm (1979): reject those below a level, and the family's error is below it. NaN stays."""
    values = np.asarray(p, dtype=float)
    adjusted = np.full(values.shape, np.nan)
    there = np.flatnonzero(np.isfinite(values))
    order = there[np.argsort(values[there], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return adjusted


class Ranks(NamedTuple):
    """Places (E,) of E entrants, smallest value first, and the ends of their intervals."""

    rank: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


def places(values: Sequence[float]) -> np.ndarray:
    """(E,) competition ranks ("1224"), smallest first; equal to 6 significant digits, as printed, is a tie."""
    return rankdata([float(f"{value:.6g}") for value in values], method="min").astype(int)


def rank_intervals(values: np.ndarray, groups: Sequence[str], label: str, level: float = LEVEL) -> Ranks:
    """Places by the mean of each column, and intervals for the places (Mogstad, Romano, Shaikh, Wilhelm, REStud 2024).

    For each entrant, simultaneous confidence intervals for its differences to all others, on the images that both have;
    who is surely better stands above it, who is surely worse below it, and its place is somewhere between. Each
    entrant's interval alone holds with probability `level` (the paper's marginal one). Entrants with equal means share
    the interval's promise: any way to break the tie lies inside.

    The simultaneous intervals take groups (photographs) as the units. With fewer than 20 of them: Student's t by
    Bonferroni, whatever the dependence. Otherwise the largest of |t| over the differences is simulated with their
    estimated correlation. One group tells nothing, and the interval is all places.

    Args:
        values: (N,E) an image a row, an entrant a column, smaller = better; NaN where there is no result.
        groups: (N,) images with equal entries belong together.
        label: seeds the simulation.
        level: confidence of each interval.

    Raises:
        ValueError: an entrant without any result.
    """
    count = values.shape[1]
    if not np.isfinite(values).any(axis=0).all():
        raise ValueError("an entrant without results has no place")
    rank = places(np.nanmean(values, axis=0).tolist())
    lo, hi = np.ones(count, dtype=int), np.full(count, count)
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    values = values[order]
    for own in range(count):
        others = [k for k in range(count) if k != own]
        surely = _surely(values[:, [own]] - values[:, others], starts, f"{label}|{own}", level)
        lo[own] += int((surely > 0).sum())
        hi[own] -= int((surely < 0).sum())
    return Ranks(rank, lo, hi)


def _surely(difference: np.ndarray, starts: np.ndarray, label: str, level: float) -> np.ndarray:
    """(K,) +1 or -1 where the simultaneous interval of a column's mean excludes 0, else 0; rows are sorted by group."""
    there = np.isfinite(difference)
    sums = np.add.reduceat(np.where(there, difference, 0.0), starts, axis=0)
    counts = np.add.reduceat(there.astype(float), starts, axis=0)
    judged = (counts > 0).sum(axis=0)
    usable = judged > 1
    if not usable.any():
        return np.zeros(difference.shape[1], dtype=int)
    total = np.maximum(counts.sum(axis=0), 1.0)
    mean = sums.sum(axis=0) / total
    residual = sums - mean * counts
    error = np.sqrt(np.square(residual).sum(axis=0) * judged / np.maximum(judged - 1, 1)) / total
    fewest = int(judged[usable].min())
    reach = _critical(residual[:, usable], fewest, label, level) * error
    noise = 1e-12 * np.abs(sums).sum(axis=0) / total
    return np.where(usable & (np.abs(mean) > reach + noise), np.sign(mean), 0).astype(int)


def _critical(residual: np.ndarray, groups: int, label: str, level: float) -> float:
    """How many standard errors all of the columns' means stay within, together, with probability `level`."""
    columns = residual.shape[1]
    if groups < FEW_GROUPS:
        return float(student_t.ppf(1 - (1 - level) / (2 * columns), groups - 1))
    length = np.sqrt(np.square(residual).sum(axis=0))
    moving = residual[:, length > 0] / length[length > 0]
    if not moving.shape[1]:
        return 0.0
    rng = np.random.default_rng(derive_seed("ranks", label))
    values, vectors = np.linalg.eigh(moving.T @ moving)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = np.abs(rng.standard_normal((DRAWS, len(values))) @ root.T).max(axis=1)
    return float(np.quantile(draws / np.sqrt(rng.chisquare(groups - 1, DRAWS) / (groups - 1)), level))


class Agreement(NamedTuple):
    """How far several rankings of the same entrants agree.

    Attributes:
        w: Kendall's coefficient of concordance, corrected for ties: 0 none, 1 the same order throughout.
        p: of its being 0, by random rankings (9999).
        tau_mean, tau_min: Kendall's tau-b over the pairs of rankings.
    """

    w: float
    p: float
    tau_mean: float
    tau_min: float


def agreement(values: np.ndarray, label: str) -> Agreement:
    """Agreement of the rankings in the rows of `values` (M,E), smaller = better.

    All NaN with fewer than 2 rankings or 3 entrants, and where a ranking has no order, all being equal.
    """
    rankings, entrants = values.shape
    nothing = Agreement(*[float("nan")] * 4)
    if rankings < 2 or entrants < 3 or (np.ptp(values, axis=1) == 0).any():
        return nothing
    ranks = rankdata(values, axis=1)
    w = _concordance(ranks)
    rng = np.random.default_rng(derive_seed("agreement", label))
    shuffled = rng.permuted(np.broadcast_to(ranks, (FLIPS, rankings, entrants)), axis=2)
    beyond = int((_concordance(shuffled) >= w - 1e-12).sum())
    pairs = [(i, j) for i in range(rankings) for j in range(i)]
    tau: Any = kendalltau
    taus = [float(tau(values[i], values[j])[0]) for i, j in pairs]
    return Agreement(float(w), (1 + beyond) / (1 + FLIPS), float(np.mean(taus)), min(taus))


def _concordance(ranks: np.ndarray) -> np.ndarray:
    """Kendall's W of mid-ranks (...,M,E): 12 S / (M^2 (E^3 - E) - M sum T), T the sum of t^3 - t over ties of t."""
    rankings, entrants = ranks.shape[-2:]
    spread = np.square(ranks.sum(axis=-2) - rankings * (entrants + 1) / 2).sum(axis=-1)
    # With ties, sum of squared ranks falls by T/12.
    ties = rankings * entrants * (entrants + 1) * (2 * entrants + 1) / 6 - np.square(ranks).sum(axis=(-2, -1))
    return 12 * spread / (rankings**2 * (entrants**3 - entrants) - 12 * rankings * ties)
