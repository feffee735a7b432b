"""Runs of several machines made one: every cell once, and nothing that does not belong together."""

from __future__ import annotations

import datetime
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import records, saved_images
from .agreement import TOLERANCE, agreement
from .errors import BadData, BadParameter
from .files import no_os_errors, write_atomically, write_json
from .plan import Cell, Plan, read_run, undamaged, write_plan
from .provenance import BOARD, differences, found_path, shown_path, write_record
from .records import SCHEMA_VERSION
from .store import Snapshot, Store
from .suite import Suite

MAP = "merged.json"
"""File beside `run.json` that says which source each cell was taken from."""
_NAMED = 3
"""Cells that an error names."""


@dataclass(frozen=True)
class Source:
    """A run to be merged, as it was when it was opened."""

    store: Store
    record: dict[str, Any]
    suite: Suite
    plan: Plan

    @property
    def name(self) -> str:
        """Its folder, as the user gave it."""
        return str(self.store.root)

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """Its planned cells by id."""
        return {cell.id: cell for cell in self.plan.cells}

    @cached_property
    def there(self) -> Snapshot:
        """What it held."""
        return self.store.snapshot()

    @cached_property
    def whole(self) -> set[str]:
        """Planned cells with a whole result."""
        return self.store.completed(self.cells)


@dataclass(frozen=True)
class Merged:
    """What a merge left.

    Attributes:
        out: the folder.
        cells: cell -> index of the source that it was taken from.
        failed: cells that failed wherever they were tried, with the reason.
        missing: planned cells that no source has tried or finished.
        notes: what a reader of the tables should know, in sentences.
    """

    out: Path
    cells: dict[str, int]
    failed: dict[str, str]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def merge_runs(roots: Sequence[str | Path], out: str | Path, tolerance: float = TOLERANCE) -> Merged:
    """Unite the plans and results of several runs in one folder, which may be one of them.

    A cell that several have is taken once: from the one with the fewest failed images, of equal ones the first. Their
    results have to agree (`agreement`). The result of one run takes the place of another's error. Everything is
    compared before anything is written; a merge that was interrupted is done by calling it again.

    Args:
        roots: folders of runs.
        out: a new folder, one of the runs, or the outcome of an earlier merge of some of them.
        tolerance: relative difference that numbers of one cell may have; 0 for none.

    Raises:
        BadData: a folder is no run; two results of a cell do not agree; one name means different plug-ins or images; or
            the same work was planned under different ids (other code, seed, packages or chunks), which would count
            images twice.
    """
    if not tolerance >= 0:
        raise BadParameter(f"tolerance {tolerance}: expected a number >= 0")
    stores = [Store(root) for root in {Path(root).resolve(): root for root in roots}.values()]
    sources = [Source(store, *read_run(store)) for store in stores]
    target = Store(out)
    _check_target(target, sources)
    _same_names(sources)
    _no_work_twice(sources)
    chosen, notes = _choose(sources, tolerance)
    notes = [*_conditions(sources), *notes]
    plan = _united_plan(sources)
    reasons = _failures(sources, chosen)
    with target.locked():
        target.create()
        _copy(sources, chosen, target)
        for cell in plan.cells:
            if cell.id in chosen:
                target.forget_error(cell.id)
        for cell, (source, _) in reasons.items():
            if source.store.root.resolve() != target.root.resolve():
                target.write_error(cell, source.store.read_json(f"errors/{cell}.json"))
        names = [shown_path(source.store.root, target.root) for source in sources]
        write_json(target.root / MAP, {"schema": SCHEMA_VERSION, "sources": names, "cells": chosen})
        write_plan(target.root, plan)
        write_record(target.root, _record(sources, names, chosen, notes))
    missing = tuple(cell.id for cell in plan.cells if cell.id not in chosen and cell.id not in reasons)
    return Merged(target.root, chosen, {c: why for c, (_, why) in reasons.items()}, missing, tuple(notes))


def _check_target(target: Store, sources: Sequence[Source]) -> None:
    """Refuse a folder that holds a run which is not to be merged: its cells would be lost from sight."""
    known = {source.store.root.resolve() for source in sources}
    if target.root.resolve() in known or not (target.root / "run.json").exists():
        return
    with undamaged(target):
        earlier = target.read_json("run.json").get("merged")
        part_of = earlier is not None and {found_path(part["folder"], target.root) for part in earlier} <= known
    if not part_of:
        raise BadData(f"{str(target.root)!r} holds a run that is not among those to be merged: name it, too, or choose "
                      "another --out")  # fmt: skip


def _pairs(sources: Sequence[Source]) -> Iterator[tuple[Source, Source]]:
    return itertools.combinations(sources, 2)


