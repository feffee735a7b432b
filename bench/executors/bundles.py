"""Cells in bundles that one worker computes: those of a metric, defence and data set share what is loaded for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..plan import Cell

Bundle = tuple[Cell, ...]

_COST = {"score": 1.0, "check": 300.0, "certify": 100.0, "attack": 30.0}


def weight(cell: Cell) -> float:
    """A rough guess of a cell's share of the work, where nothing better is known: images times a cost of their kind."""
    return _COST[cell.kind] * (cell.images or cell.stop - cell.start)


def make_bundles(cells: Sequence[Cell], workers: int, cost: Callable[[Cell], float] = weight) -> list[Bundle]:
    """Bundles by metric, defence and data set, the longest first.

    One that is longer than half of a worker's share is cut, by images, so that no worker is left with it at the end.

    Args:
        cells: what is to be computed, in the order of the plan, which bundles keep.
        workers: how many there are.
        cost: expected cost of a cell in any unit.
    """
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.metric, cell.defense, cell.dataset), []).append(cell)
    most = sum(map(cost, cells)) / (2 * workers) if workers > 1 else float("inf")
    bundles = [part for group in groups.values() for part in _parts(group, most, cost)]
    return sorted(bundles, key=lambda bundle: -sum(map(cost, bundle)))


def _parts(group: list[Cell], most: float, cost: Callable[[Cell], float]) -> list[Bundle]:
    """A group as bundles of a cost of about `most`; cells of the same images stay together if they can."""
    if sum(map(cost, group)) <= most:
        return [tuple(group)]
    parts: list[list[Cell]] = [[]]
    held = 0.0
    for cell in sorted(group, key=lambda c: c.start):
        if parts[-1] and held + cost(cell) > most:
            parts.append([])
            held = 0.0
        parts[-1].append(cell)
        held += cost(cell)
    return [tuple(part) for part in parts]
