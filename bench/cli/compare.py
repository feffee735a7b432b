"""`robustiqa compare`."""

from __future__ import annotations

import click
import pandas as pd
from tabulate import tabulate

from ..errors import BadData
from ..registry import PACKAGE, resolve_target
from ..terminal import echo, echo_data
from .options import with_plugins


@click.command()
@click.argument("out", type=click.Path(file_okay=False))
@click.option("--baseline", "baselines", multiple=True, help="Defence to compare the others with; repeatable.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@with_plugins
def compare(out: str, baselines: tuple[str, ...], as_csv: bool) -> None:
    """SROCC, PLCC, KROCC and certified deltas of the run in OUT with 95 % intervals.

    plcc is of the raw scores, plcc_logistic after the 4-parameter fit, plcc_logistic5 after the 5-parameter one.

    With --baseline also the differences (of deltas: ratios) to it on the same images, with p-values.
    """
    table: pd.DataFrame = resolve_target(f"{PACKAGE}.leaderboard.compare:compare")(out, baselines)
    if table.empty:
        raise BadData(f"the run in {out!r} has neither ground truth nor certificates: nothing to compare")
    if as_csv:
        echo_data(table.to_csv(index=False, float_format="%.6g"))
        return
    for (metric, dataset), part in table.groupby(["metric", "dataset"], sort=False):
        click.secho(f"{metric} on {dataset}", bold=True)
        echo("rows with a baseline are differences to it; those of delta@NORM:EPS are ratios")
        columns = ["defense", "baseline", "measure", "value", "lo", "hi", "p", "n", "n_planned"]
        rows = part[columns].astype(object).where(part[columns].notna(), None).to_numpy().tolist()
        if (part["n"] < part["n_planned"]).any():
            note = "some images have no result: each figure is of those that all its defences scored"
            echo(f"robustiqa: {note}", err=True)
        echo(tabulate(rows, headers=columns, tablefmt="github", floatfmt=".3f", missingval="-") + "\n")
        for row in part[part["note"] != ""].to_dict("records"):
            echo(f"robustiqa: no {row['measure']} of {row['defense']}: {row['note']}", err=True)
