"""Several pieces of work timed in turns, and their ratios to one of them.

Why not pytest-benchmark or asv alone: they time each case in a block of its own. What a shared machine does in between
(other work, its clock as it warms up) then goes into the ratio of two blocks, and no number of repetitions inside the
blocks takes it out. Here every round runs every piece once, in a shuffled order. A round's ratio has both its readings
from the same few seconds, and the median over rounds forgets those that something else ran into.

What is compared has to be the same work: the callers count forwards, backwards and gains, and raise `UnequalWork`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import benchmark

Work = Callable[[], Any]
Read = Callable[[Work], float]
"""How a reading of a piece of work is made: it runs it, and returns seconds (or what else is compared)."""

RESAMPLES = 4000
COVERAGE = 0.95


class UnequalWork(Exception):
    """Two pieces that are compared do not do the same work: their ratio would mean nothing."""


def equal(what: str, ours: float, theirs: float, tolerance: float = 0.0) -> None:
    """Raise `UnequalWork` unless two numbers agree up to a share of the larger one."""
    if not abs(ours - theirs) <= tolerance * max(abs(ours), abs(theirs)):
        within = f" within {tolerance:.0%}" if tolerance else ""
        raise UnequalWork(f"{what}: {ours:g} and {theirs:g}, expected the same{within}")


def by_timer(work: Work) -> float:
    """Seconds of one call by torch's Timer, which sets the thread count, calls twice before, and waits for a GPU."""
    timer = benchmark.Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.timeit(1).mean


def by_clock(work: Work) -> float:
    """Seconds of one call, without calls before it: for work of a second or more. Waits for a GPU."""
    began = benchmark.timer()
    work()
    return benchmark.timer() - began


def as_told(work: Work) -> float:
    """The number that the work itself returns."""
    return float(work())


class Summary(NamedTuple):
    """Median of the rounds, their quartiles, and a 95 % bootstrap interval of the median."""

    median: float
    q1: float
    q3: float
    lo: float
    hi: float
    rounds: int


@dataclass(frozen=True)
class Readings:
    """What `interleave` read.

    Attributes:
        values: (rounds,) readings of each piece of work that ran.
        errors: why the others did not, by their names.
    """

    values: dict[str, np.ndarray]
    errors: dict[str, str] = field(default_factory=dict)


def interleave(
    works: Mapping[str, Work], rounds: int, *, read: Read = by_timer, warm_up: int = 1, seed: int = 0
) -> Readings:
    """Run every piece of work once a round, in an order that is shuffled anew each round.

    One that raises is left out from then on and has no reading; the others go on.

    Args:
        works: the pieces, by name.
        rounds: rounds that count.
        read: how a reading is made.
        warm_up: rounds before, whose readings are dropped.
        seed: of the orders.
    """
    rng = np.random.default_rng(seed)
    values: dict[str, list[float]] = {name: [] for name in works}
    errors: dict[str, str] = {}
    for _ in range(warm_up + rounds):
        for name in rng.permutation(list(values)).tolist():
            try:
                values[name].append(read(works[name]))
            except Exception as error:
                errors[name] = told(error)
                del values[name]
    return Readings({name: np.array(taken[warm_up:]) for name, taken in values.items()}, errors)


def told(error: BaseException) -> str:
    """An error in a line: its kind, what it says, and where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({last[0].name}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def ratios(readings: Readings, baseline: str, *, speed: bool = False, seed: int = 0) -> dict[str, Summary]:
    """Each piece's reading over the baseline's of the same round; with `speed` the inverse, so that more is faster.

    Raises:
        KeyError: the baseline has no readings.
    """
    base = readings.values[baseline]
    return {name: summarise(base / taken if speed else taken / base, seed) for name, taken in readings.values.items()}


def summarise(values: np.ndarray, seed: int = 0) -> Summary:
    """Median and spread of one number a round (rounds,)."""
    draws = np.random.default_rng(seed).choice(values, (RESAMPLES, len(values)))
    tail = 100 * (1 - COVERAGE) / 2
    lo, hi = np.percentile(np.median(draws, axis=1), [tail, 100 - tail])
    q1, middle, q3 = np.percentile(values, [25, 50, 75])
    return Summary(float(middle), float(q1), float(q3), float(lo), float(hi), len(values))


def exponent(points: Sequence[float], taken: Sequence[np.ndarray], seed: int = 0) -> Summary:
    """The power of x with which readings grow: 0 for flat, 1 for linear; a least-squares line in logarithms each round.

    Args:
        points: the x > 0, at least two different ones.
        taken: readings (rounds,) at each.
        seed: of the bootstrap.
    """
    x = np.log(np.asarray(points, dtype=float))
    x = x - x.mean()
    return summarise(x @ np.log(np.stack(list(taken))) / (x @ x), seed)


def slope(points: Sequence[float], taken: Sequence[np.ndarray], seed: int = 0) -> Summary:
    """What a reading grows by with each unit of x: a least-squares line each round."""
    x = np.asarray(points, dtype=float) - np.mean(points)
    return summarise(x @ np.stack(list(taken)) / (x @ x), seed)
