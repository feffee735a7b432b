"""Suites: what to run, in YAML or as a dict, with the same keys as the options of `robustiqa run`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .api import Coverage, Direction, Norm, Threat
from .errors import BadParameter, BadSuite, UnknownName
from .yaml_model import Strict, check_model, read_model

_EPS = re.compile(r"(?P<above>\d*\.?\d+(?:e[+-]?\d{1,3})?)(?:/(?P<below>\d{1,9}(?:\.\d+)?))?", re.IGNORECASE)


def parse_eps(value: object) -> float:
    """A budget as a number or as a fraction of grey levels: 0.05, "4/255"."""
    match = _EPS.fullmatch(str(value).replace(" ", "")) if not isinstance(value, bool) else None
    if match and float(match["below"] or 1) > 0:
        eps = float(match["above"]) / float(match["below"] or 1)
        if math.isfinite(eps):
            return eps
    raise BadParameter(f"eps {value!r}: expected a number >= 0 or a fraction such as 4/255, in [0,1] pixel units")


def _eps(value: object) -> float:
    try:
        return parse_eps(value)
    except BadParameter as error:
        raise ValueError(str(error)) from error


_FOLDER = resources.files(__name__.rpartition(".")[0]).joinpath("suites")
Eps = Annotated[float, BeforeValidator(_eps)]


class AttackEntry(Strict):
    """One attack of a suite with the threats under which it runs, on some of the suite's data sets or on all."""

    attack: str
    linf: tuple[Eps, ...] = ()
    l2: tuple[Eps, ...] = ()
    directions: tuple[Direction, ...] = ("up",)
    only: Literal["all", "deterministic", "randomised", "certified"] = "all"
    datasets: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_budget(self) -> AttackEntry:
        if not self.linf and not self.l2:
            raise ValueError(f"attack {self.attack!r} has no budget: give linf: [...] or l2: [...]")
        return self

    def threats(self) -> list[Threat]:
        """Every threat of this entry."""
        norms: tuple[tuple[Norm, tuple[float, ...]], ...] = (("linf", self.linf), ("l2", self.l2))
        return [Threat(norm, eps) for norm, budgets in norms for eps in budgets]


Budgets = Annotated[tuple[Eps, ...], AfterValidator(lambda v: tuple(sorted(set(v))))]


class CertifyEntry(Strict):
    """Where the certified defences are certified: l2 budgets `eps`, and `linf` ones for methods of that norm."""

    eps: Annotated[Budgets, Field(min_length=1)]
    linf: Budgets = ()
    alpha: float = Field(default=0.001, gt=0, lt=1)
    coverage: Coverage = "pointwise"

    def budgets(self, norm: Norm) -> tuple[float, ...]:
        """The budgets in a norm."""
        return self.eps if norm == "l2" else self.linf


class ChecksEntry(Strict):
    """Reliability checks of every defended metric: on how many images, and whether the ladder of attacks is climbed."""

    images: int = Field(default=5, ge=1)
    ladder: bool = True


class Pair(Strict):
    """One metric with one defence, beside the product of the suite's lists."""

    metric: str
    defense: str


class Headline(Strict):
    """The threats by which the board ranks, and that its summary shows."""

    norm: Norm = "linf"
    eps: Eps = 4 / 255
    certified_eps: Eps = 0.05


class Suite(Strict):
    """A benchmark: every metric behind every defence, and the `pairs`, on every data set, under every attack.

    `absent: skip` leaves out, with the reason, metrics and data sets whose packages, weights or files are not on this
    machine.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    description: str = ""
    metrics: tuple[str, ...] = Field(min_length=1)
    defenses: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[str, ...] = Field(min_length=1)
    pairs: tuple[Pair, ...] = ()
    attacks: tuple[AttackEntry, ...] = ()
    certify: CertifyEntry | None = None
    checks: ChecksEntry | None = None
    headline: Headline = Headline()
    seed: int = 0
    chunk: int = Field(default=8, ge=1)
    absent: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _attacks_what_it_has(self) -> Suite:
        for entry in self.attacks:
            for name in entry.datasets:
                if name not in self.datasets:
                    raise ValueError(f"attack {entry.attack!r} is to run on {name!r}, which is not among its data sets")
        return self

    def override(
        self,
        metrics: str | Sequence[str] = (),
        defenses: str | Sequence[str] = (),
        datasets: str | Sequence[str] = (),
        attacks: str | Sequence[str] = (),
    ) -> Suite:
        """The suite with some of its lists replaced; an attack named here takes the threats of all entries.

        Other metrics or defences than the suite's leave its pairs out; on other data sets every attack runs.
        """
        metrics, defenses, datasets, attacks = map(_listed, (metrics, defenses, datasets, attacks))
        changes: dict[str, Any] = {
            key: value for key, value in (("metrics", metrics), ("defenses", defenses), ("datasets", datasets)) if value
        }
        if metrics or defenses:
            changes["pairs"] = ()
        if datasets:
            changes["attacks"] = tuple(entry.model_copy(update={"datasets": ()}) for entry in self.attacks)
        if attacks:
            old = self.attacks
            budgets = {n: tuple(sorted({e for a in old for e in getattr(a, n)})) for n in ("linf", "l2")}
            if not any(budgets.values()):
                budgets[self.headline.norm] = (self.headline.eps,)
            changes["attacks"] = tuple(
                AttackEntry(
                    attack=name,
                    linf=budgets["linf"],
                    l2=budgets["l2"],
                    directions=("up", "down") if any("down" in a.directions for a in old) else ("up",),
                )
                for name in attacks
            )
        if changes:
            given = {"metrics": metrics, "defenses": defenses, "data sets": datasets, "attacks": attacks}
            replaced = ", ".join(what for what, names in given.items() if names)
            changes["description"] = f"Suite {self.name!r} with other {replaced} than its own."
        return self.model_copy(update=changes)


def suite_names() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(p.name.removesuffix(".yml") for p in _FOLDER.iterdir() if p.name.endswith(".yml"))


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


_PARTS = {
    "attacks": AttackEntry,
    "certify": CertifyEntry,
    "headline": Headline,
    "pairs": Pair,
    "checks": ChecksEntry,
}


def load_suite(text: str | Mapping[str, Any]) -> Suite:
    """Load a suite by name, from a YAML file, or from a dict with the keys of such a file.

    Raises:
        UnknownName: no such suite, or an unknown key, with the nearest one.
        BadSuite: the file is missing, is not YAML, or a value is impossible.
    """
    if not isinstance(text, str):
        return check_model(text, Suite, "the suite", BadSuite, _PARTS, "metrics and attacks")
    if text.endswith((".yml", ".yaml")):
        path = Path(text)
        if not path.is_file():
            raise BadSuite(f"suite file {text!r} does not exist: check the path")
        content = path.read_bytes()
    elif text in suite_names():
        content = _FOLDER.joinpath(f"{text}.yml").read_bytes()
    else:
        raise UnknownName("suite", text, suite_names(), "for one of your own give the path of its .yml file")
    return read_model(content, Suite, f"suite {text!r}", BadSuite, _PARTS, "metrics and attacks")
