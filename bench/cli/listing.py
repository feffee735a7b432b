"""`robustiqa list`."""

from __future__ import annotations

import json
from typing import Any

import click
from tabulate import tabulate

from ..errors import RobustIQAError
from ..registry import KINDS, registry
from ..spec import Spec, format_value
from ..suite import load_suite, suite_names
from .options import with_plugins

_PLURALS = {"metrics": "metric", "datasets": "dataset", "defenses": "defense", "denoisers": "denoiser",
            "attacks": "attack", "suites": "suite"}  # fmt: skip
_MORE = {"denoiser": "or give a file: weights of `robustiqa train denoiser`, or KAIR's dncnn_*.pth"}


@click.command("list")
@click.argument("what", required=False, type=click.Choice(list(_PLURALS)))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_plugins
def list_(what: str | None, as_json: bool) -> None:
    """List what can be named on the command line, with parameters and their defaults."""
    rows = [row for kind in ([_PLURALS[what]] if what else [*KINDS, "suite"]) for row in _rows(kind)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        click.secho(f"{kind}s", bold=True)
        table = [[row["name"], row["parameters"], row["error"] or row["summary"]] for row in mine]
        click.echo(tabulate(table, tablefmt="plain", maxcolwidths=[None, 44, 60]))
        click.echo(f"{_MORE[kind]}\n" if kind in _MORE else "")


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind == "suite":
        return [_row(kind, name, " ".join(load_suite(name).description.split())) for name in suite_names()]
    return [_plugin(kind, name) for name in registry.names(kind)]


def _plugin(kind: str, name: str) -> dict[str, Any]:
    """One plug-in; a broken one is listed with its error."""
    try:
        plugin = registry.get(kind, name)
    except (RobustIQAError, ImportError) as error:
        return _row(kind, name, error=f"BROKEN: {error}")
    try:
        parameters = plugin.bind(Spec(name))
    except RobustIQAError as error:  # a required parameter
        return _row(kind, name, plugin.summary, str(error).split(": ")[-1], origin=plugin.origin)
    text = ", ".join(f"{k}={format_value(v)}" for k, v in parameters.items())
    return _row(kind, name, plugin.summary, text, origin=plugin.origin)


def _row(
    kind: str, name: str, summary: str = "", parameters: str = "", origin: str = "built-in", error: str = ""
) -> dict[str, Any]:
    return {"kind": kind, "name": name, "parameters": parameters, "summary": summary, "origin": origin, "error": error}
