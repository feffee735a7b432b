"""Tuning a defence fairly: a grid over its strength on development images, and the choice on it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from .api import Norm
from .plan import unique
from .registry import Strength, registry
from .spec import Spec, parse_spec
from .suite import AttackEntry, Headline, Suite


def strength_of(text: str) -> Strength | None:
    """The declared strength of the defence of a plug-in string, or None if it declares none."""
    return registry.get("defense", parse_spec(text).name).meta.get("strength")


def family_of(text: str) -> str:
    """A plug-in string without its strength and without what equals a default: points of one family are compared."""
    plugin, spec, values = registry.resolve("defense", text)
    strength, defaults = strength_of(text), inspect.signature(plugin.factory).parameters
    named = {k: values[k] for k in spec.params if values[k] != defaults[k].default}
    return str(Spec(spec.name, {k: v for k, v in named.items() if not strength or k != strength.parameter}))


def tunable(text: str) -> bool:
    """Whether a defence declares a strength that its plug-in string leaves open."""
    strength = strength_of(text)
    return strength is not None and strength.parameter not in parse_spec(text).params


def grid(defenses: Sequence[str]) -> dict[str, str]:
    """Point -> family: every preset of each defence, weakest first; points that are named themselves stay as they are.

    Raises:
        UnknownName: no such defence.
    """
    points: dict[str, str] = {}
    for text in defenses:
        strength = strength_of(text)
        for point in unique("defense", strength.specs(text) if strength else [text]):
            points.setdefault(point, family_of(point))
    return points


def tuning_suite(
    metric: str,
    points: Sequence[str],
    accuracy: Sequence[str],
    attacked: str,
    attack: str,
    threat: tuple[Norm, float],
    seed: int = 0,
    chunk: int = 8,
) -> Suite:
    """The suite of a tuning: all points on all data sets, the attack on one of them.

    Args:
        metric: plug-in string.
        points: defences, as `grid` gives them.
        accuracy: data sets with a ground truth; empty for the attacked one.
        attacked: data set whose images are attacked.
        attack: plug-in string, adaptive.
        threat: norm and eps.
        seed: base seed.
        chunk: images in a cell.
    """
    norm, eps = threat
    everywhere = tuple(dict.fromkeys([*accuracy, attacked]))
    entry = AttackEntry(
        attack=attack,
        linf=(eps,) if norm == "linf" else (),
        l2=(eps,) if norm == "l2" else (),
        datasets=(attacked,),
    )
    return Suite(
        schema=1,
        name="tuning",
        description=f"Strengths of defences on development images, attacked by {attack}.",
        metrics=(metric,),
        datasets=everywhere,
        defenses=("none", *(p for p in points if p != "none")),
        attacks=(entry,),
        headline=Headline(norm=norm, eps=eps),
        seed=seed,
        chunk=chunk,
    )


def chosen_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Family -> chosen point, from the rows of `tuning.csv`; the undefended metric is not a choice."""
    return {row["family"]: row["defense"] for row in rows if row["chosen"] and row["defense"] != "none"}


def incomplete_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Point -> why it could not be chosen, from the rows of `tuning.csv`."""
    return {row["defense"]: row["reason"] for row in rows if not row["complete"]}