def _same_names(sources: Sequence[Source]) -> None:
    """Refuse one name for different plug-ins or images: a table could not tell them apart."""
    for first, second in _pairs(sources):
        a, b = (_digests(source) for source in (first, second))
        for kind, name in a.keys() & b.keys():
            if a[kind, name] != b[kind, name]:
                raise BadData(
                    f"{kind} {name!r} is not the same in {first.name!r} and {second.name!r} (other images, code or "
                    "weights under one name): merge runs of the same one only"
                )


def _digests(source: Source) -> dict[tuple[str, str], str]:
    """What is known of the things that have names: content of data sets, digests of plug-ins."""
    found = {(p["kind"], p["plugin"]): p["digest"] for p in source.record.get("plugins", ())}
    return found | {("data set", name): content for name, content in source.plan.datasets}


def _no_work_twice(sources: Sequence[Source]) -> None:
    """Refuse cells with another id that do the same thing to the same images."""
    taken: dict[tuple[Any, ...], dict[int, tuple[Source, Cell]]] = {}
    for source in sources:
        for cell in source.plan.cells:
            eps = cell.eps if cell.kind == "attack" else ()
            work = (cell.kind, cell.metric, cell.defense, cell.dataset, cell.attack, cell.norm, eps, cell.direction)
            images = taken.setdefault(work, {})
            for image in range(cell.start, cell.stop):
                other, found = images.setdefault(image, (source, cell))
                if found.id != cell.id:
                    raise BadData(
                        f"{other.name!r} and {source.name!r} hold the same work under different ids, which would count "
                        f"images twice (cell {found.id} and cell {cell.id}): {_why(other, source, found, cell)}"
                    )


def _why(first: Source, second: Source, a: Cell, b: Cell) -> str:
    """Why two cells of the same work have different ids, as far as the records say."""
    found = [
        f"{what} {getattr(a, key)} and {getattr(b, key)}"
        for key, what in (("seed", "seeds"), ("eps", "budgets"), ("alpha", "alpha"), ("coverage", "coverage"),
                          ("family", "images in all"), ("images", "images checked"), ("ladder", "ladder"))
        if getattr(a, key) != getattr(b, key)
    ]  # fmt: skip
    if (a.start, a.stop) != (b.start, b.stop):
        found.append(f"other chunks ({first.suite.chunk} and {second.suite.chunk} images)")
    found += differences(first.record, second.record) if not found else ()
    return f"{'; '.join(found) or 'other code, packages or files'}. Run one of them again like the other"


def _choose(sources: Sequence[Source], tolerance: float) -> tuple[dict[str, int], list[str]]:
    """The source of each cell that has a whole result anywhere, and notes; `BadData` where two do not agree."""
    chosen: dict[str, int] = {}
    differing: list[str] = []
    twice, rounded, largest = 0, 0, 0.0
    for cell in dict.fromkeys(cell.id for source in sources for cell in source.plan.cells):
        having = [k for k, source in enumerate(sources) if cell in source.whole]
        if not having:
            continue
        chosen[cell] = having[0]
        if len(having) == 1:
            continue
        twice += 1
        tables = {k: sources[k].store.read_cell(cell) for k in having}
        chosen[cell] = min(having, key=lambda k: sum(s != "ok" for s in tables[k]["status"].to_pylist()))
        for k in having:
            found = agreement(tables[chosen[cell]], tables[k], tolerance)
            if found.problem:
                names = f"{sources[chosen[cell]].name!r} and {sources[k].name!r}"
                differing.append(f"cell {cell} in {names}: {found.problem}")
            rounded += 0 < found.largest < float("inf")
            largest = max(largest, found.largest)
    if differing:
        more = f" (and {len(differing) - _NAMED} more)" if len(differing) > _NAMED else ""
        raise BadData(f"results of the same cell do not agree, nothing was written: {'; '.join(differing[:_NAMED])}"
                      f"{more}. Find out which one is right and leave out the other, or allow more with --tolerance"
                      )  # fmt: skip
    notes = [f"{twice} cells are in several of the runs and were counted once"] if twice else []
    if rounded:
        notes.append(f"{rounded} results of the same cell differ by rounding, by {largest:.1g} of the scale at most")
    for source in sources:
        damaged = [c for c in source.cells if c in source.there.results and c not in source.whole]
        if damaged:
            notes.append(f"{len(damaged)} results in {source.name!r} are damaged and were left out: {damaged[0]}")
    return chosen, notes


def _conditions(sources: Sequence[Source]) -> list[str]:
    """What is not the same in the runs, though it does not forbid to merge them."""
    notes = [f"{source.name!r} is being written to: what it had was taken" for source in sources
             if source.store.is_locked()]  # fmt: skip
    first = sources[0]
    for source in sources[1:]:
        found = list(differences(first.record, source.record))
        found += [
            f"{what}: {a}, now {b}"
            for what, a, b in (
                ("seed", first.suite.seed, source.suite.seed),
                ("schema", first.record.get("schema"), source.record.get("schema")),
                ("headline", first.suite.headline.model_dump(), source.suite.headline.model_dump()),
            )
            if a != b
        ]
        if found:
            notes.append(f"{source.name!r} was not made like {first.name!r}: {'; '.join(found)}")
        if not (first.plan.datasets and source.plan.datasets):
            notes.append(f"{first.name!r} or {source.name!r} does not record the content of its data sets: that equal "
                         "names mean equal images was not checked")  # fmt: skip
    return notes


