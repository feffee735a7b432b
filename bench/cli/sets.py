"""`robustiqa attack-set` and `transfer-matrix`: attacks on whole data sets that no suite runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import pandas as pd
from tabulate import tabulate

from ..api import Direction, Norm, Threat
from ..build import load_defense
from ..datasets import load_dataset
from ..errors import counted
from ..files import make_folder, write_atomically
from ..metrics import load_metric
from ..registry import PACKAGE, resolve_target
from .options import Command, Eps, with_plugins


def _on_a_set(command: Command) -> Command:
    """Add the options that both commands share."""
    for decorate in (
        click.option("--device", default="cpu", show_default=True, help="Torch device."),
        click.option("--seed", default=0, show_default=True, help="Base seed of all random streams."),
        click.option(
            "--out",
            type=click.Path(dir_okay=False),
            help="CSV file: a row an image, source and target.",
        ),
        click.option("--norm", type=click.Choice(["l2", "linf"]), default="linf", show_default=True),
        click.option("--dataset", required=True, help="Data set, e.g. photos[size=128,subset=quick]."),
        click.option("--defense", default="none", show_default=True, help="Defence, e.g. median-smoothing."),
    ):
        command = decorate(command)
    return command


@click.command("attack-set")
@click.option("--metric", required=True, help="Metric, e.g. tiny-iqa.")
@click.option("--method", type=click.Choice(["sma", "opposite"]), default="sma", show_default=True)
@click.option("--eps", type=Eps(), default="0.005", show_default=True, help="Budget in [0,1] pixel units.")
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="Gradient steps an image.")
@_on_a_set
@with_plugins
def attack_set(
    metric: str, method: str, eps: float, steps: int,
    defense: str, dataset: str, norm: Norm, out: str | None, seed: int, device: str,
) -> None:  # fmt: skip
    """Attack a data set so that its scores no longer correlate with what they were.

    sma finds target scores for all images together and brings each image to its own (arXiv 2404.13277); opposite
    raises the images below the median and lowers the others.
    """
    g = load_defense(defense, load_metric(metric, device))
    data = load_dataset(dataset)
    attack = resolve_target(f"{PACKAGE}.attacks.setlevel:attack_set")
    table: pd.DataFrame = attack(g, data, Threat(norm, eps), method, seed, steps=steps, device=device)
    found: pd.DataFrame = resolve_target(f"{PACKAGE}.leaderboard.setlevel:correlations")(table)
    _write(table, out)
    click.secho(
        f"{method} on {g.metric.spec} behind {g.spec}, {norm} {eps:g}, {counted(len(table), 'image')}", bold=True
    )
    names = {"truth": data.truth_name or "truth", "clean": "clean scores"}
    rows = [[r["measure"], names[r["to"]], r["when"], r["value"], r["lo"], r["hi"]] for r in found.to_dict("records")]
    headers = ["", "to", "attack", "value", "lo", "hi"]
    click.echo(tabulate(rows, headers=headers, tablefmt="github", floatfmt=".3f", missingval=""))
    moved = (table["attacked"] - table["clean"]).abs()
    cost = table[["forwards", "backwards", "seconds"]].mean()
    passes = f"{cost['forwards']:.0f} forwards, {cost['backwards']:.0f} backwards"
    click.echo(f"scores moved by {moved.mean():.4g} on average and {moved.max():.4g} at most")
    click.echo(f"an image cost {passes}, {cost['seconds']:.2f} s")
    for reason in table.attrs["left_out"]:
        click.echo(f"robustiqa: left out: {reason}", err=True)
    sys.exit(1 if table.attrs["left_out"] else 0)


@click.command("transfer-matrix")
@click.option("--metrics", required=True, help="Metrics, comma-separated, e.g. tiny-iqa,lip-iqa,ibp-iqa.")
@click.option("--eps", type=Eps(), default="4/255", show_default=True, help="Budget in [0,1] pixel units.")
@click.option("--direction", type=click.Choice(["up", "down"]), default="up", show_default=True)
@_on_a_set
@with_plugins
def transfer_matrix(
    metrics: str, eps: float, direction: Direction,
    defense: str, dataset: str, norm: Norm, out: str | None, seed: int, device: str,
) -> None:  # fmt: skip
    """Attack images on each metric and score them on all: does what fools one fool the others?

    Rows are the metrics whose gradients were used, columns the metrics that were to be fooled; where both are the same
    it is the white-box attack. Gains are in units of the column's declared range, or of R where it declares none. The
    defence stands before every metric, and gradients run through it.
    """
    names = re.split(r",(?![^\[]*\])", metrics)  # commas inside brackets belong to a metric
    defended = [load_defense(defense, load_metric(name.strip(), device)) for name in names]
    compute = resolve_target(f"{PACKAGE}.attacks.matrix:transfer_matrix")
    found = compute(defended, load_dataset(dataset), Threat(norm, eps), direction, seed, device=device)
    _write(found.gains, out)
    table: pd.DataFrame = resolve_target(f"{PACKAGE}.leaderboard.transfer:summarise")(found.gains)
    if found.left_out:
        click.echo(
            f"robustiqa: left out, too small for one of the metrics: {counted(len(found.left_out), 'image')}", err=True
        )
    text = {(r["source"], r["target"]): f"{r['gain']:.3f} [{r['lo']:.3f}, {r['hi']:.3f}]"
            for r in table.to_dict("records")}  # fmt: skip
    sources, targets = (list(dict.fromkeys(table[column])) for column in ("source", "target"))
    rows = [[source, *(text[source, target] for target in targets)] for source in sources]
    click.secho(
        f"mean gain {direction}, {norm} {eps:g}, {counted(table['n'].max(), 'image')}, behind {defended[0].spec}",
        bold=True,
    )
    click.echo(tabulate(rows, headers=["attacked on", *targets], tablefmt="github"))
    units = [f"{name} {unit:.4g}" for name, unit in found.units.items()]
    click.echo(f"units: {', '.join(units)}")


def _write(table: pd.DataFrame, out: str | None) -> None:
    if out is not None:
        make_folder(Path(out).parent)
        write_atomically(Path(out), table.to_csv(index=False).encode())
