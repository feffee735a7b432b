"""The outcome of a tuning: how it is kept, and how a run takes its points without seeing its images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .datasets import load_dataset
from .errors import Absent, BadData, BadSuite
from .files import write_json
from .overlap import Seen, seen_of
from .plan import canonical
from .registry import code_digest, identity_of
from .suite import Suite
from .tune import family_of, tunable

FILE = "tuned.json"


class Tuned(BaseModel):
    """The outcome of a tuning, as `tuned.json` holds it.

    Attributes:
        metric: canonical plug-in string of the metric behind the defences.
        metric_identity: what it was then (`registry.identity_of`).
        code: digest of the code that computed the scores (`registry.code_digest`).
        rule: how the points were chosen, in words.
        threat: the threat under which they were attacked, in words.
        development: canonical data set -> the references of its images: no evaluation may be on these.
        images: digests of the development images (`seeds.image_key`), sorted: nor on these, whatever their names.
        chosen: family -> canonical plug-in string of its tuned point.
        incomplete: point -> why it could not be chosen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[2] = 2
    metric: str
    metric_identity: str
    code: str
    rule: str
    threat: str
    development: dict[str, list[str]]
    images: list[str]
    chosen: dict[str, str]
    incomplete: dict[str, str]

    @property
    def summary(self) -> str:
        """Where the points come from, in a sentence or two for the record of a run."""
        points = "; ".join(f"{family} -> {point}" for family, point in self.chosen.items())
        return (
            f"Strengths as tuned behind {self.metric} on {', '.join(self.development)} under {self.threat}, "
            f"code {self.code}: {points}. Rule: {self.rule}."
        )


def write_tuned(path: Path, suite: Suite, chosen: Mapping[str, str], incomplete: Mapping[str, str], rule: str) -> Path:
    """Write `tuned.json` for the choice of a tuning that was run; returns its path."""
    entry, metric = suite.attacks[0], canonical("metric", suite.metrics[0])
    seen = seen_of(canonical("dataset", d) for d in suite.datasets)
    tuned = Tuned(
        metric=metric,
        metric_identity=identity_of("metric", metric),
        code=code_digest(),
        rule=rule,
        threat=f"{entry.attack} at {', '.join(str(t) for t in entry.threats())}",
        development={name: list(refs) for name, refs in seen.photographs.items()},
        images=list(seen.images),
        chosen=dict(chosen),
        incomplete=dict(incomplete),
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


def outdated(tuned: Tuned) -> list[str]:
    """What has changed since the tuning, in words: its points may no longer be the best ones."""
    found = []
    if tuned.code != code_digest():
        found.append(f"the tuning was computed by other code ({tuned.code}, now {code_digest()})")
    if tuned.metric_identity != identity_of("metric", tuned.metric):
        found.append(f"the metric {tuned.metric!r} has changed since the tuning")
    return [f"{what}: tune again where the last digit matters" for what in found]


def tuned_suite(suite: Suite, tuned: Tuned) -> Suite:
    """The suite, its pairs too, with every defence whose strength is left open at the tuned point of its family.

    Its description, which `run.json` and the board show, says what the points come from.

    Raises:
        BadSuite: the suite has another metric, images that the tuning has seen, a defence whose strength is left open
            and was not tuned, or none that was.
    """
    _same_metric(suite, tuned)
    for name in suite.datasets:
        _refuse_seen(suite, name, tuned)
    asked = [*suite.defenses, *(pair.defense for pair in suite.pairs)]
    missing = [text for text in dict.fromkeys(asked) if tunable(text) and family_of(text) not in tuned.chosen]
    if missing:
        raise BadSuite(
            f"the suite leaves open the strength of {', '.join(missing)}, which the tuning has not chosen (tuned are "
            f"{', '.join(tuned.chosen) or 'none'}): tune them, too, or give their strength"
        )
    if not any(tunable(text) for text in asked):
        raise BadSuite(
            f"none of the suite's defences was tuned (tuned are {', '.join(tuned.chosen) or 'none'}): name them "
            "without their strength"
        )
    pairs = tuple(pair.model_copy(update={"defense": _point(pair.defense, tuned)}) for pair in suite.pairs)
    return suite.model_copy(
        update={
            "defenses": tuple(_point(text, tuned) for text in suite.defenses),
            "pairs": pairs,
            "description": f"{suite.description.strip()} {tuned.summary}".strip(),
        }
    )


def _point(text: str, tuned: Tuned) -> str:
    return tuned.chosen[family_of(text)] if tunable(text) else text


def _same_metric(suite: Suite, tuned: Tuned) -> None:
    """Two spellings of a metric are the same one, other weights are not."""
    metrics = dict.fromkeys((*suite.metrics, *(pair.metric for pair in suite.pairs)))
    mine = identity_of("metric", tuned.metric)
    others = [name for name in metrics if identity_of("metric", name) != mine]
    if others:
        raise BadSuite(
            f"the tuning was made for the metric {tuned.metric!r}, the suite has {', '.join(others)}: a strength that "
            "suits one metric need not suit another; tune for that one"
        )


def _refuse_seen(suite: Suite, name: str, tuned: Tuned) -> None:
    """Refuse a data set with photographs of a development set of the same plug-in, or with the very images of any."""
    try:
        data = load_dataset(name)
    except Absent:
        if suite.absent == "skip":
            return  # the plan says so
        raise
    if what := Seen(tuned.development, tuned.images).among(name, data):
        raise BadSuite(
            f"data set {name!r} has {what} on which the defences were tuned: evaluate on others, for example on the "
            "test split"
        )
