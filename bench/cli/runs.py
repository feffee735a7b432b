"""`robustiqa plan`, `run` and `collect`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pandas as pd

from ..plan import make_plan
from ..registry import resolve_target
from ..run import COLLECT, run_suite
from ..suite import Suite, load_suite
from ..tuned import outdated, read_tuned, tuned_suite
from .options import with_plugins

Command = Callable[..., Any]


def _suite_options(command: Command) -> Command:
    for decorate in (
        click.option("--attack", "attacks", multiple=True, help="Run this attack instead of the suite's."),
        click.option("--dataset", "datasets", multiple=True, help="Run on this data set instead of the suite's."),
        click.option("--defense", "defenses", multiple=True, help="Run this defence instead of the suite's."),
        click.option("--metric", "metrics", multiple=True, help="Run this metric instead of the suite's."),
        click.option("--suite", default="quick", show_default=True, help="Name of a suite, or a YAML file."),
    ):
        command = decorate(command)
    return command


@click.command()
@_suite_options
@with_plugins
def plan(suite: str, **lists: tuple[str, ...]) -> None:
    """Show the cells that a suite would run, and what it leaves out or knows will fail, with the reason.

    What will fail are images that are missing, of no usable kind, or too small for a metric or behind a defence, as far
    as their headers tell. The exit code is 1 if there are any, as that of the run would be.
    """
    made = make_plan(_suite(suite, lists))
    for (metric, defense, kind), count in Counter((c.metric, c.defense, c.kind) for c in made.cells).items():
        click.echo(f"{metric} | {defense} | {kind}: {count} cells")
    for what, why in made.skipped:
        click.echo(f"left out: {what}: {why}")
    for what, why in made.foreseen:
        click.echo(f"will fail: {what}: {why}")
    click.echo(f"{len(made.cells)} cells")
    sys.exit(1 if made.foreseen else 0)


@click.command()
@_suite_options
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder of the results.")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--tuned", type=click.Path(), help="Outcome of `robustiqa tune`: its folder or tuned.json.")
@click.option("--executor", type=click.Choice(["inline"]), default="inline", show_default=True)
@with_plugins
def run(suite: str, out: str, device: str, tuned: str | None, executor: str, **lists: tuple[str, ...]) -> None:
    """Run a suite and write its tables; run it again to go on where it was interrupted."""
    asked = _suite(suite, lists)
    if tuned:
        found = read_tuned(Path(tuned))
        asked = tuned_suite(asked, found)
        for text in outdated(found):
            click.echo(f"robustiqa: warning: {text}", err=True)
    result = run_suite(asked, out, device=device)
    click.echo(Path(result.tables["board"]).read_text(encoding="utf-8"))
    click.echo(f"{result.computed} cells computed, {result.resumed} already complete, {len(result.failed)} failed")
    for table in result.tables.values():
        click.echo(str(table))
    for cell, message in result.failed.items():
        click.echo(f"robustiqa: cell {cell} failed: {message} (see {result.out / 'errors'})", err=True)
    if result.bad_images:
        where = result.tables["errors"]
        for message, count in Counter(pd.read_csv(where)["message"]).most_common(5):
            click.echo(f"robustiqa: {count} x {message}", err=True)
        click.echo(f"robustiqa: {result.bad_images} results are errors, not scores: see {where}", err=True)
    sys.exit(0 if result.ok else 1)


@click.command()
@click.argument("out", type=click.Path(file_okay=False))
@with_plugins
def collect(out: str) -> None:
    """Write the tables of the run in OUT again, from its records alone."""
    for table in resolve_target(COLLECT)(out).values():
        click.echo(str(table))


def _suite(text: str, lists: dict[str, tuple[str, ...]]) -> Suite:
    return load_suite(text).override(**lists)
