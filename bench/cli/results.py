"""`robustiqa collect`."""

from __future__ import annotations

import click

from ..agreement import TOLERANCE
from ..errors import BadParameter
from ..merge import merge_runs
from ..registry import resolve_target
from ..run import COLLECT
from .options import with_plugins


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(file_okay=False))
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the united run, for several.")
@click.option("--tolerance", default=TOLERANCE, show_default=True,
              help="Relative difference that two results of one cell may have; 0 for none.")  # fmt: skip
@with_plugins
def collect(runs: tuple[str, ...], out: str | None, tolerance: float) -> None:
    """Write the tables of a run again, from its records alone; with --out D, unite several runs in the folder D.

    Cells that several runs have must agree, and are counted once; one run's result takes the place of another's error.
    D may be a new folder, one of the runs, or what an earlier call has made of them. Nothing is computed, and no
    plug-in is needed.
    """
    if out is None:
        out, *more = runs
        if more:
            raise BadParameter(f"{len(runs)} runs: say with --out where the united one goes")
    else:
        merged = merge_runs(runs, out, tolerance)
        for note in merged.notes:
            click.echo(f"robustiqa: note: {note}", err=True)
        click.echo(f"{len(merged.cells)} cells, {len(merged.failed)} failed, {len(merged.missing)} not computed yet")
        for cell, why in merged.failed.items():
            click.echo(f"robustiqa: cell {cell} failed: {why}", err=True)
    for table in resolve_target(COLLECT)(out).values():
        click.echo(str(table))
