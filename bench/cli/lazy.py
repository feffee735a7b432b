"""Groups of commands whose modules are imported when they are called: `--help` answers at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from ..errors import UnknownName


class LazyGroup(click.Group):
    """A group that knows its commands by a table.

    Args:
        table: name -> (`module:attribute` in this package, one line for the help).
        attrs: as for `click.Group`.
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in self._table:
            return None
        module, _, name = self._table[cmd_name][0].partition(":")
        return getattr(importlib.import_module(f".{module}", __package__), name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; raises `UnknownName` with the nearest command."""
        if args and args[0] not in self._table and not args[0].startswith("-"):
            raise UnknownName("command", args[0], self._table)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._table.items()])
