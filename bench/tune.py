"""Tuning a defence fairly: a grid over its strength on development images, and the point that the board then uses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .api import Norm
from .datasets import load_dataset
from .errors import BadData, BadSuite
from .files import write_json
from .plan import canonical, unique
from .registry import Strength, registry
from .spec import Spec, parse_spec
from .suite import AttackEntry, Headline, Suite

FILE = "tuned.json"


class Tuned(BaseModel):
    """The outcome of a tuning, as `tuned.json` holds it.

    Attributes:
        metric: canonical plug-in string of the metric behind the defences.
        rule: how the points were chosen, in words.
        threat: the threat under which they were attacked, in words.
        development: canonical data set -> the references of its images: no evaluation may be on these.
        chosen: family -> canonical plug-in string of its tuned point.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    metric: str
    rule: str
    threat: str
    development: dict[str, list[str]]
    chosen: dict[str, str]


def strength_of(text: str) -> Strength | None:
    """The declared strength of the defence of a plug-in string, or None if it declares none."""
    return registry.get("defense", parse_spec(text).name).meta.get("strength")


def family_of(text: str) -> str:
    """A canonical plug-in string without the parameter of its strength: points of one family are compared."""
    spec, strength = parse_spec(canonical("defense", text)), strength_of(text)
    return str(Spec(spec.name, {k: v for k, v in spec.params.items() if not strength or k != strength.parameter}))


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


def write_tuned(path: Path, suite: Suite, chosen: Mapping[str, str], rule: str) -> Path:
    """Write `tuned.json` for the choice of a tuning that was run; returns its path."""
    entry = suite.attacks[0]
    tuned = Tuned(
        metric=canonical("metric", suite.metrics[0]),
        rule=rule,
        threat=f"{entry.attack} at {', '.join(str(t) for t in entry.threats())}",
        development={canonical("dataset", d): _references(d) for d in suite.datasets},
        chosen=dict(chosen),
    )
    write_json(path, tuned.model_dump(mode="json"))
    return path


def read_tuned(path: Path) -> Tuned:
    """Read `tuned.json`, or the one in a folder.

    Raises:
        BadData: it is missing or damaged.
    """
    path = path / FILE if path.is_dir() else path
    try:
        return Tuned.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadData(f"tuning {str(path)!r} cannot be read ({reason}): give the {FILE} that `robustiqa tune` wrote, "
                      "or its folder") from error  # fmt: skip


def tuned_suite(suite: Suite, tuned: Tuned) -> Suite:
    """The suite with every defence of a tuned family, where no strength is given, at its tuned point.

    Raises:
        BadSuite: no defence of the suite was tuned, another metric was, or the suite evaluates on images that the
            tuning has seen.
    """
    if unique("metric", suite.metrics) != [tuned.metric]:
        raise BadSuite(
            f"the tuning was made for the metric {tuned.metric!r}, the suite has {', '.join(suite.metrics)}: a "
            "strength that suits one metric need not suit another; tune for that one"
        )
    for name in suite.datasets:
        seen = _overlap(name, tuned)
        if seen:
            raise BadSuite(
                f"data set {name!r} has {seen} photographs on which the defences were tuned: evaluate on others, for "
                "example on the test split"
            )
    changed = tuple(tuned.chosen.get(canonical("defense", text), text) for text in suite.defenses)
    if changed == suite.defenses:
        raise BadSuite(
            f"none of the suite's defences was tuned (tuned are {', '.join(tuned.chosen) or 'none'}): name them "
            "without their strength"
        )
    return suite.model_copy(update={"defenses": changed})


def _references(dataset: str) -> list[str]:
    return sorted({item.reference for item in load_dataset(dataset).items})


def _overlap(dataset: str, tuned: Tuned) -> int:
    """Photographs of a data set that a development set of the same name has, too."""
    mine = set(_references(dataset))
    same = [refs for name, refs in tuned.development.items() if parse_spec(name).name == parse_spec(dataset).name]
    return len(mine & {reference for refs in same for reference in refs})


def chosen_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Family -> chosen point, from the rows of `tuning.csv`; the undefended metric is not a choice."""
    return {row["family"]: row["defense"] for row in rows if row["chosen"] and row["defense"] != "none"}
