"""`robustiqa plan`."""

from __future__ import annotations

from collections import Counter

import click

from ..plan import make_plan
from ..suite import load_suite
from .options import suite_options, with_plugins


@click.command()
@suite_options
@with_plugins
def plan(suite: str, **lists: tuple[str, ...]) -> None:
    """Show the cells that a suite would run, and what it leaves out with the reason."""
    made = make_plan(load_suite(suite).override(**lists))
    for (metric, defense, kind), count in Counter((c.metric, c.defense, c.kind) for c in made.cells).items():
        click.echo(f"{metric} | {defense} | {kind}: {count} cells")
    for what, why in made.skipped:
        click.echo(f"left out: {what}: {why}")
    click.echo(f"{len(made.cells)} cells")
