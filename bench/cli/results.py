"""`robustiqa collect`."""

from __future__ import annotations

import click

from ..agreement import TOLERANCE
from ..errors import BadParameter, BrokenInvariant
from ..merge import merge_runs
from ..registry import resolve_target
from ..run import COLLECT
from .options import with_plugins


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(file_okay=False))
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the united run, for several.")
@click.option("--tolerance", default=TOLERANCE, show_default=True,
              help="Relative difference that two results of one cell may have; 0 for none.")  # fmt: skip
@click.option("--despite-violations", is_flag=True,
              help="Write tables that cannot be right, for diagnosis, into OUT/leaderboard-violated.")  # fmt: skip
@with_plugins
def collect(runs: tuple[str, ...], out: str | None, tolerance: float, despite_violations: bool) -> None:
    """Write the tables of a run again, from its records alone; with --out D, unite several runs in the folder D.

    Cells that several runs have must agree, and are counted once; one run's result takes the place of another's error.
    D may be a new folder, one of the runs, or what an earlier call has made of them. Nothing is computed, and no
    plug-in is needed.

    Nothing is written where a figure would be wrong (docs/rules.md): the error names the rows.
    """
    if out is None:
        if len(runs) > 1:
            raise BadParameter(f"{len(runs)} runs: say with --out where the united one goes")
        out = runs[0]
    else:
        merged = merge_runs(runs, out, tolerance)
        for note in merged.notes:
            click.echo(f"robustiqa: note: {note}", err=True)
        click.echo(f"{len(merged.cells)} cells, {len(merged.failed)} failed, {len(merged.missing)} not computed yet")
        for cell, why in merged.failed.items():
            click.echo(f"robustiqa: cell {cell} failed: {why}", err=True)
    tables = resolve_target(COLLECT)(out, despite_violations=despite_violations)
    for table in tables.values():
        click.echo(str(table))
    if "violations" in tables:
        raise BrokenInvariant(f"these tables are no board: what is wrong is in {str(tables['violations'])!r}")
