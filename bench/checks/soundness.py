"""The soundness harness: every certified method against known truths and against attacks, with one verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import RobustIQAError
from .coverage import (
    Coverage,
    CoverageMode,
    Independence,
    absurdly_wide,
    simulate,
    simulate_curve,
    simulate_decisions,
)
from .inside import Inside, attack_inside, weak_attacks
from .toys import TOYS

ERROR = 0.001
"""Probability that a sound suite fails the harness by chance, spread evenly over all its tests."""

MOSTLY = 0.98

FEW = ("linear", "threshold", "mixture")

SIMULATED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("median-smoothing[m=11,n=100]", tuple(toy.name for toy in TOYS)),
    ("mean-smoothing[interval=hoeffding,m=11,n=100]", FEW),
    ("mean-smoothing[interval=bernstein,m=11,n=100]", FEW),
    ("mean-smoothing[interval=betting,m=11,n=100]", FEW),
    ("cdf-mean-smoothing[band=dkw,m=11,n=100]", FEW),
    ("cdf-mean-smoothing[band=binomial,m=11,n=100]", FEW),
    ("trimmed-mean-smoothing[m=25,n=200]", FEW),
    ("l-estimator-smoothing[m=25,n=200,weights=trimean]", FEW),
    ("score-bins[m=51,n=100,n0=20]", FEW),
    ("center-smoothing[m=11,n=150]", FEW),
)
"""Methods and the toy metrics on which each is simulated; few draws, so that slips of an index show."""

CURVES: tuple[tuple[str, CoverageMode], ...] = (
    ("median-smoothing[m=11,n=200]", "bonferroni"),
    ("median-smoothing[m=11,n=200]", "dkw"),
    ("center-smoothing[m=11,n=300]", "bonferroni"),
    ("mean-smoothing[m=11,n=100]", "pointwise"),
    ("cdf-mean-smoothing[m=11,n=100]", "pointwise"),
    ("trimmed-mean-smoothing[m=25,n=400]", "pointwise"),
)
"""Methods whose bounds at all eps of a grid are simulated together; the last ones claim it without being asked."""

DECISIONS = ("median-smoothing[n=300]",)

_SAMPLES = "m=31,n=500"
ATTACKED: tuple[tuple[str, str], ...] = (
    ("tiny-iqa", f"median-smoothing[{_SAMPLES}]"),
    ("tiny-iqa", f"denoised-median-smoothing[{_SAMPLES}]"),
    ("tiny-iqa", f"diffusion-denoised-median-smoothing[{_SAMPLES}]"),
    ("tiny-iqa", f"dms-iqa[{_SAMPLES}]"),
    ("tiny-iqa", f"dms-iqa-tight[{_SAMPLES}]"),
    ("tiny-iqa", f"mean-smoothing[{_SAMPLES}]"),
    ("tiny-iqa", f"cdf-mean-smoothing[{_SAMPLES}]"),
    ("tiny-iqa", "trimmed-mean-smoothing[m=51,n=500]"),
    ("tiny-iqa", "l-estimator-smoothing[m=51,n=500]"),
    ("tiny-iqa", f"score-bins[{_SAMPLES}]"),
    ("tiny-iqa", f"denoised-score-bins[{_SAMPLES}]"),
    ("tiny-iqa", f"center-smoothing[{_SAMPLES}]"),
    ("lip-iqa", "lipschitz"),
    ("ibp-iqa", "interval-bounds"),
)
"""Metrics and certified defences that are attacked inside their radius on photographs."""


@dataclass
class Report:
    """Everything that the harness found; `problems` is empty if all is sound."""

    coverage: list[Coverage] = field(default_factory=list)
    independence: list[Independence] = field(default_factory=list)
    inside: list[Inside] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """A sentence for each significant excess of violations, dependence of draws, absurd width, or failure."""
        level = ERROR / 2 / max(1, 3 * len(self.coverage))
        attacked = ERROR / 2 / max(1, len(self.inside))
        found = [
            f"{c.defense} on {c.toy}, {c.kind}, eps {c.eps:g}: {c.failures} of {c.trials} certificates failed at alpha "
            f"{c.alpha:g} (p = {c.p:.1e})"
            for c in self.coverage
            if c.p < level
        ]
        found += [
            f"{c.defense} on {c.toy}, eps {c.eps:g}: only {c.failures} of {c.trials} certificates failed at alpha "
            f"{c.alpha:g} where the method is exact: the bounds are wider than they need be"
            for c in self.coverage
            if absurdly_wide(c)
        ]
        found += [
            f"{i.defense} on {i.toy}: draws are not independent between {i.between} (correlation {i.correlation:.3f})"
            for i in self.independence
            if i.broken
        ]
        found += [
            f"{a.defense} on {a.metric}, {a.kind}, {a.norm} {a.eps:g}: attacks left {a.violations} of {a.images} "
            f"bounds (p = {a.p:.1e})"
            for a in self.inside
            if a.p < attacked
        ]
        found += [
            f"{a.defense} on {a.metric}, {a.norm} {a.eps:g}: the bound could not be judged: the deployed score has "
            "no finite interval; take more draws m"
            for a in self.inside
            if np.isnan(a.p)
        ]
        for defense in dict.fromkeys(c.defense for c in self.coverage):
            mine = [c.vacuous for c in self.coverage if c.defense == defense and c.kind == "population"]
            if mine and min(mine) > MOSTLY:
                found.append(f"{defense}: every bound is vacuous, on every toy metric and at every eps")
        return found + self.errors


def check_soundness(
    simulated: Sequence[tuple[str, Sequence[str]]] = SIMULATED,
    attacked: Sequence[tuple[str, str]] = ATTACKED,
    curves: Sequence[tuple[str, CoverageMode]] = CURVES,
    decisions: Sequence[str] = DECISIONS,
    trials: int = 20_000,
    images: int = 5,
    seed: int = 0,
    say: Callable[[str], object] = print,
) -> Report:
    """Run the harness.

    Args:
        simulated: defences and the names of the toy metrics to simulate them on.
        attacked: metrics and defences to attack on photographs.
        curves: defences and modes of coverage whose curves are simulated as a whole.
        decisions: defences whose early-stopped decisions are simulated.
        trials: simulated certificates of each defence on each toy metric.
        images: photographs to attack.
        seed: base seed.
        say: called with a line for each piece done.
    """
    report = Report()
    toys = {toy.name: toy for toy in TOYS}
    for defense, names in simulated:
        for name in names:
            try:
                coverage, independence = simulate(defense, toys[name], trials, seed=seed)
            except RobustIQAError as error:
                report.errors.append(f"{defense} on {name} could not be simulated: {error}")
                continue
            report.coverage += coverage
            report.independence += independence
            highest = max(coverage, key=lambda c: c.rate / c.alpha)
            say(f"simulated {defense} on {name}: failures at most {highest.rate / highest.alpha:.2f} of alpha")
    for defense, coverage in curves:
        report.coverage.append(simulate_curve(defense, toys["linear"], trials, coverage, seed))
        say(f"simulated curves of {defense}, {coverage}")
    for defense in decisions:
        report.coverage.append(simulate_decisions(defense, toys["linear"], trials, seed=seed))
        say(f"simulated decisions of {defense}")
    if attacked:
        report.errors += weak_attacks(seed)
    for metric, defense in attacked:
        try:
            found = attack_inside(metric, defense, images, seed=seed)
        except RobustIQAError as error:
            report.errors.append(f"{defense} on {metric} could not be attacked: {error}")
            continue
        report.inside += found
        say(f"attacked {defense} on {metric}: tightness at most {max(a.tightness for a in found):.2f}")
    return report
