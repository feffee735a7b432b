"""Logistic fits of scores to human scores, before PLCC and RMSE are taken (VQEG 2000; Sheikh et al. 2006).

Both curves have two parameters that enter non-linearly, the centre and the width of the transition; the others follow
from them by linear regression (variable projection: Golub & Pereyra 1973). What is left is a search in two dimensions
that does not depend on the scale of either axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.ndimage import minimum_filter
from scipy.optimize import least_squares
from scipy.special import expit

from .errors import counted

STEEPEST = 0.05
"""Smallest width of the transition, in robust standard deviations of the scores.

A narrower one is a jump in the gap between two images, which a curve can always place to its advantage."""

FLAT = 1e-4
"""Largest slope of the explained share of variance at a fit that has converged, per standard deviation of the centre
and per e-fold of the width; and the most that a steeper curve than is allowed may gain."""

WORSE = 1e-6
"""How much less of the variance than a simpler curve a fit may explain: a line it reaches only in the limit."""

_CALLS = 200
_CENTRES = np.linspace(0.02, 0.98, 33)
"""Quantiles of the scores where a grid of curves has its centres."""
_WIDTHS = np.geomspace(STEEPEST, 6.0, 12)
"""And their widths, in robust standard deviations."""
_DECILES = 2.5631
"""Distance of the first and the last decile of a normal distribution, in standard deviations."""


class LogisticFit(NamedTuple):
    """The least-squares curve through scores and truth, or why there is none.

    Attributes:
        plcc: Pearson's correlation of the curve's values to the truth, in [0,1]: a curve may fall, so the sign of the
            relation is lost; NaN where there is no fit.
        rmse: root mean squared distance of the truth from the curve, in units of the truth; NaN where there is no fit.
        parameters: b1 to b4, or b1 to b5, of `fit_logistic`; empty where there is no fit.
        reason: why there is no fit; empty where there is one.
    """

    plcc: float
    rmse: float
    parameters: tuple[float, ...]
    reason: str


def fit_logistic(score: np.ndarray, truth: np.ndarray, parameters: Literal[4, 5] = 4) -> LogisticFit:
    """Fit the customary curve from scores to truth by least squares.

        4 (VQEG 2000):               b2 + (b1 - b2) / (1 + exp(-(score - b3) / b4)), b4 > 0
        5 (Sheikh et al. 2006, TIP): b1 (1/2 - 1 / (1 + exp(b2 (score - b3)))) + b4 score + b5

    The search starts from eight curves: the customary one, with mean and a quarter of the standard deviation of the
    scores, and others; for five parameters, whose curves have several minima, also from the peaks of a grid and from
    the best curve of four. Of the fits that have converged the best is taken. One has not converged if it would still
    gain by a small step or by being steeper than `STEEPEST`, or if a simpler curve fits better. A straight line and an
    exponential are limits of these curves and count as fits.

    Args:
        score: (N,) scores of a metric.
        truth: (N,) human scores, at least twice as many as the curve has parameters.
        parameters: which curve.
    """
    x, y = np.asarray(score, dtype=float), np.asarray(truth, dtype=float)
    if reason := _unfit(x, y, parameters):
        return _none(reason)
    problem = _Problem(x, y, linear=False)
    simpler, least, best = "a straight line", problem.line, problem.best(problem.starts())
    if parameters == 5:
        four, problem = best, _Problem(x, y, linear=True)
        if four is not None and four.explained > least:
            simpler, least = "a curve of 4 parameters", four.explained
        best = problem.best([*problem.starts(), *problem.peaks(), *([four.place] if four is not None else [])])
    if best is None:
        return _none("the fit does not converge: its best curve is a jump between two neighbouring scores")
    if best.explained < least - WORSE:
        return _none(f"the fit does not converge: {simpler} is better than what it found")
    rmse = problem.y_unit * float(np.sqrt(1 - best.explained))
    return LogisticFit(float(np.sqrt(best.explained)), rmse, problem.parameters(best.place), "")


def _unfit(x: np.ndarray, y: np.ndarray, parameters: int) -> str:
    """Why there is nothing to fit a curve of that many parameters to; empty if there is."""
    if not len(y) or np.isnan(y).all():
        return "no ground truth"
    if not np.isfinite(y).all():
        return "the ground truth of some images is not a number"
    if not np.isfinite(x).all():
        return "some scores are not finite"
    if len(x) < 2 * parameters:
        return f"{counted(len(x), 'image')}: {parameters} parameters need at least {2 * parameters}"
    if np.ptp(y) == 0:
        return "the ground truth is constant"
    if (distinct := len(np.unique(x))) <= parameters:
        return f"{counted(distinct, 'different score')}: {parameters} parameters need more than {parameters}"
    return ""


def _none(reason: str) -> LogisticFit:
    return LogisticFit(float("nan"), float("nan"), (), reason)


class _Curve(NamedTuple):
    """Centre and log width in standardised units, share of variance explained, and whether nothing near is better."""

    place: np.ndarray
    explained: float
    converged: bool


class _Problem:
    """The fit in standardised units.

    Args:
        x, y: (N,) scores and truth.
        linear: whether the curve has a linear term beside the logistic one.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, linear: bool) -> None:
        low, self._x0, high = (float(q) for q in np.quantile(x, [0.1, 0.5, 0.9]))
        # Deciles, because one score of a million must not hide how the others are spread.
        self._x_unit = (high - low) / _DECILES or float(x.std())
        self._x = (x - self._x0) / self._x_unit
        self._y0, self.y_unit = float(y.mean()), float(y.std())
        self._y = (y - self._y0) / (self.y_unit * len(y) ** 0.5)
        line = self._x - self._x.mean()
        line /= np.linalg.norm(line)
        self._others = [np.full(len(x), len(x) ** -0.5)] + ([line] if linear else [])
        self._rest = self._without(self._y)
        self.line = float(line @ self._y) ** 2
        """Share of the variance that a straight line explains."""

    def starts(self) -> Iterator[np.ndarray]:
        """Places to start from: the customary one first."""
        low, median, high = np.quantile(self._x, [0.25, 0.5, 0.75])
        spread = float(self._x.std())
        for centre, width in ((self._x.mean(), spread), (low, 1.0), (median, 1.0), (high, 1.0)):
            for part in (0.25, 1.0):
                yield np.array([centre, np.log(part * width)])

    def peaks(self) -> Iterator[np.ndarray]:
        """Places of a grid that explain more than the places around them."""
        centres, widths = np.unique(np.quantile(self._x, _CENTRES)), np.log(_WIDTHS)
        left = [[np.square(self._residual(np.array([c, w]))).sum() for w in widths] for c in centres]
        least = minimum_filter(left, size=3, mode="nearest")
        for i, k in np.argwhere(left == least):
            yield np.array([centres[i], widths[k]])

    def best(self, starts: Iterable[np.ndarray]) -> _Curve | None:
        """The best of the curves that searches from these places converge to, if any does."""
        curves = [curve for start in starts if (curve := self.search(start)).converged]
        return max(curves, key=lambda curve: curve.explained, default=None)

    def search(self, start: np.ndarray) -> _Curve:
        """The least-squares curve that lies downhill of a start."""
        tolerances = {"ftol": 1e-10, "xtol": 1e-8, "gtol": 1e-10, "max_nfev": _CALLS}
        slopes: Any = self._slopes  # scipy's stubs know names of methods only
        found = least_squares(self._residual, start, slopes, method="lm", **tolerances)
        place = np.array([found.x[0], max(found.x[1], np.log(STEEPEST))])
        explained = 1 - float(np.square(self._residual(place)).sum())
        gained = 1 - 2 * found.cost - explained  # by being steeper than allowed
        still = max(gained, 2 * np.abs(found.grad).max()) <= FLAT
        constant = self._logistic(place)[2] == 0
        return _Curve(place, min(max(explained, 0.0), 1.0), still and not constant)

    def parameters(self, place: np.ndarray) -> tuple[float, ...]:
        """b1 to b4 or b5 in the units that were given."""
        linear = len(self._others) > 1
        columns = [self._logistic(place)[0], *([self._x] if linear else []), np.ones_like(self._x)]
        solved, *_ = np.linalg.lstsq(np.stack(columns, axis=1), self._y, rcond=None)
        height, *slope, base = (self.y_unit * len(self._y) ** 0.5 * solved).tolist()
        centre, width = self._x0 + self._x_unit * float(place[0]), self._x_unit * float(np.exp(place[1]))
        base += self._y0
        if not linear:
            return base + height, base, centre, width
        rise = slope[0] / self._x_unit
        return height, 1 / width, centre, rise, base + height / 2 - rise * self._x0

    def _without(self, v: np.ndarray) -> np.ndarray:
        """What is left of a vector when the constant, and the linear term if there is one, are regressed out."""
        for column in self._others:
            v = v - (column @ v) * column
        return v

    def _logistic(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """The logistic's values, what they have beyond the other terms, and the weight that suits them best."""
        values = expit((self._x - place[0]) * np.exp(-np.clip(place[1], -50, 50)))
        beyond = self._without(values)
        square = float(beyond @ beyond)
        # Far outside the scores a logistic is constant, and what seems left of it is rounding.
        return values, beyond, float(beyond @ self._rest) / square if square > 1e-26 * (values @ values) else 0.0

    def _residual(self, place: np.ndarray) -> np.ndarray:
        _, beyond, weight = self._logistic(place)
        return self._rest - weight * beyond

    def _slopes(self, place: np.ndarray) -> np.ndarray:
        """Derivatives of the residual (Kaufman 1975: the gradient of the cost is exact, the curvature nearly)."""
        values, beyond, weight = self._logistic(place)
        bump = values * (1 - values) * np.exp(-np.clip(place[1], -50, 50))
        unit = beyond / max(float(np.linalg.norm(beyond)), 1e-13)
        slopes = [self._without(column) for column in (bump, bump * (self._x - place[0]))]
        return np.stack([weight * (slope - (unit @ slope) * unit) for slope in slopes], axis=1)
