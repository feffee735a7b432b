"""Scores of a finished run by the present code, from its images: what was attacked is not attacked again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from .agreement import agreement
from .api import AttackResult, DefendedMetric, Direction, Estimate, Threat
from .datasets import load_dataset
from .errors import BadData, BadImage, RobustIQAError
from .files import write_atomically, write_json
from .judge import judge
from .plan import Cell, Plan, read_run, undamaged, write_plan
from .provenance import run_record, shown_path, write_record
from .seeds import image_key
from .store import Store
from .suite import Suite
from .worker import Row, Worker

COSTS = ("forwards", "backwards", "queries", "seconds")
"""Columns of an attack's row that only the attack itself knows: they stay as they are."""

COMPARED = ("clean", "attacked", "attacked_8bit", "gain", "gain_8bit", "linf", "l2", "psnr", "ssim")
"""Columns that are compared; those of gains and scores are in the metric's units."""

_KEYS = ["metric", "defense", "dataset", "kind", "direction"]


@dataclass(frozen=True)
class Rescored:
    """What came of scoring again.

    Attributes:
        table: a row a metric, defence, data set, kind, direction and column: `n` images with both figures, `stored`
            and `now` (means), `largest` (the largest absolute difference).
        equal, rounded, changed: cells whose results are the same, the same up to rounding (`agreement`), and not.
        failed: cells that cannot be scored by the present code, with the reason.
        notes: what was not computed again, in sentences.
        out: folder of the new run; None if none was asked for.
    """

    table: pd.DataFrame
    equal: int
    rounded: int
    changed: int
    failed: dict[str, str]
    notes: tuple[str, ...]
    out: Path | None


class Rescorer(Worker):
    """A worker whose attacks return the images that a run has kept."""

    def __init__(self, store: Store, device: str, batch: int | None) -> None:
        super().__init__(device, None, batch=batch)
        self._store = store
        self._kept: dict[str, np.ndarray] = {}

    def again(self, cell: Cell, limit: int | None) -> list[Row]:
        """Rows of a score cell or of an attack cell with images, as `Worker.run` gives them; costs are 0."""
        if cell.kind == "attack":
            dataset, images = self.dataset(cell.dataset), self._store.read_images(cell.id)
            self._kept = {
                image_key(dataset.load(i)): images[item.id]
                for i in range(cell.start, cell.stop)
                if (item := dataset.items[i]).id in images
            }
        return self.run(cell, limit)

    def attack(self, text: str) -> Callable[..., AttackResult]:
        """An attack that remembers."""
        return self._remember

    def _remember(
        self, g: DefendedMetric, x: torch.Tensor, threat: Threat, direction: Direction, seed: int, *, clean: Estimate
    ) -> AttackResult:
        kept = [self._kept.get(image_key(image)) for image in x]
        found = [image for image in kept if image is not None]
        if len(found) < len(kept):
            raise BadImage("the run has kept no adversarial version of this image, which failed")
        adversarial = torch.from_numpy(np.stack(found)).to(x)
        judged, nothing = vars(judge(g, x, adversarial, seed, clean)), np.zeros(len(x))
        return AttackResult(
            **judged, adversarial=adversarial, forwards=nothing, backwards=nothing, queries=nothing, seconds=nothing
        )


def rescore(
    root: str | Path, out: str | Path | None = None, device: str = "cpu", tell: Callable[[str], object] | None = None
) -> Rescored:
    """Score the clean and the adversarial images of a run with the present code, and compare with what is stored.

    The same images, streams and batches: with unchanged code and machine the figures are the same to the last bit.
    Attacks whose images were not kept, certificates and reliability checks stay as they are, and so do images that
    failed, and what an attack cost.

    Args:
        root: folder of the run; nothing in it is changed.
        out: folder for a run with the new figures, whose tables `collect` writes; None only compares.
        device: torch device.
        tell: told the label of each cell before it is scored.

    Raises:
        BadData: the folder is no run, or `out` holds another one.
        RobustIQAError: a data set is not here, or has other images than then.
    """
    store = Store(root)
    record, suite, plan = read_run(store)
    target = None if out is None else _target(Path(out), store)
    _same_images(plan)
    there = store.snapshot()
    whole = store.completed(cell.id for cell in plan.cells)
    todo = [c for c in plan.cells if c.id in whole and (c.kind == "score" or c.id in there.images)]
    worker = Rescorer(store, device, record.get("execution", {}).get("batch"))
    found = _Findings()
    if target is None:
        for cell in todo:
            found.add(cell, *_again(worker, store, cell, tell))
        return found.result(_notes(plan, whole, todo), None)
    with target.locked():
        target.create()
        for cell in todo:
            old, new = _again(worker, store, cell, tell)
            found.add(cell, old, new)
            if isinstance(new, str):  # its old figures are not of this code: they would be taken for the new ones
                target.forget(cell.id)
                target.write_error(cell.id, {"error": new})
            else:
                target.write_cell(cell.id, new)
        _keep(store, target, whole.difference(cell.id for cell in todo))
        write_plan(target.root, plan)
        write_record(target.root, _record(suite, plan, device, target, store, record, _notes(plan, whole, todo)))
    return found.result(_notes(plan, whole, todo), target.root)