def _failures(sources: Sequence[Source], chosen: Mapping[str, int]) -> dict[str, tuple[Source, str]]:
    """Cells that failed and have no result anywhere, with the first source that says why."""
    found: dict[str, tuple[Source, str]] = {}
    for source in sources:
        for cell in source.cells:
            if cell in source.there.errors and cell not in chosen and cell not in found:
                found[cell] = source, source.store.reason(cell) or ""
    return found


def _united_plan(sources: Sequence[Source]) -> Plan:
    cells = {cell.id: cell for source in sources for cell in source.plan.cells}
    here = {text for c in cells.values()
            for text in (f"metric {c.metric}", f"data set {c.dataset}", f"{c.defense} on {c.metric}")}  # fmt: skip
    skipped = dict.fromkeys(
        (what, why) for source in sources for what, why in source.plan.skipped if what not in here
    )  # absent on one machine, and run on another
    asked = dict.fromkeys(pair for source in sources for pair in source.plan.all_asked(source.suite))
    datasets = dict(pair for source in sources for pair in source.plan.datasets)
    return Plan(
        tuple(cells.values()),
        tuple(skipped),
        tuple(asked),
        tuple(datasets.items()),
        overlaps=tuple(dict.fromkeys(overlap for source in sources for overlap in source.plan.overlaps)),
        foreseen=tuple(dict.fromkeys(line for source in sources for line in source.plan.foreseen)),
        costs=tuple(dict.fromkeys(cost for source in sources for cost in source.plan.costs)),
    )


def _united_suite(suites: Sequence[Suite]) -> Suite:
    """The suite that the board shows; which defences are asked for behind which metric stands in the plan."""
    first = suites[0]
    if all(suite == first for suite in suites):
        return first
    lists = ("metrics", "defenses", "datasets", "pairs", "attacks")
    united: dict[str, Any] = {
        name: tuple(dict.fromkeys(item for suite in suites for item in getattr(suite, name))) for name in lists
    }
    for name in ("certify", "checks"):
        united[name] = next((found for suite in suites if (found := getattr(suite, name)) is not None), None)
    names = list(dict.fromkeys(suite.name for suite in suites))
    texts = dict.fromkeys(text for suite in suites if (text := suite.description.strip()))
    return first.model_copy(update=united | {"name": " + ".join(names), "description": " ".join(texts)})


def _record(
    sources: Sequence[Source], names: Sequence[str], chosen: Mapping[str, int], notes: Sequence[str]
) -> dict[str, Any]:
    """The record of the first run with what the others add, and each of them whole under `merged`."""
    taken = [sum(k == index for k in chosen.values()) for index in range(len(sources))]
    united: dict[str, Any] = {}
    for key, by in (("plugins", ("kind", "plugin")), ("datasets", ("dataset",))):
        found = [entry for source in sources for entry in source.record.get(key, ())]
        united[key] = list({tuple(entry[name] for name in by): entry for entry in found}.values())
    kept = {name: value for name, value in sources[0].record.items() if name != BOARD}  # which is of that folder alone
    return kept | united | {
        "schema": SCHEMA_VERSION,
        "suite": _united_suite([source.suite for source in sources]).model_dump(mode="json", by_alias=True),
        "merged_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "merged": [
            {"folder": name, "cells": count, "run": source.record}
            for name, count, source in zip(names, taken, sources, strict=True)
        ],
        "notes": list(notes),
    }  # fmt: skip


def _copy(sources: Sequence[Source], chosen: Mapping[str, int], target: Store) -> None:
    """The chosen results with their images; no sync a file, since the sources stay and every reading checks."""
    for cell, k in chosen.items():
        source = sources[k]
        if source.store.root.resolve() == target.root.resolve():
            continue
        path = source.store.cells / source.there.results[cell]
        with no_os_errors(target.cells):
            write_atomically(target.cells / path.name, path.read_bytes(), sync=False)
            for suffix in records.SUFFIXES:  # a damaged one of another schema
                if cell + suffix != path.name:
                    (target.cells / f"{cell}{suffix}").unlink(missing_ok=True)
            if cell in source.there.images:
                _copy_images(source.store.images / f"{cell}{saved_images.SUFFIX}", target.images)


def _copy_images(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    pictures = saved_images.folder_of(path)
    if pictures.is_dir() and not pictures.is_symlink():
        # Links stay behind: what they lead to is no part of the run, and its folder will be passed on.
        shutil.copytree(pictures, folder / pictures.name, ignore=_links, dirs_exist_ok=True)
    write_atomically(folder / path.name, path.read_bytes(), sync=False)


def _links(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if Path(folder, name).is_symlink()}
