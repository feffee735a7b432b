"""Certificates of a width that is asked for: each image gets the draws that it is foreseen to need, and no more.

The number of draws n_i of an image is settled before its certificate is drawn, by pilot draws from a stream of their
own that serve no other purpose. Given the pilot, n_i is a constant and the certificate one of n_i i.i.d. draws, so it
holds with 1 - alpha whatever the pilot saw. (Drawing on until the interval is narrow would not: it stops on luck.)

The width of a bound at eps > 0 does not go to 0 with n, since the quantiles at its two moved levels lie apart: an image
that no number of draws would bring to the width gets none.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from ...bench.api import Allotted, CertifiedToWidth, WidthRequest
from .foresee import KNOTS, tabulated, width_of
from .shapes import Question

if TYPE_CHECKING:
    from .smoothed import Smoothed

PILOT = 50
"""Pilot draws that every image gets; they are doubled for images that need many."""

_SHARE = 4
"""The pilot goes on while it is less than this part of the draws that it foresees, but not beyond this part of an
image's share of the total. Both errors of a forecast, of the pilot and of the certificate, are then of one order."""

_FAR = 100_000
"""Draws whose width stands for the smallest one there is."""

_FEWEST = 16
_OCTAVE = 8
"""Numbers of draws that are considered, an octave: images with the same number share batches."""

_RESTS_ON_TAIL = 0.01


def certify_to_width(g: Smoothed, request: WidthRequest) -> CertifiedToWidth:
    """Find the draws of each image, make them, and certify; see `DefendedMetric.certify_to_width`."""
    ask = _question(request)
    numbers = _numbers(_FEWEST, request.most)
    pilot = _pilot(g, ask, request, numbers)
    out_of_reach = pilot.least > request.width
    n = np.zeros(len(request.x), dtype=int)
    n[~out_of_reach], aim = _allot(
        pilot.curve[:, ~out_of_reach], numbers, request.width, request.total - int(pilot.draws.sum())
    )
    foreseen, extrapolated = np.full(len(n), np.nan), np.zeros(len(n), dtype=bool)
    for size in np.unique(n[n > 0]).tolist():
        same = np.flatnonzero(n == size)
        foreseen[same] = width_of(g, ask, pilot.table[same], size)
        extrapolated[same] = ~(width_of(g, ask, pilot.visible[same], size) >= (1 - _RESTS_ON_TAIL) * foreseen[same])
    return CertifiedToWidth(
        kind=request.kind,
        eps=tuple(request.eps.tolist()),
        width=request.width,
        aim=aim,
        total=request.total,
        groups=_certified(g, request, n),
        n=n,
        pilot=pilot.draws,
        foreseen=foreseen,
        wanted=_wanted(g, ask, request, pilot, numbers, out_of_reach),
        least=pilot.least,
        out_of_reach=out_of_reach,
        extrapolated=extrapolated,
    )


@dataclass(frozen=True)
class _Pilot:
    """What the pilot shows of B images.

    Attributes:
        draws: (B,) how many there were.
        table, visible: (B,321) quantiles with and without what lies beyond the outermost draws.
        curve: (K,B) widths that K numbers of draws give with the assurance asked for, infinite after the first one that
            reaches the target.
        least: (B,) width with `_FAR` draws, as it is expected; NaN for images that reach the target with fewer.
    """

    draws: np.ndarray
    table: np.ndarray
    visible: np.ndarray
    curve: np.ndarray
    least: np.ndarray

    @classmethod
    def empty(cls, images: int, numbers: int) -> _Pilot:
        table, visible = np.empty((2, images, len(KNOTS)))
        return cls(np.zeros(images, dtype=int), table, visible, np.empty((numbers, images)), np.full(images, np.nan))


def _question(request: WidthRequest) -> Question:
    # Where each eps stands alone, only the largest one is asked for.
    eps = request.eps[[request.eps.argmax()]] if request.coverage == "pointwise" else request.eps
    return Question(eps, request.alpha, request.kind == "deployed", request.coverage)


def _numbers(first: int, last: int) -> np.ndarray:
    """(K,) numbers of draws from `first` to `last`, evenly spaced in their logarithm."""
    steps = np.arange(int(np.ceil(_OCTAVE * np.log2(max(last / first, 1)))) + 1)
    return np.unique(np.minimum(np.round(first * 2 ** (steps / _OCTAVE)), last).astype(int))


