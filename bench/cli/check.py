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
from ..errors import Absent, Incompatible
from ..metrics import load_metric
from ..registry import registry
from .options import with_plugins
from .single import sentence


@click.command()
@click.option("--metric", default="tiny-iqa", show_default=True, help="Metric behind the defence.")
@click.option("--defense", "defenses", multiple=True, default=("none",), show_default=True,
              help="Defence to check; repeatable, and `all` is every one that is registered.")  # fmt: skip
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
    metric: str, defenses: tuple[str, ...], dataset: str, images: int, ladder: bool, device: str, seed: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Reliability checks of a metric behind a defence; fails where a flag is raised.

    Determinism, batches, gradients against finite differences, saturation, a planted weakness, a ladder of attacks that
    has to be in order, and what the defence promises of itself: sizes, range, surrogate, cost; with the defence `none`
    also what the metric does: sizes, range, slopes, side effects. A flag does not say that
    a defence is weak: it says that its figures cannot be believed.
    """
    loaded, data = load_metric(metric, device), load_dataset(dataset)
    names = [n for text in defenses for n in (registry.names("defense") if text == "all" else [text])]
    found: dict[str, list[Finding]] = {}
    left_out: dict[str, str] = {}
    failed: list[str] = []
    for name in dict.fromkeys(names):
        try:
            g = load_defense(name, loaded)
        except (Incompatible, Absent) as error:
            if len(names) == 1:
                raise
            left_out[name] = str(error)  # made for other metrics, or for a package that is not here
            continue
        try:
            found[name] = examine(g, data, images, ladder, seed, device)
        except Exception as error:
            failed.append(name)
            click.echo(f"robustiqa: metric {metric!r} behind {name!r} cannot be checked: {sentence(error)}", err=True)
    if failed and not found:
        sys.exit(1)
    if as_json:
        records = {name: [_record(f) for f in findings] for name, findings in found.items()}
        click.echo(json.dumps(records if len(names) > 1 else next(iter(records.values())), indent=2))
    elif len(names) == 1:
        _print_one(found[names[0]])
    else:
        rows = [[name, *_summary(findings)] for name, findings in found.items()]
        click.echo(tabulate(rows, headers=["defence", "ok", "not checked", "raised"], tablefmt="github"))
        for name, reason in left_out.items():
            click.echo(f"left out: {name}: {reason}")
        for name in failed:
            click.echo(f"failed: {name}")
    if failed or any(f.raised for findings in found.values() for f in findings):
        sys.exit(1)


def _print_one(found: list[Finding]) -> None:
    """Every check of one defended metric, and what to do about the raised ones."""
    rows = [[f.rule.number, f.name, _verdict(f), *_numbers(f)] for f in found]
    click.echo(tabulate(rows, headers=["", "check", "verdict", "value", "threshold"], tablefmt="github"))
    for f in found:
        if f.raised:
            click.echo(
                f"\n{f.name}: raised if {f.rule.raised_if}.\n  It means: {f.rule.meaning}.\n  Do: {f.rule.advice}."
            )
        elif f.skipped:
            click.echo(f"\n{f.name}: not checked: {f.skipped}")


def _summary(found: list[Finding]) -> list[object]:
    raised = [f"{f.name} ({f.value:.3g})" for f in found if f.raised]
    skipped = sum(bool(f.skipped) for f in found)
    return [len(found) - skipped - len(raised), skipped, ", ".join(raised)]


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
