"""`robustiqa report`."""

from __future__ import annotations

import click

from ..registry import PACKAGE, resolve_target
from .options import with_plugins


@click.command()
@click.argument("out", type=click.Path(file_okay=False))
@click.option("--images/--no-images", default=None, help="Embed images of all data sets, or none (default: those that "
              "their data set declares free to show).")  # fmt: skip
@click.option("--submissions", type=click.Path(file_okay=False, exists=True),
              help="Folder of accepted submissions to show (default: OUT/submissions, if there is one).")  # fmt: skip
@with_plugins
def report(out: str, images: bool | None, submissions: str | None) -> None:
    """Write OUT/report.html: the boards, plots and pictures of a run in one file that needs no network."""
    show = "licensed" if images is None else "all" if images else "none"
    path = resolve_target(f"{PACKAGE}.leaderboard.report:report")(out, show, submissions)
    click.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
