"""`robustiqa export`."""

from __future__ import annotations

from pathlib import Path

import click

from ..files import make_folder, write_atomically
from ..registry import PACKAGE, resolve_target
from ..terminal import echo, echo_data


@click.command()
@click.argument("out", type=click.Path(file_okay=False))
@click.option("--format", "form", required=True, help="csv, markdown, latex or json.")
@click.option("--table", help="Name of the table; the summary by default, in JSON all of them.")
@click.option("--columns", default="", help="Columns to show, with commas between them.")
@click.option("--out", "file", type=click.Path(dir_okay=False), help="File to write; printed by default.")
def export(out: str, form: str, table: str | None, columns: str, file: str | None) -> None:
    """A table of the board in the run's folder OUT in another form.

    Tables are read as `collect` wrote them: OUT/leaderboard/*.csv.
    """
    chosen = [name.strip() for name in columns.split(",") if name.strip()]
    text: str = resolve_target(f"{PACKAGE}.leaderboard.exports:export")(out, form, table, chosen)
    if file is None:
        echo_data(text)
        return
    path = Path(file)
    make_folder(path.parent)
    write_atomically(path, text.encode())
    echo(str(path))