def _again(
    worker: Rescorer, store: Store, cell: Cell, tell: Callable[[str], object] | None
) -> tuple[pa.Table, list[Row] | str]:
    """The stored rows of a cell, and the new ones, or why there are none."""
    if tell:
        tell(cell.label)
    old = store.read_cell(cell.id)
    stored = old.to_pylist()
    limit = min((row["batch"] for row in stored if row["batch"] is not None), default=None)
    try:
        new = worker.again(cell, limit)
    except RobustIQAError as error:
        return old, str(error)
    if [row["image"] for row in new] != [row["image"] for row in stored]:
        return old, "its rows are not one for each image of the data set, in that order"
    return old, [_merged(was, row) for was, row in zip(stored, new, strict=True)]


def _merged(was: Mapping[str, Any], row: Row) -> Row:
    """The new row with what only the attack knew; an image that failed then has no figures now."""
    if was["status"] != "ok":
        return dict(was)
    return row | {name: was[name] for name in COSTS}


class _Findings:
    """Cells compared, one after the other."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self._counts = {"equal": 0, "rounded": 0, "changed": 0}
        self._rows: list[pd.DataFrame] = []

    def add(self, cell: Cell, old: pa.Table, new: list[Row] | str) -> None:
        if isinstance(new, str):
            self.failed[cell.id] = new
            return
        table = pa.Table.from_pylist([{n: row.get(n) for n in old.column_names} for row in new], schema=old.schema)
        found = agreement(old, table)
        self._counts["changed" if found.problem else "rounded" if found.largest else "equal"] += 1
        stored, now = (t.select([*_KEYS, *COMPARED]).to_pandas() for t in (old, table))
        self._rows += [stored[_KEYS].assign(column=c, stored=stored[c], now=now[c]) for c in COMPARED]

    def result(self, notes: Iterable[str], out: Path | None) -> Rescored:
        rows = pd.concat(self._rows) if self._rows else pd.DataFrame(columns=[*_KEYS, "column", "stored", "now"])
        rows = rows.astype({"stored": float, "now": float})
        rows = rows[np.isfinite(rows["stored"]) & np.isfinite(rows["now"])]
        groups = rows.assign(largest=(rows["stored"] - rows["now"]).abs()).groupby(
            [*_KEYS, "column"], sort=False, dropna=False
        )
        table = groups.agg({"stored": "mean", "now": "mean", "largest": "max"}).assign(n=groups.size()).reset_index()
        return Rescored(table, **self._counts, failed=self.failed, notes=tuple(notes), out=out)


def _target(out: Path, source: Store) -> Store:
    """The store to write to, unless it is the run itself or holds another one."""
    target = Store(out)
    if out.resolve() == source.root.resolve():
        raise BadData(f"--out {str(out)!r} is the run itself: choose another folder, its figures are kept")
    if (out / "run.json").exists():
        with undamaged(target):
            earlier = target.read_json("run.json").get("rescored", {}).get("folder")
        if earlier != shown_path(source.root, out):
            raise BadData(f"--out {str(out)!r} holds another run: choose a new folder")
    return target


def _same_images(plan: Plan) -> None:
    for name, content in plan.datasets:
        if load_dataset(name).content_hash != content:
            raise BadData(f"the images or scores of data set {name!r} are not those of the run: rescoring needs the "
                          "same ones")  # fmt: skip


def _keep(store: Store, target: Store, cells: set[str]) -> None:
    """Copy the results that were not computed again, and the reasons of cells that failed."""
    there = store.snapshot()
    for cell in sorted(cells):
        path = store.cells / there.results[cell]
        write_atomically(target.cells / path.name, path.read_bytes(), sync=False)
    for cell in there.errors:
        write_json(target.errors / f"{cell}.json", store.read_json(f"errors/{cell}.json"))


def _notes(plan: Plan, whole: set[str], todo: Sequence[Cell]) -> Iterator[str]:
    """What stays as it was, and why."""
    again = {cell.id for cell in todo}
    reasons = {
        "attack": "attacks stay as stored: their images were not kept (`robustiqa run --save-images`)",
        "certify": "certificates stay as stored: they need their draws, `robustiqa run` computes them again",
        "check": "reliability checks stay as stored: `robustiqa run` does them again",
    }
    for kind, why in reasons.items():
        count = sum(cell.kind == kind and cell.id in whole and cell.id not in again for cell in plan.cells)
        if count:
            yield f"{count} cells of {why}"
    if missing := sum(cell.id not in whole for cell in plan.cells):
        yield f"{missing} cells have no result in the run, and none here"


def _record(
    suite: Suite, plan: Plan, device: str, target: Store, store: Store, record: dict[str, Any], notes: Iterator[str]
) -> dict[str, Any]:
    """The record of the new run: the conditions of now, and the whole record of then."""
    folder = shown_path(store.root, target.root)
    return run_record(suite, plan, device, target.root) | {
        "rescored": {"folder": folder, "run": record, "notes": list(notes)}
    }
