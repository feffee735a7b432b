"""What a benchmark gives: tables of ratios, as plain data that JSON can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from .interleave import Read, Readings, Summary, Work, by_clock, exponent, interleave, ratios

SCHEMA = 1
"""Of the JSON file; a change that the page cannot read counts it up."""

Reads = Literal["speed", "cost"]
"""speed: the baseline's time over the row's, so more is faster. cost: the row's over the baseline's, so less is."""


@dataclass(frozen=True)
class Settings:
    """What all benchmarks are asked for.

    Attributes:
        quick: small settings, to see that everything works; the figures are rough.
        device: where networks and images lie.
        seed: of orders and bootstraps.
        rounds: rounds of a comparison.
    """

    quick: bool = False
    device: str = "cpu"
    seed: int = 0
    rounds: int = 11

    def at_most(self, rounds: int) -> Settings:
        """The same with fewer rounds, for what takes long."""
        return replace(self, rounds=min(self.rounds, rounds))


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        name: what was run, or the point of a series.
        ratio: to the baseline.
        reading: median absolute reading, in the table's unit: context, of no use on another machine.
        x: place on the axis, in a series.
    """

    name: str
    ratio: Summary
    reading: float
    x: float | None = None


@dataclass
class Table:
    """Ratios to one baseline.

    Attributes:
        name: kebab-case, unique in a file.
        title: its heading.
        how: what was measured and how, in sentences.
        reads: which way the ratios go.
        baseline: the row that is 1.
        rows: the lines, the baseline among them.
        unit: of the absolute readings.
        growth: the fitted power of x of a series.
        expected: what it would be: 0 if flat, 1 if linear.
        notes: what else is to be said: settings that were chosen, peers that are absent.
        errors: rows that failed, and why.
    """

    name: str
    title: str
    how: str
    reads: Reads
    baseline: str
    rows: list[Row]
    unit: str = "s"
    growth: Summary | None = None
    expected: float = 0.0
    notes: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data = asdict(self)
        data["growth"] = None if self.growth is None else self.growth._asdict()
        for line, row in zip(data["rows"], self.rows, strict=True):
            line["ratio"] = row.ratio._asdict()
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Table:
        """The inverse of `to_json`."""
        rows = [Row(**{**line, "ratio": Summary(**line["ratio"])}) for line in data["rows"]]
        growth = None if data["growth"] is None else Summary(**data["growth"])
        return cls(**{**data, "rows": rows, "growth": growth})


Benchmark = Callable[[Settings], Iterator[Table]]


def table_of(
    readings: Readings,
    name: str,
    title: str,
    how: str,
    *,
    baseline: str,
    reads: Reads,
    settings: Settings,
    notes: Sequence[str] = (),
) -> Table:
    """The table of readings that were taken in turns; without the baseline's there are only errors in it."""
    found: dict[str, Summary] = {}
    if baseline in readings.values:
        found = ratios(readings, baseline, speed=reads == "speed", seed=settings.seed)
    rows = [Row(row, ratio, float(np.median(readings.values[row]))) for row, ratio in found.items()]
    return Table(name, title, how, reads, baseline, rows, notes=list(notes), errors=dict(readings.errors))


def compare(works: Mapping[str, Work], settings: Settings, *, read: Read = by_clock, **about: Any) -> Table:
    """Run the works in turns, and tabulate them; `about` as for `table_of`."""
    readings = interleave(works, settings.rounds, read=read, seed=settings.seed)
    return table_of(readings, settings=settings, **about)


def series(
    works: Mapping[float, Work],
    name: str,
    title: str,
    how: str,
    *,
    expected: float,
    settings: Settings,
    read: Read = by_clock,
    warm_up: int = 1,
    unit: str = "s",
    notes: Callable[[Sequence[float], Sequence[np.ndarray]], Sequence[str]] = lambda points, taken: (),
) -> Table:
    """Cost at several points, as ratios to the first of them, with the power of x with which it grows.

    Args:
        works: the pieces, by their x.
        name, title, how: as for a table.
        expected: the power that it would grow with, 0 or 1.
        settings: of the run.
        read: how a reading is made.
        warm_up: rounds before, whose readings are dropped.
        unit: of the readings.
        notes: made of the points and their readings.
    """
    named = {f"{x:g}": (x, work) for x, work in works.items()}
    readings = interleave(
        {label: work for label, (_, work) in named.items()},
        settings.rounds,
        read=read,
        warm_up=warm_up,
        seed=settings.seed,
    )
    first = next(iter(named))
    made = table_of(readings, name, title, how, baseline=first, reads="cost", settings=settings)
    made.rows = [Row(row.name, row.ratio, row.reading, named[row.name][0]) for row in made.rows]
    made.rows.sort(key=lambda row: row.x or 0)
    made.unit, made.expected = unit, expected
    if len(made.rows) > 1:
        points, taken = [row.x or 0 for row in made.rows], [readings.values[row.name] for row in made.rows]
        made.growth = exponent(points, taken, settings.seed)
        made.notes += notes(points, taken)
    return made
