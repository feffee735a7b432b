"""From a suite to cells: the smallest pieces of work, each with an id made of all that decides its result."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .api import Coverage, DefendedMetric, Direction, Metric, Norm, Threat
from .build import load_attack, load_defense
from .datasets import Dataset, load_dataset
from .errors import Absent, AbsentPath, BadData, Incompatible
from .files import write_atomically
from .foresight import Foresight
from .metrics import load_metric
from .overlap import Judge, Overlap
from .registry import checks_digest, code_digest, identity_of, package_versions, registry
from .spec import parse_spec
from .store import SCHEMA_VERSION, Store
from .suite import AttackEntry, Suite

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One piece of work: images [start, stop) of a data set, one metric, one defence, and what is done to them.

    Reliability checks ("check") take `images` of them, spread over the range, and climb the ladder if `ladder` says so.
    """

    kind: str
    metric: str
    defense: str
    dataset: str
    start: int
    stop: int
    seed: int
    attack: str | None = None
    norm: Norm | None = None
    eps: tuple[float, ...] = ()
    direction: Direction | None = None
    alpha: float | None = None
    coverage: Coverage | None = None
    family: int = 1
    images: int = 0
    ladder: bool = False
    id: str = ""

    @property
    def label(self) -> str:
        """Short text for progress lines."""
        what = f"{self.attack} {self.norm} {self.eps[0]:.4g} {self.direction}" if self.kind == "attack" else self.kind
        return f"{self.metric} | {self.defense} | {what} | {self.start}-{self.stop - 1}"


