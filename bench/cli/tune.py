"""`robustiqa tune`: strength of a defence, chosen on development images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from ..api import Norm
from ..datasets import load_dataset
from ..errors import BadParameter
from ..files import write_atomically
from ..measures import FEW_GROUPS
from ..overlap import references
from ..plan import canonical
from ..registry import PACKAGE, resolve_target
from ..run import run_suite
from ..tune import chosen_of, grid, incomplete_of, strength_of, tuning_suite
from ..tuned import FILE, write_tuned
from .options import Eps, execution, with_plugins

_SHOWN = {"family": "family", "defense": "point", "srocc": "SROCC", "gain_mean": "worst gain", "gain_lo": "from",
          "gain_hi": "to", "range_ratio": "range / R", "gain_own": "in own range", "rscore_mean": "R-score",
          "front": "front", "chosen": "chosen"}  # fmt: skip


@click.command()
@click.option("--defense", "defenses", multiple=True, required=True,
              help="Defence to tune over the presets of its strength, or one point of it. Repeatable.")  # fmt: skip
@click.option("--metric", default="tiny-iqa", show_default=True, help="Metric behind the defences.")
@click.option("--accuracy", multiple=True, help="Development data set with human scores; default: the attacked one.")
@click.option("--dataset", "attacked", default="photos[size=128,split=dev,subset=quick]", show_default=True,
              help="Development data set whose images are attacked.")  # fmt: skip
@click.option("--attack", default="auto-iqa", show_default=True, help="Adaptive attack.")
@click.option("--norm", type=click.Choice(["linf", "l2"]), default="linf", show_default=True)
@click.option("--eps", type=Eps(), default="4/255", show_default=True, help="Budget of the attack.")
@click.option("--keep", type=click.FloatRange(0, 1), default=0.9, show_default=True,
              help="Share of the undefended metric's SROCC that the chosen point has to keep.")  # fmt: skip
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder of the results.")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--seed", default=0, show_default=True, help="Base seed of all random streams.")
@execution
@with_plugins
def tune(
    defenses: tuple[str, ...], metric: str, accuracy: tuple[str, ...], attacked: str, attack: str,
    norm: Norm, eps: float, keep: float, out: str, device: str, seed: int, **how: Any,
) -> None:  # fmt: skip
    """Try the strengths of defences on development images: accuracy against the worst gain of an adaptive attack.

    Writes tuning.csv, pareto.png and tuned.json into OUT; `robustiqa run --tuned OUT` then evaluates the chosen points
    on other images. Called again it goes on where it was interrupted.
    """  # fmt: skip
    if not resolve_target(f"{PACKAGE}.leaderboard.threats:is_adaptive")(canonical("attack", attack)):
        raise BadParameter(f"--attack {attack}: expected an attack that asks the defended metric, such as auto-iqa")
    points = grid(defenses)
    for name in accuracy or (attacked,):
        if load_dataset(name).truth_name is None:
            raise BadParameter(
                f"data set {name!r} has no human scores to measure accuracy by: give --accuracy a data set that has, "
                "such as clive[split=val], or photos[size=128,split=dev]"
            )
    for text in defenses:
        if strength_of(text) is None:
            click.echo(
                f"robustiqa: {text} declares no strength: it is measured as it is, with nothing to choose", err=True
            )
    warn_of_few(accuracy or (attacked,), attacked)
    suite = tuning_suite(metric, list(points), accuracy, attacked, attack, (norm, eps), seed)
    result = run_suite(suite, out, device=device, **how)
    table: Any = resolve_target(f"{PACKAGE}.leaderboard.pareto:tuning_table")(out, points, keep)
    root = Path(out)
    csv = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomically(root / "tuning.csv", csv.encode())
    picture = resolve_target(f"{PACKAGE}.leaderboard.pareto_plot:plot_fronts")(table, root / "pareto.png", keep)
    rule = (
        "smallest worst gain, in units of R or of the defended range if that is smaller, among the points that keep at "
        f"least {keep:g} of the undefended SROCC; where none does, the one with the largest SROCC"
    )
    records = table.to_dict("records")
    chosen, incomplete = chosen_of(records), incomplete_of(records)
    write_tuned(root / FILE, suite, chosen, incomplete, rule)
    rows = table[list(_SHOWN)].to_numpy().tolist()
    click.echo(tabulate(rows, headers=list(_SHOWN.values()), tablefmt="github", floatfmt=".3f"))
    click.echo(f"chosen: {rule}")
    for path in (root / "tuning.csv", picture, root / FILE):
        click.echo(str(path))
    without = sorted(set(points.values()) - {"none", *chosen})
    floor = resolve_target(f"{PACKAGE}.leaderboard.pareto:accuracy_floor")(table, keep)
    for row in records:
        if row["defense"] in chosen.values() and row["srocc"] < floor:
            click.echo(
                f"robustiqa: no point of {row['family']} keeps {keep:.0%} of the undefended SROCC: chosen is the most "
                f"accurate one, {row['defense']}",
                err=True,
            )
    for point, reason in incomplete.items():
        click.echo(f"robustiqa: {point} is not chosen: {reason}", err=True)
    for family in without:
        click.echo(f"robustiqa: no point of {family} is complete: none is chosen", err=True)
    for cell, message in result.failed.items():
        click.echo(f"robustiqa: cell {cell} failed: {message}", err=True)
    if not result.ok:
        where = result.tables.get("errors", root / "errors")
        click.echo(f"robustiqa: what failed, and why: see {where}", err=True)
    sys.exit(1 if without or result.failed else 0)


def warn_of_few(accuracy: Sequence[str], attacked: str) -> None:
    """Say that points can hardly be told apart where there are few photographs; the choice is made all the same."""
    of = {"accuracy": accuracy, "worst gain": (attacked,)}
    for what, names in of.items():
        count = sum(len(references(load_dataset(name))) for name in dict.fromkeys(names))
        if count < FEW_GROUPS:
            click.echo(
                f"robustiqa: {count} photographs for the {what} ({', '.join(names)}): with fewer than {FEW_GROUPS} "
                "points can hardly be told apart",
                err=True,
            )
