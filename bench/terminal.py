"""Text that others wrote, on a terminal: shown, and obeyed by none.

Names in a plan, messages in a record and lines of a log may come from a stranger's folder or archive. A terminal takes
some characters in them for orders: to move the cursor, to retitle the window, to write what the user seems to type.
"""

from __future__ import annotations

import sys

import click

_KEPT = {"\n", "\t"}


def printable(text: str, lines: bool = True) -> str:
    """The text with every character that is not to be seen written as its code: `\\x1b`, `\\u202e`.

    Those are control characters, marks that turn the direction of writing, separators other than the space, and what is
    no character at all (lone surrogates, which no terminal's encoding can write).

    Args:
        text: any.
        lines: whether line feeds and tabs stay; not in what has to stay on its line, such as a cell of a table.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c in _KEPT) else _code(c) for c in text)


def echo(text: str, err: bool = False) -> None:
    """Print a text that may hold words of others; on standard error with `err`."""
    click.echo(printable(text), err=err)


def echo_data(text: str) -> None:
    """Print what a program may read, without a line feed of ours: as it is, unless it goes to a terminal."""
    # `color=True`: click would take such characters out where no terminal reads, and change a name.
    click.echo(printable(text) if sys.stdout.isatty() else text, nl=False, color=True)


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
