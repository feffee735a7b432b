"""`robustiqa check`: can robustness figures of a defended metric be believed?"""

from __future__ import annotations

import json
import sys

import click
from tabulate import tabulate

from ..build import load_defense
from ..checks.examine import examine
from ..checks.reliability import Finding
from ..datasets import load_dataset
from ..metrics import load_metric
from .options import with_plugins


@click.command()
@click.option("--metric", default="tiny-iqa", show_default=True, help="Metric behind the defence.")
@click.option("--defense", default="none", show_default=True, help="Defence to check.")
@click.option(
    "--dataset", default="photos[size=128,subset=quick]", show_default=True, help="Where the images are from."
)
@click.option("--images", type=click.IntRange(1), default=5, show_default=True, help="Number of images.")
@click.option("--ladder/--no-ladder", default=True, show_default=True, help="Whether to run attacks (checks 8 to 11).")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--seed", default=0, show_default=True, help="Base seed of all random streams.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_plugins
def check(
    metric: str, defense: str, dataset: str, images: int, ladder: bool, device: str, seed: int, as_json: bool
) -> None:
    """Reliability checks of a metric behind a defence; fails where a flag is raised.

    Determinism, batches, gradients against finite differences, saturation, a planted weakness, and a ladder of attacks
    that has to be in order. A flag does not say that a defence is weak: it says that its figures cannot be believed.
    """
    g = load_defense(defense, load_metric(metric, device))
    found = examine(g, load_dataset(dataset), images, ladder, seed, device)
    if as_json:
        click.echo(json.dumps([_record(f) for f in found], indent=2))
    else:
        rows = [[f.rule.number, f.name, _verdict(f), *_numbers(f)] for f in found]
        click.echo(tabulate(rows, headers=["", "check", "verdict", "value", "threshold"], tablefmt="github"))
        for f in found:
            if f.raised:
                click.echo(
                    f"\n{f.name}: raised if {f.rule.raised_if}.\n  It means: {f.rule.meaning}.\n  Do: {f.rule.advice}."
                )
            elif f.skipped:
                click.echo(f"\n{f.name}: not checked: {f.skipped}")
    if any(f.raised for f in found):
        sys.exit(1)


def _verdict(finding: Finding) -> str:
    return "not checked" if finding.skipped else "RAISED" if finding.raised else "ok"


def _numbers(finding: Finding) -> list[str]:
    return ["", ""] if finding.skipped else [f"{finding.value:.3g}", f"{finding.threshold:.3g}"]


def _record(finding: Finding) -> dict[str, object]:
    checked = not finding.skipped
    return {
        "number": finding.rule.number, "name": finding.name, "raised": finding.raised,
        "value": finding.value if checked else None, "threshold": finding.threshold if checked else None,
        "skipped": finding.skipped, "raised_if": finding.rule.raised_if, "meaning": finding.rule.meaning,
        "advice": finding.rule.advice,
    }  # fmt: skip
