"""`robustiqa plan`: what a suite would run, what is done already, what stands in the way, and what it would cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
from tabulate import tabulate

from ..errors import counted
from ..estimate import Cost, Estimate, estimate
from ..plan import Cell, Plan, make_plan
from ..store import Store
from ..suite import load_suite
from ..terminal import echo
from .options import suite_options, with_plugins

WORKERS = (1, 2, 4, 8, 16)


@dataclass
class Line:
    """A line of the grid: one thing done to one defended metric.

    Attributes:
        cells, images: planned; `images` counts each one once for each threat.
        done, failed: of the cells, in the folder of results.
        cost: of the cells that are left, if it was estimated.
    """

    metric: str
    defense: str
    dataset: str
    what: str
    cells: int = 0
    images: int = 0
    done: int = 0
    failed: int = 0
    cost: Cost = field(default_factory=Cost)


@click.command()
@suite_options
@click.option("--out", type=click.Path(file_okay=False), help="Folder of results: what is complete there is not left.")
@click.option("--estimate", "costs", is_flag=True, help="Estimate the cost of what is left, by a timing probe.")
@click.option("--workers", type=click.IntRange(min=1), multiple=True, help="With --estimate: hours on so many workers.")
@click.option("--device", default="cpu", show_default=True, help="Torch device of the probe.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_plugins
def plan(
    suite: str,
    out: str | None,
    costs: bool,
    workers: tuple[int, ...],
    device: str,
    as_json: bool,
    **lists: tuple[str, ...],
) -> None:
    """Show the cells that a suite would run, what it leaves out with the reason, and what would go wrong.

    The exit code is 1 where images will fail, as far as their headers tell: they are missing, of no usable kind, or too
    small for a metric or behind a defence.
    """
    made = make_plan(load_suite(suite).override(**lists))
    ids = [cell.id for cell in made.cells]
    store = Store(out) if out else None
    done = store.completed(ids) if store else set()
    failed = set(store.failed(ids)) if store else set()
    left = [cell for cell in made.cells if cell.id not in done]
    found = estimate(left, device, lambda text: echo(text, err=True)) if costs else None
    lines = _grid(made, done, failed, found)
    wrong = [f"will fail: {what}: {why}" for what, why in made.foreseen]
    wrong += [f"unknown cost: {what}: {why}" for what, why in (found.unknown if found else ())]
    if as_json:
        echo(json.dumps(_json(made, lines, wrong, found, workers or WORKERS), indent=2))
    else:
        _show(made, lines, wrong, found, workers or WORKERS)
    sys.exit(1 if wrong else 0)


def _grid(made: Plan, done: set[str], failed: set[str], found: Estimate | None) -> list[Line]:
    lines: dict[tuple[str, ...], Line] = {}
    for cell in made.cells:
        key = (cell.metric, cell.defense, cell.dataset, cell.attack or cell.kind)
        line = lines.setdefault(key, Line(*key))
        line.cells += 1
        line.images += _images(cell)
        line.done += cell.id in done
        line.failed += cell.id in failed
        if found:
            line.cost = line.cost.plus(found.cells.get(cell.id, Cost()))
    return list(lines.values())


def _images(cell: Cell) -> int:
    return min(cell.images, cell.stop) if cell.kind == "check" else cell.stop - cell.start


def _show(
    made: Plan, lines: Sequence[Line], wrong: Sequence[str], found: Estimate | None, workers: Sequence[int]
) -> None:  # fmt: skip
    kept = any(line.done or line.failed for line in lines)
    headers = ["metric", "defence", "data set", "what", "cells", "images"]
    headers += ["done", "failed"] if kept else []
    headers += ["forwards", "backwards", "time"] if found else []
    rows = []
    for line in lines:
        row: list[Any] = [line.metric, line.defense, line.dataset, line.what, line.cells, line.images]
        row += [line.done, line.failed] if kept else []
        row += [_count(line.cost.forwards), _count(line.cost.backwards), _time(line.cost.seconds)] if found else []
        rows.append(row)
    echo(tabulate(rows, headers=headers, disable_numparse=True, colalign=["left"] * 4 + ["right"] * (len(headers) - 4)))
    for what, why in made.skipped:
        echo(f"left out: {what}: {why}")
    for text in made.warnings:
        echo(f"warning: {text}")
    for text in wrong:
        echo(text)
    done, failed = sum(line.done for line in lines), sum(line.failed for line in lines)
    state = f", {done} done, {failed} failed, {len(made.cells) - done} left" if kept else ""
    echo(f"{counted(len(made.cells), 'cell')}{state}")
    for text in _cost_lines(found, workers) if found else ():
        echo(text)


def _cost_lines(found: Estimate, workers: Sequence[int]) -> Iterator[str]:
    total = found.total
    yield f"{_count(total.forwards)} forwards, {_count(total.backwards)} backwards"
    yield "on this machine, as busy as it was during the probe, about: " + ", ".join(
        f"{_time(found.seconds(n))} ({counted(n, 'worker')})" for n in workers
    )
    pool = f", and {_size(total.pool_bytes)} of draws that certificates keep in OUT/pools" if total.pool_bytes else ""
    yield f"{_size(total.bytes)} of results{pool}"


def _json(
    made: Plan, lines: Sequence[Line], wrong: Sequence[str], found: Estimate | None, workers: Sequence[int]
) -> dict[str, Any]:  # fmt: skip
    about: dict[str, Any] = {
        "cells": len(made.cells),
        "done": sum(line.done for line in lines),
        "failed": sum(line.failed for line in lines),
        "grid": [vars(line) | {"cost": line.cost._asdict() if found else None} for line in lines],
        "left_out": [{"what": what, "why": why} for what, why in made.skipped],
        "warnings": made.warnings,
        "problems": list(wrong),
    }
    if found:
        about["estimate"] = found.total._asdict() | {"hours": {str(n): found.seconds(n) / 3600 for n in workers}}
    return about


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number / 1e6:,.1f} M"


def _time(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


def _size(number: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number:.0f} bytes"
