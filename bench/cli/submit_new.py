"""`robustiqa submit new`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from ..submission.template import FILES, write_template


@click.command()
@click.argument("name")
@click.option("--break", "is_break", is_flag=True, help="Adversarial images that beat a number, instead of a defence.")
@click.option("--into", default=".", show_default=True, type=click.Path(file_okay=False), help="Folder for NAME.")
def new(name: str, is_break: bool, into: str) -> None:
    """Write the folder NAME with a template that works: metadata, a defence and its test, or a script for a break."""
    kind = "break" if is_break else "defense"
    folder = write_template(name, kind, Path(into))
    for file in FILES[kind]:
        click.echo(str(folder / file))
    first = f"python {folder / 'make_images.py'}" if is_break else f"python -m pytest {folder}"
    needs = "" if is_break or find_spec("pytest") else " (after `pip install pytest`)"
    click.echo(f"next: `{first}`{needs}, then `robustiqa submit verify {folder}`; change what says CHANGE THIS")
