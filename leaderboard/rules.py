"""The rules of the board, by number: tracks, who is ranked in them, and by what. `docs/rules.md` argues them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..bench.plan import Plan
from ..bench.suite import Headline
from .empirical import is_standard, name_of

RULES_VERSION = 1
"""Goes up with every change of what is ranked, of who is, or of what stops a board."""

MIN_COVERAGE = 1.0
"""Share of planned images that must have a result for a row to be ranked: a failure is not robustness."""

CERTIFIED, LINF, L2, EFFICIENCY = "certified-l2", "empirical-linf", "empirical-l2", "efficiency"

KEEP = 0.9
"""Share of the undefended SROCC that a defence keeps to enter the efficiency track; `tune` asks the same."""

REMOVED = 0.5
"""Share of the undefended worst gain that a defence removes to enter the efficiency track."""


class Track(NamedTuple):
    """One ranking: its measure, smaller = better, with its unit, and the rule in words."""

    name: str
    measure: str
    unit: str
    rule: str


_OWN = "R, or the defended range of scores where that is smaller"

TRACKS = (
    Track(CERTIFIED, "mean certified delta (population)", _OWN,
          "The l2 certificate of the exact smoothed score: how far any perturbation within the budget can move it."),
    Track(LINF, "mean worst gain", _OWN,
          "Per image the strongest attack of the run at the l_inf budget, upwards."),
    Track(L2, "mean worst gain", _OWN,
          "Per image the strongest attack of the run at the l2 budget, upwards."),
    Track(EFFICIENCY, "cost of one score", "forwards of the metric",
          f"Forwards of the metric for one defended score, among defences that remove at least {REMOVED:.0%} of the "
          f"undefended worst gain at the headline threat and keep at least {KEEP:.0%} of the undefended SROCC."),
)  # fmt: skip

FAILED = "failed"
"""Flag of a row without a single result: none of the others would mean anything."""
NOT_ATTACKED = "not-attacked"

EXCLUDING = {
    FAILED: "no image has a result",
    "incomplete": "some images failed",
    "certificate-violated": "an attack left the certificate more often than it allows",
    "reversed": "its scores fall while the ground truth rises",
    "no-range": "the unit of the gains is unknown",
    "unchecked": "its reliability checks failed",
    "random-undeclared": "it is randomised and does not declare it: attacks chased noise",
    "fixed-noise": "its noise is known to an attacker",
    "batch-dependent": "its score depends on other images of the batch",
    "irreproducible": "the same draws give two scores",
    "output-invalid": "the metric sees something that is no image",
    "input-changed": "it changes the images that it is handed",
    "metric-drifts": "its scores change from call to call",
    "inaccurate": "its scores have little to do with the metric's",
}
"""Flags that leave a row without a place, in every track, and why; all others are for the reader to weigh.

They say that a figure is wrong or means nothing. A weak gradient does neither: it makes a gain a lower bound, which the
standard attack's members without gradients are there for, and the row keeps its place and its flag.
"""

EXCLUDING_COST = {"cost-misdeclared": "it takes more forwards than it declares"}
"""Further flags, for the efficiency track."""


class Pool(NamedTuple):
    """What may be compared with what: entrants of one pool had the same kind of evidence."""

    certified: bool
    randomised: bool
    undefended: bool

    @property
    def name(self) -> str:
        """`undefended`, or certified or empirical with deterministic or randomised."""
        if self.undefended:
            return "undefended"
        return (
            f"{'certified' if self.certified else 'empirical'} {'randomised' if self.randomised else 'deterministic'}"
        )


def excluded(flags: Iterable[str], track: str) -> str:
    """Why flags leave a row without a place in a track; "" if they do not."""
    why = EXCLUDING | (EXCLUDING_COST if track == EFFICIENCY else {})
    return "; ".join(f"{flag}: {why[flag]}" for flag in flags if flag in why)


def attack_budget(plan: Plan, headline: Headline, norm: str) -> float | None:
    """The budget of a norm at which a board ranks; None where no attack in that norm was planned.

    The headline's, for its norm. For the other one, of the budgets that most entrants are attacked at (by the standard
    attack where it is planned at all, upwards), the largest.
    """
    if norm == headline.norm:
        return headline.eps
    attacks = [c for c in plan.cells if c.kind == "attack" and c.norm == norm and c.direction == "up"]
    attacks = [c for c in attacks if not is_noise(c.attack or "")]
    attacks = [c for c in attacks if is_standard(c.attack or "")] or attacks
    entrants = {(c.eps[0], c.metric, c.defense, c.dataset) for c in attacks}
    counts: dict[float, int] = {}
    for eps, *_ in entrants:
        counts[eps] = counts.get(eps, 0) + 1
    return max(counts, key=lambda eps: (counts[eps], eps), default=None)


def certified_budget(plan: Plan, headline: Headline) -> float | None:
    """The l2 budget at which certificates are ranked: the headline's, or the smallest planned; None without any."""
    planned = sorted({eps for c in plan.cells if c.kind == "certify" and c.norm == "l2" for eps in c.eps})
    near = [eps for eps in planned if abs(eps - headline.certified_eps) <= 1e-9 * eps]
    return (near or planned or [None])[0]


def is_noise(attack: str) -> bool:
    """Whether an attack's plug-in string names the baseline that looks at nothing."""
    return name_of(attack) == "random-noise"