def _pilot(g: Smoothed, ask: Question, request: WidthRequest, numbers: np.ndarray) -> _Pilot:
    """Draw the pilot, twice as many in each round, for as long as a better forecast is worth it."""
    images = len(request.x)
    pilot = _Pilot.empty(images, len(numbers))
    noise = g.noise(request.x, request.keys, request.seed, "pilot for a width")
    most = max(PILOT, request.total // images // _SHARE)
    active, draws, size = np.arange(images), np.empty((images, 0)), PILOT
    while len(active):
        part = active.tolist()
        more = g.scores(noise, size - draws.shape[1], part)
        draws = np.concatenate([draws, more], axis=1)
        pilot.draws[active] = size
        pilot.table[active], pilot.visible[active] = tabulated(draws), tabulated(draws, tail=False)
        curve = _curve(g, ask, request, pilot.table[active], pilot.draws[active], numbers)
        pilot.curve[:, active] = curve
        reached = (curve <= request.width).any(axis=0)
        needed = np.where(reached, numbers[(curve <= request.width).argmax(axis=0)], numbers[-1])
        pilot.least[active] = np.nan
        if not reached.all():
            short = active[~reached]
            pilot.least[short] = width_of(g, ask, pilot.table[short], max(_FAR, request.most))
        # Two standard errors above the target: more pilot draws would only confirm it.
        hopeless = pilot.least[active] > request.width * (1 + 2 / np.sqrt(size))
        on = ~hopeless & (size < needed / _SHARE) & (size < most)
        active, draws, size = active[on], draws[on], min(2 * size, most)
    return pilot


def _curve(
    g: Smoothed, ask: Question, request: WidthRequest, table: np.ndarray, pilot: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Widths (K,B) of K ascending numbers of draws at the assurance asked for; infinite where the target is reached.

    The quantiles are stretched about their median by so many standard errors of a spread: about sqrt(1/pilot + 1.7/n)
    of it, n for the certificate's own chance, which is what Gaussian and somewhat skewed or heavy-tailed scores show
    in widths at eps from .4 to 2 sigma.
    """
    curve = np.full((len(numbers), len(table)), np.inf)
    middle = np.median(table, axis=1, keepdims=True)
    left = np.arange(len(table))
    for found, n in zip(curve, numbers.tolist(), strict=True):
        stretch = 1 + norm.ppf(request.assurance) * np.sqrt(1 / pilot[left] + 1.7 / n)
        found[left] = width_of(g, ask, middle[left] + (table - middle)[left] * stretch[:, None], n)
        left = left[found[left] > request.width]
        if not len(left):
            break
    return curve


def _allot(curve: np.ndarray, numbers: np.ndarray, width: float, total: int) -> tuple[np.ndarray, float]:
    """Draws (B,) that bring every image to one width, the target or else the smallest that the total pays for.

    An image that does not get to this width gets the largest number, as long as that is paid for. Where nothing is
    (every number gives infinite bounds), the total is divided evenly.

    Args:
        curve: (K,B) widths of K ascending numbers of draws.
        numbers: (K,) these numbers.
        width: the target.
        total: draws that there are.
    """
    images = curve.shape[1]
    if not images:
        return np.zeros(0, dtype=int), width
    best = np.minimum.accumulate(curve, axis=0)

    def draws(aim: float) -> np.ndarray:
        enough = best <= aim
        return np.where(enough.any(axis=0), numbers[enough.argmax(axis=0)], numbers[-1])

    if draws(width).sum() <= total:
        return draws(width), width
    aims = np.unique(best[np.isfinite(best) & (best > width)])
    # The sum falls as the aim rises: bisect for the first aim that is paid for.
    low, high = 0, len(aims)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if draws(aims[middle]).sum() <= total else (middle + 1, high)
    if low < len(aims):
        return draws(aims[low]), float(aims[low])
    return np.full(images, min(total // images, int(numbers[-1]))), np.inf


def _wanted(
    g: Smoothed, ask: Question, request: WidthRequest, pilot: _Pilot, numbers: np.ndarray, lost: np.ndarray
) -> np.ndarray:
    """Draws (B,) that reach the target, also beyond the most that are allowed; infinite where none up to `_FAR` do."""
    enough = pilot.curve <= request.width
    wanted = np.where(enough.any(axis=0), numbers[enough.argmax(axis=0)].astype(float), np.inf)
    more = _numbers(int(numbers[-1]), _FAR)
    for i in np.flatnonzero(~enough.any(axis=0) & ~lost):

        def reaches(n: float, i: int = int(i)) -> bool:
            found = _curve(g, ask, request, pilot.table[[i]], pilot.draws[[i]], np.array([int(n)]))
            return bool(found[0, 0] <= request.width)

        if reaches(int(more[-1])):
            wanted[i] = more[bisect_left(more.tolist(), True, key=reaches)]
    return wanted


def _certified(g: Smoothed, request: WidthRequest, n: np.ndarray) -> tuple[Allotted, ...]:
    """A certificate for each number of draws that occurs in n (B,)."""
    groups, done = [], 0
    for size in np.unique(n[n > 0]).tolist():
        same = np.flatnonzero(n == size)
        sized = copy.copy(g)  # shares the networks
        sized.n = size

        def progress(drawn: int, _: int, before: int = done) -> None:
            if request.progress is not None:
                request.progress(before + drawn, int(n.sum()))

        certificate = sized.certify(
            request.x[same.tolist()], request.eps.tolist(), request.alpha, request.seed,
            coverage=request.coverage, pool=request.pool, progress=progress,
        )  # fmt: skip
        groups.append(Allotted(same, certificate))
        done += size * len(same)
    return tuple(groups)
