"""`robustiqa soundness`: the harness with its tables."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys

import click
from tabulate import tabulate

from ..checks.soundness import ATTACKED, CURVES, DECISIONS, FEW, SIMULATED, Report, check_soundness
from ..errors import BadParameter
from ..registry import registry
from ..spec import parse_spec
from .options import with_plugins

METRIC = "tiny-iqa"


@click.command()
@click.option("--defense", "defenses", multiple=True, help="Only these methods (by name), or your own certified one.")
@click.option("--metric", default=METRIC, show_default=True, help="Metric behind the defence that you name.")
@click.option(
    "--trials",
    type=click.IntRange(200),
    default=20_000,
    show_default=True,
    help="Simulated certificates for each method and toy metric.",
)
@click.option("--images", type=click.IntRange(1), default=5, show_default=True, help="Photographs that are attacked.")
@click.option("--seed", default=0, show_default=True, help="Base seed of all random streams.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_plugins
def soundness(defenses: tuple[str, ...], metric: str, trials: int, images: int, seed: int, as_json: bool) -> None:
    """Hold every certified method against known truths and attacks; fails on a significant excess of violations.

    A defence named with --defense is attacked on photographs as it is named, and simulated if it derives from Smoothed.
    Attacks alone are weak evidence: they find a bound that is far too narrow, not one that is a little.
    """
    names = {parse_spec(text).name for text in defenses}
    simulated = [s for s in SIMULATED if not names or parse_spec(s[0]).name in names]
    attacked = [a for a in ATTACKED if not names or parse_spec(a[1]).name in names]
    # What is named with parameters or another metric, or is not of ours, is attacked as it was named.
    known = {parse_spec(text).name for text in [*(s[0] for s in SIMULATED), *(a[1] for a in ATTACKED)]}
    default = metric == METRIC
    own = [t for t in defenses if parse_spec(t).name not in known]
    attacked += [(metric, t) for t in defenses if t in own or parse_spec(t).params or not default]
    attacked = list(dict.fromkeys(attacked))
    # A class derived from `Smoothed` says what its statistic is of a whole distribution: then the truth is known.
    simulated += [(t, FEW) for t in own if hasattr(registry.resolve("defense", t)[0].factory, "population")]
    for text in own:
        if text not in {s[0] for s in simulated}:
            click.echo(f"robustiqa: note: {text} is not derived from Smoothed: attacked only, not simulated", err=True)
    if not defenses and not default:
        raise BadParameter("--metric is for a defence of your choice: name it with --defense")
    curves = [c for c in CURVES if not names or parse_spec(c[0]).name in names]
    decisions = [d for d in DECISIONS if not names or parse_spec(d).name in names]
    say = functools.partial(click.echo, err=True)
    report = check_soundness(simulated, attacked, curves, decisions, trials, images, seed, say)
    problems = report.problems
    if as_json:
        parts = {
            k: [row if isinstance(row, str) else dataclasses.asdict(row) for row in v] for k, v in vars(report).items()
        }
        click.echo(json.dumps(parts | {"problems": problems}, indent=2))
    else:
        _show(report)
    for problem in problems:
        click.echo(f"robustiqa: PROBLEM: {problem}", err=True)
    if not as_json:
        tests = len(report.coverage) + len(report.independence) + len(report.inside)
        click.echo(f"{tests} tests, {len(problems)} problems")
    sys.exit(1 if problems else 0)


def _show(report: Report) -> None:
    rows = [
        [c.defense, c.toy, c.kind, c.alpha, c.eps, c.trials, c.failures, c.rate / c.alpha, c.vacuous, c.width]
        for c in report.coverage
    ]
    headers = ["method", "toy metric", "kind", "alpha", "eps", "trials", "failures", "rate / alpha", "vacuous", "width"]
    if rows:
        click.echo("Simulated certificates (rate / alpha: 1 is exact, small is conservative):")
        click.echo(tabulate(rows, headers=headers, floatfmt=("", "", "", "g", "g", "", "", ".3f", ".2f", ".2f")) + "\n")
    attacked = [
        [a.metric, a.defense, a.kind, a.norm, a.eps, a.images, a.violations, a.tightness] for a in report.inside
    ]
    headers = ["metric", "defence", "kind", "norm", "eps", "images", "violations", "largest shift / bound"]
    if attacked:
        click.echo("Attacks inside the radius, on photographs:")
        click.echo(tabulate(attacked, headers=headers, floatfmt=("", "", "", "", ".4g", "", "", ".2f")) + "\n")