@dataclass(frozen=True)
class Plan:
    """The cells of a suite in the order of work, and what is left out with the reason.

    `asked` are the metrics with the defences that the suite names for them, canonical: the undefended metric also has
    cells where it only gives the unit of the gains. None in plans of schema 1, which did not say.
    `datasets` are the data sets with their content hash; empty in older plans.
    `overlaps` is what is judged on images that it was fitted on.
    `foreseen` is what will fail, as far as headers of files tell, with the reason.
    `costs` are forwards of the metric for one deployed score, by metric and defence; empty in older plans.
    """

    cells: tuple[Cell, ...]
    skipped: tuple[tuple[str, str], ...]
    asked: tuple[tuple[str, str], ...] | None = None
    datasets: tuple[tuple[str, str], ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    foreseen: tuple[tuple[str, str], ...] = ()
    costs: tuple[tuple[str, str, int], ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What a user should know before the work is done, in sentences."""
        return list(dict.fromkeys(overlap.sentence for overlap in self.overlaps))

    def but(self, defenses: Collection[str]) -> Plan:
        """The plan without what is about these defences."""
        cells = tuple(cell for cell in self.cells if cell.defense not in defenses)
        overlaps = tuple(overlap for overlap in self.overlaps if overlap.defense not in defenses)
        return replace(self, cells=cells, overlaps=overlaps)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `plan_from_json` reads it back."""
        return {
            "schema": SCHEMA_VERSION,
            "asked": self.asked,
            "skipped": self.skipped,
            "datasets": self.datasets,
            "overlaps": [asdict(overlap) for overlap in self.overlaps],
            "foreseen": self.foreseen,
            "costs": self.costs,
            "cells": [_stored(cell) for cell in self.cells],
        }

    def all_asked(self, suite: Suite) -> tuple[tuple[str, str], ...]:
        """`asked`, for plans of schema 1 from their suite: strings are sorted, plug-ins that may be gone not looked up.

        There two spellings of one plug-in count twice, which only matters to tables if one of them is `none`.
        """
        if self.asked is not None:
            return self.asked
        pairs = [(metric, defense) for metric in suite.metrics for defense in suite.defenses]
        pairs += [(pair.metric, pair.defense) for pair in suite.pairs]
        return tuple((str(parse_spec(metric)), str(parse_spec(defense))) for metric, defense in pairs)


class Identities:
    """What plug-ins are, asked once each: sources, weights and the images that one leans on are read for it."""

    def __init__(self) -> None:
        self.packages = package_versions()
        self._known: dict[tuple[str, str], str] = {}

    def of(self, kind: str, text: str) -> str:
        """As `registry.identity_of`."""
        if (kind, text) not in self._known:
            self._known[kind, text] = identity_of(kind, text)
        return self._known[kind, text]


_DEFAULTS = {field.name: field.default for field in fields(Cell)}


def _stored(cell: Cell) -> dict[str, Any]:
    """What a cell has beyond the defaults: of a hundred thousand cells, half of the file would be nulls."""
    return {name: value for name, value in vars(cell).items() if value != _DEFAULTS[name]}


def write_plan(root: Path, plan: Plan) -> None:
    """Write ROOT/plan.json atomically: a cell a line, each written as it comes."""
    lines = [json.dumps(_stored(cell), ensure_ascii=False) for cell in plan.cells]
    head = json.dumps(replace(plan, cells=()).to_json() | {"cells": 0}, ensure_ascii=False).removesuffix("0}")
    write_atomically(root / "plan.json", "".join((head, "[\n", ",\n".join(lines), "\n]}\n")).encode())


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LARGEST = 10**8
"""Images of a data set, and any budget; a number beyond it is none that this program wrote."""


def plan_from_json(data: dict[str, Any]) -> Plan:
    """The plan that `Plan.to_json` wrote; raises `ValueError`, `KeyError` or `TypeError` for anything else."""
    cells = [_checked(cell if isinstance(cell, Cell) else _cell(cell)) for cell in data["cells"]]
    if len({cell.id for cell in cells}) != len(cells):
        raise ValueError("two cells of one id")
    asked = data.get("asked")
    overlaps = tuple(Overlap(**overlap) for overlap in data.get("overlaps", ()))
    costs = tuple((metric, defense, int(cost)) for metric, defense, cost in data.get("costs", ()))
    return Plan(tuple(cells), _pairs(data["skipped"]), None if asked is None else _pairs(asked),
                _pairs(data.get("datasets", ())), overlaps, _pairs(data.get("foreseen", ())), costs)  # fmt: skip


def _cell(data: Mapping[str, Any]) -> Cell:
    """The cell of its plain data; names that many cells share are one string in memory."""
    shared = {
        name: sys.intern(value) if isinstance(value, str) and name != "id" else value for name, value in data.items()
    }
    given: dict[str, Any] = shared | {"eps": tuple(data.get("eps", ()))}
    return Cell(**given)


def _plan_of(store: Store) -> Plan:
    """The plan in a folder; each cell is made as it is parsed, so that the file is never in memory as plain data."""
    return plan_from_json(store.read_json("plan.json", lambda part: _cell(part) if "start" in part else part))


def _checked(cell: Cell) -> Cell:
    """The cell, if it is one that a plan can have: folders are passed around, and ids are names of files."""
    texts = (cell.id, cell.kind, cell.metric, cell.defense, cell.dataset, cell.attack or "", cell.direction or "")
    numbers = (cell.start, cell.stop, cell.seed, cell.family, cell.images)
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise TypeError("texts and whole numbers")
    if not all(type(eps) in (float, int) and 0 <= eps <= _LARGEST for eps in cell.eps):  # NaN is not, either
        raise ValueError("budgets")
    whole = {"score": True, "check": True, "certify": bool(cell.eps), "attack": bool(cell.attack and cell.norm)}
    if not whole.get(cell.kind) or (cell.kind == "attack" and len(cell.eps) != 1):
        raise ValueError(f"kind {cell.kind!r} without what belongs to it")
    if not _ID.fullmatch(cell.id) or not 0 <= cell.start < cell.stop <= _LARGEST:
        raise ValueError(f"cell {cell.id!r} of images {cell.start} to {cell.stop}")
    return cell


_TABLES = ("suite", "code", "packages", "execution", "environment", "hardware", "numerics")
_LISTS = ("plugins", "plugin_files", "trusted_files", "datasets", "merged")
"""Parts of a run record; older ones lack some."""


def read_run(store: Store) -> tuple[dict[str, Any], Suite, Plan]:
    """Record, suite and plan of a run's folder; raises `BadData` where it is none, or they are damaged."""
    with undamaged(store):
        record = store.read_json("run.json")
        for kind, names in ((dict, _TABLES), (list, _LISTS)):
            if wrong := [name for name in names if not isinstance(record.get(name, kind()), kind)]:
                raise TypeError(wrong[0])
        return record, Suite.model_validate(record["suite"]), _plan_of(store)


def read_plan(store: Store) -> Plan:
    """The plan of a run's folder; raises `BadData` where it is none, or damaged."""
    with undamaged(store):
        return _plan_of(store)


@contextlib.contextmanager
def undamaged(store: Store) -> Iterator[None]:
    """Turn what comes of a record or plan that no run has written into `BadData`."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadData(f"run.json or plan.json in {str(store.root)!r} is damaged ({type(error).__name__}): run the "
                      "suite again into this folder") from error  # fmt: skip


def _pairs(items: Iterable[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((a, b) for a, b in items)


def canonical(kind: str, text: str) -> str:
    """The plug-in string with its parameters sorted: one spelling for tables and ids."""
    spec = parse_spec(text)
    registry.get(kind, spec.name).bind(spec)
    return str(spec)


def unique(kind: str, texts: Sequence[str]) -> list[str]:
    """Canonical strings of different plug-ins: two spellings of the same one (a default written out) count once."""
    found: dict[str, str] = {}
    for text in texts:
        plugin, spec, _ = registry.resolve(kind, text)
        found.setdefault(plugin.identity(spec), str(spec))
    return list(found.values())


def combinations(suite: Suite) -> dict[str, list[str]]:
    """The defences that are asked for behind each metric, canonical."""
    found = {metric: [*suite.defenses] for metric in unique("metric", suite.metrics)}
    for pair in suite.pairs:
        found.setdefault(canonical("metric", pair.metric), []).append(pair.defense)
    return {metric: unique("defense", names) for metric, names in found.items()}


def make_plan(suite: Suite) -> Plan:
    """Cells of a suite: per data set, metric and defence first the clean scores, then certificates, then attacks.

    The scores of the undefended metric are always planned: their spread is the unit of every gain.

    Raises:
        Absent: a metric or data set is not on this machine, and the suite does not say `absent: skip`; or nothing is.
    """
    cells: list[Cell] = []
    skipped: list[tuple[str, str]] = []
    identities = Identities()
    contents: dict[str, str] = {}
    overlaps: list[Overlap] = []
    judge = Judge()
    foreseen: list[tuple[str, str]] = []
    foresight: dict[str, Foresight] = {}
    costs: dict[tuple[str, str], int] = {}
    for dataset_name, dataset, metric, names in _present(suite, skipped):
        contents[dataset_name] = dataset.content_hash
        ahead = foresight.get(dataset_name) or foresight.setdefault(dataset_name, Foresight(dataset_name, dataset))
        foreseen += ahead.files()
        for defense in unique("defense", ("none", *names)):
            what = f"{defense} on {metric.spec}"
            try:
                g = _unless_absent(suite, what, partial(_built, defense, metric, identities), skipped)
            except Incompatible as error:
                skipped.append((what, str(error)))
                continue
            if g is None:
                continue
            overlaps += judge.overlaps(g, dataset_name, dataset)
            foreseen += ahead.sizes(g)
            costs[metric.spec, defense] = g.cost
            base = {"metric": metric.spec, "defense": defense, "dataset": dataset_name, "seed": suite.seed}
            for job in _jobs(suite, g, dataset_name, len(dataset), defense in names, skipped):
                cells += _cut(base | job, suite.chunk, dataset, identities)
    if not cells and suite.absent == "skip":
        reasons = "; ".join(f"{what}: {why}" for what, why in dict.fromkeys(skipped))
        raise Absent(f"suite {suite.name!r} has nothing to run on this machine: {reasons}")
    # Entries of a suite may overlap: one cell for each piece of work.
    return Plan(
        tuple({cell.id: cell for cell in cells}.values()),
        tuple(dict.fromkeys(skipped)),
        tuple((metric, defense) for metric, defenses in combinations(suite).items() for defense in defenses),
        tuple(contents.items()),
        tuple(overlaps),
        tuple(dict.fromkeys(foreseen)),
        tuple((metric, defense, cost) for (metric, defense), cost in costs.items()),
    )


def _present(suite: Suite, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, Dataset, Metric, list[str]]]:
    """Each data set (canonical string first) with each metric and its defences, if both are on this machine."""
    absent: set[str] = set()  # looking for weights may mean waiting for the network: once is enough
    for dataset_text in unique("dataset", suite.datasets):
        dataset = _unless_absent(suite, f"data set {dataset_text}", partial(load_dataset, dataset_text), skipped)
        if dataset is None:
            continue
        if dataset.n_absent:
            skipped.append((f"images of {dataset_text}", f"not on this machine: {dataset.n_absent}"))
        for metric_text, defenses in combinations(suite).items():
            if metric_text in absent:
                continue
            metric = _unless_absent(suite, f"metric {metric_text}", partial(load_metric, metric_text), skipped)
            if metric is None:
                absent.add(metric_text)
            else:
                yield dataset_text, dataset, metric, defenses


def _built(defense: str, metric: Metric, identities: Identities) -> DefendedMetric:
    """The defended metric; raises `Absent` also where something is not there that the defence leans on only later."""
    g = load_defense(defense, metric)
    identities.of("defense", defense)
    return g


def _unless_absent(suite: Suite, what: str, load: Callable[[], T], skipped: list[tuple[str, str]]) -> T | None:
    """What `load` gives; None, and the reason in `skipped`, for something absent that the suite says to skip."""
    try:
        return load()
    except BadData as error:
        if suite.absent == "error":
            raise
        if isinstance(error, Absent) and not isinstance(error, AbsentPath):
            skipped.append((what, str(error)))
            return None
        raise BadData(
            f"{what}: {error}; this is an error in spite of `absent: skip`, which leaves out what is not on this "
            "machine, but nothing that is given by its path or damaged"
        ) from error


def _jobs(
    suite: Suite, g: DefendedMetric, dataset: str, images: int, wanted: bool, skipped: list[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """What is done to one defended metric, without the cutting into chunks."""
    yield {"kind": "score"}
    if not wanted:
        return
    if suite.checks:
        yield {"kind": "check", "images": min(suite.checks.images, images), "ladder": suite.checks.ladder}
    if suite.certify and g.certified_norm:
        entry = suite.certify
        job = {"kind": "certify", "alpha": entry.alpha, "coverage": entry.coverage, "family": images}
        if budgets := entry.budgets(g.certified_norm):
            yield job | {"norm": g.certified_norm, "eps": budgets}
        else:
            skipped.append((f"certificate of {g.spec}", f"the suite's `certify` has no {g.certified_norm} budgets"))
    for entry in suite.attacks:
        if not _applies(entry, g, dataset):
            continue
        attack = load_attack(entry.attack)
        name = attack.spec
        for threat in entry.threats():
            reason = attack.skip(g, threat)
            if reason:
                skipped.append((f"{name} on {g.spec} at {threat}", reason))
                continue
            for direction in entry.directions:
                yield _attack_job(name, threat, direction)


def _attack_job(name: str, threat: Threat, direction: Direction) -> dict[str, Any]:
    return {"kind": "attack", "attack": name, "norm": threat.norm, "eps": (threat.eps,), "direction": direction}


def _applies(entry: AttackEntry, g: DefendedMetric, dataset: str) -> bool:
    """Whether the suite wants this attack on this kind of defence and on this data set (canonical string)."""
    if entry.datasets and dataset not in unique("dataset", entry.datasets):
        return False
    return {
        "all": True,
        "deterministic": not g.randomised,
        "randomised": g.randomised,
        "certified": g.certified_norm is not None,
    }[entry.only]


def _cut(job: dict[str, Any], chunk: int, dataset: Dataset, identities: Identities) -> Iterator[Cell]:
    """The job on chunks of images, each with its id: what all chunks share is digested once."""
    identity = {
        "schema": SCHEMA_VERSION,
        "code": code_digest(),
        "packages": identities.packages,
        "dataset_plugin": identities.of("dataset", job["dataset"]),
        "metric": identities.of("metric", job["metric"]),
        "defense": identities.of("defense", job["defense"]),
        "attack": identities.of("attack", job["attack"]) if job.get("attack") else None,
        "dataset": dataset.content_hash,
    }
    if job["kind"] == "check":  # one judgement of a defended metric, not one of each image
        identity["checks"], chunk = checks_digest(), max(1, len(dataset))
    shared = vars(Cell(**job, start=0, stop=0))
    parts = {name: value for name, value in shared.items() if name not in ("start", "stop")}
    # A digest of JSON with sorted keys, of which these two are the last.
    head = json.dumps(parts | {"id": "", "identity": identity}, sort_keys=True).removesuffix("}")
    common, slug = hashlib.sha256(head.encode()), _slug(shared)
    for start in range(0, len(dataset), chunk):
        stop = min(start + chunk, len(dataset))
        digest = common.copy()
        digest.update(f', "start": {start}, "stop": {stop}}}'.encode())
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{slug}-{start}")[:100]
        yield Cell(**(shared | {"start": start, "stop": stop, "id": f"{name}-{digest.hexdigest()[:16]}"}))


def job_ids(job: dict[str, Any], chunk: int, dataset: Dataset, identities: Identities) -> list[str]:
    """Ids that this process gives the cells of a job (what a `Cell` has but start, stop and id)."""
    return [cell.id for cell in _cut(job, chunk, dataset, identities)]


def _slug(job: dict[str, Any]) -> str:
    """Readable start of a file name."""
    parts = [job["kind"], parse_spec(job["metric"]).name, parse_spec(job["defense"]).name]
    if job["kind"] == "attack":
        parts += [parse_spec(job["attack"]).name, job["norm"], f"{job['eps'][0]:.4g}", job["direction"]]
    return "-".join(parts)
