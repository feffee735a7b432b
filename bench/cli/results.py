"""`robustiqa collect` and `rescore`."""

from __future__ import annotations

import sys
from typing import Any

import click
from tabulate import tabulate
from tqdm import tqdm

from ...leaderboard.left_out import recorded
from ..agreement import TOLERANCE
from ..errors import BadParameter, BrokenInvariant
from ..merge import merge_runs
from ..registry import resolve_target
from ..rescore import rescore as rescore_run
from ..run import COLLECT
from ..store import Store
from ..terminal import echo, echo_data, printable
from .options import with_plugins


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(file_okay=False))
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the united run, for several.")
@click.option("--tolerance", default=TOLERANCE, show_default=True,
              help="Relative difference that two results of one cell may have; 0 for none.")  # fmt: skip
@click.option("--despite-violations", is_flag=True,
              help="Write tables that cannot be right, for diagnosis, into OUT/leaderboard-violated.")  # fmt: skip
@click.option("--without", multiple=True, metavar="DEFENSE",
              help="Leave a defence out of the tables, which replace those that are there; its row stays, without "
                   "figures and with the flag left-out.")  # fmt: skip
@click.option(
    "--only", multiple=True, metavar="DEFENSE", help="Leave all others out, but for none, the unit of the gains."
)
@click.option("--because", default="", metavar="TEXT", help="Who leaves them out, and why: the board says it.")
@with_plugins
def collect(runs: tuple[str, ...], out: str | None, tolerance: float, **how: Any) -> None:
    """Write the tables of a run again, from its records alone; with --out D, unite several runs in the folder D.

    Cells that several runs have must agree, and are counted once; one run's result takes the place of another's error.
    D may be a new folder, one of the runs, or what an earlier call has made of them. Nothing is computed, and no
    plug-in is needed.

    Nothing is written where a figure would be wrong (docs/rules.md): the error names the rows.

    What --without or --only has left out, the next call without them writes again.
    """
    if out is None:
        out, *more = runs
        if more:
            raise BadParameter(f"{len(runs)} runs: say with --out where the united one goes")
    else:
        merged = merge_runs(runs, out, tolerance)
        for note in merged.notes:
            echo(f"robustiqa: note: {note}", err=True)
        echo(f"{len(merged.cells)} cells, {len(merged.failed)} failed, {len(merged.missing)} not computed yet")
        for cell, why in merged.failed.items():
            echo(f"robustiqa: cell {cell} failed: {why}", err=True)
    tables = resolve_target(COLLECT)(out, **how)
    for table in tables.values():
        echo(str(table))
    left = recorded(Store(out).read_json("run.json"))
    if left.without and "violations" not in tables:
        echo(left.sentence)
        echo(f"these tables replace those with all entrants; `robustiqa collect {out}` writes those again")
    if "violations" in tables:
        raise BrokenInvariant(f"these tables are no board: what is wrong is in {str(tables['violations'])!r}")


@click.command()
@click.argument("run", type=click.Path(file_okay=False), metavar="RUN")
@click.option("--out", type=click.Path(file_okay=False), help="New folder for a run with the new figures.")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@with_plugins
def rescore(run: str, out: str | None, device: str, as_csv: bool) -> None:
    """Score the images of a finished run with the present code, without attacking again, and compare.

    Needs the images that `robustiqa run --save-images` keeps. RUN is not changed; with --out, a run with the new
    figures is written there, and its tables.
    """
    bar = tqdm(unit="cell", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def tell(label: str) -> None:
        bar.set_description(printable(label, lines=False))
        bar.update()

    with bar:
        found = rescore_run(run, out, device, tell)
    if as_csv:
        echo_data(found.table.to_csv(index=False, float_format="%.9g"))
    else:
        echo(tabulate(found.table.to_numpy().tolist(), list(found.table.columns), "github", floatfmt=".6g"))
    echo(f"{found.equal} cells as stored, {found.rounded} up to rounding, {found.changed} changed, "
               f"{len(found.failed)} failed", err=True)  # fmt: skip
    for note in found.notes:
        echo(f"robustiqa: note: {note}", err=True)
    for cell, why in found.failed.items():
        echo(f"robustiqa: cell {cell} cannot be scored again: {why}", err=True)
    if found.out:
        for table in resolve_target(COLLECT)(found.out).values():
            echo(str(table), err=as_csv)
    sys.exit(1 if found.failed else 0)
