"""`robustiqa report`."""

from __future__ import annotations

import click

from ..registry import PACKAGE, resolve_target
from .options import with_plugins


@click.command()
@click.argument("out", type=click.Path(file_okay=False))
@click.option("--images/--no-images", default=None, help="Embed images of all data sets, or none (default: those that "
              "their data set declares free to show).")  # fmt: skip
@with_plugins
def report(out: str, images: bool | None) -> None:
    """Write OUT/report.html: the boards, plots and pictures of a run in one file that needs no network."""
    show = "licensed" if images is None else "all" if images else "none"
    path = resolve_target(f"{PACKAGE}.leaderboard.report:report")(out, show)
    click.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
