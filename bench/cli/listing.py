"""`robustiqa list`."""

from __future__ import annotations

import json
from typing import Any

import click
from tabulate import tabulate

from ..errors import RobustIQAError
from ..metrics.pyiqa.listing import rows as pyiqa_rows
from ..registry import KINDS, registry
from ..spec import Spec, format_value
from ..suite import load_suite, suite_names
from .options import with_plugins

_PLURALS = {"metrics": "metric", "datasets": "dataset", "defenses": "defense", "denoisers": "denoiser",
            "attacks": "attack", "suites": "suite"}  # fmt: skip
_MORE = {"denoiser": "or give a file: weights of `robustiqa train denoiser`, or KAIR's dncnn_*.pth"}


@click.command("list")
@click.argument("what", required=False, type=click.Choice(list(_PLURALS)))
@click.option("--pyiqa", "of_pyiqa", is_flag=True,
              help="With `metrics`: those of pyiqa, which of them work here, and why the others do not.")  # fmt: skip
@click.option("--build", is_flag=True, help="With --pyiqa: build those that have their files, and score a picture.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_plugins
def list_(what: str | None, of_pyiqa: bool, build: bool, as_json: bool) -> None:
    """List what can be named on the command line, with parameters and their defaults."""
    if (of_pyiqa and what != "metrics") or (build and not of_pyiqa):
        raise click.UsageError("--pyiqa goes with `list metrics`, and --build with --pyiqa")
    if of_pyiqa:
        _list_pyiqa(build, as_json)
        return
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


def _list_pyiqa(build: bool, as_json: bool) -> None:
    found = pyiqa_rows(build)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = [[f"pyiqa:{r['name']}", "yes" if r["usable"] else "no", *_facts(r), _remark(r)] for r in found]
    headers = ["metric", "works", "better", "range", "smallest", "gradient", "remarks"]
    click.echo(tabulate(table, headers=headers, tablefmt="plain", maxcolwidths=[None] * 6 + [70]))
    works = sum(row["usable"] for row in found)
    click.echo(f"\n{works} of {len(found)} work here; missing files are fetched when a metric is first used, where "
               "there is a network; --json tells where they come from and go")  # fmt: skip


def _facts(row: dict[str, Any]) -> list[str]:
    """Direction, range, smallest side and gradient; "?" is what only building it tells."""
    if "lower_better" not in row:
        return ["", "", "", ""]
    low, high = row["range"] or ("", "")
    smallest = str(row["min_size"] or "?") + (f", multiples of {row['multiple']}" if (row["multiple"] or 1) > 1 else "")
    gradient = {True: "yes", False: "none", None: "?"}[row["gradient"]]
    ends = f"{low:g} to {high:g}" if row["range"] else "measured"
    return ["lower" if row["lower_better"] else "higher", ends, smallest, gradient]


def _remark(row: dict[str, Any]) -> str:
    """Why it does not work, what to know of it, and what came of building it."""
    built = f"scored {row['score']:.4g} after {row['seconds']:g} s" if "score" in row else ""
    return "; ".join(filter(None, (row["why"], row.get("note", ""), built)))


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
