"""Running cells: images in, rows out; a failure becomes an error row or an error file, never a score."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .api import AttackResult, DefendedMetric, Estimate, Metric, Progress, Threat
from .build import load_attack, load_defense
from .checks.examine import examine
from .datasets import Dataset, Item, load_dataset
from .errors import RobustIQAError
from .faults import fault_of
from .judge import scored
from .metrics import load_metric
from .plan import Cell
from .seeds import image_keys

Row = dict[str, Any]


class Worker:
    """Runs cells one after the other and keeps what they share: metrics, data sets, the last defence and its scores.

    Args:
        device: torch device.
        pool: folder that keeps certification draws, so that an interrupted certificate goes on, and methods that only
            differ in the statistic share them; None keeps none.
        progress: told how far the draws of the present certificate are.
        batch: most images at once; None for all of a cell that have one size.
        images: whether rows of attacks have the attacked image, (3,H,W) in [0,1], as `adversarial`.
    """

    def __init__(
        self,
        device: str = "cpu",
        pool: Path | None = None,
        progress: Progress | None = None,
        batch: int | None = None,
        images: bool = False,
    ) -> None:
        self.device, self.pool, self.progress, self.batch, self.images = device, pool, progress, batch, images
        self._datasets: dict[str, Dataset] = {}
        self._metrics: dict[str, Metric] = {}
        self._defended: tuple[tuple[str, str], DefendedMetric] | None = None
        self._clean: dict[tuple[str, str, int, str], tuple[float, float, float]] = {}
        self._clean_of: tuple[str, str, str] | None = None
        self._fits: dict[tuple[object, ...], int] = {}

    def run(self, cell: Cell, limit: int | None = None) -> list[Row]:
        """All rows of a cell, in the order of its images.

        Images of one size go together; where a batch fails, its images are run one by one, so that a single bad one
        costs its own row only. Where the memory does not suffice, the batch is halved, and the column `batch` has the
        number of images that were run together.

        Args:
            cell: what to run.
            limit: most images at once, where memory is known to be short.
        """
        dataset = self.dataset(cell.dataset)
        g = self._defend(cell.metric, cell.defense)
        if self._clean_of != (cell.metric, cell.defense, cell.dataset):
            # A plan does not come back to them: kept for all defences they would grow with the run.
            self._clean.clear()
            self._clean_of = cell.metric, cell.defense, cell.dataset
        if cell.kind == "check":
            return [_shared(cell, g, dataset) | row for row in _check(cell, g, dataset, self.device)]
        rows: dict[int, list[Row]] = {}
        for indices, x in _load(dataset, range(cell.start, cell.stop), rows, self.device):
            rows |= self._run_batches(cell, g, dataset, indices, x, limit)
        shared = _shared(cell, g, dataset)
        return [shared | _described(dataset.items[i]) | row for i in range(cell.start, cell.stop) for row in rows[i]]

    def _run_batches(
        self,
        cell: Cell,
        g: DefendedMetric,
        dataset: Dataset,
        indices: Sequence[int],
        x: torch.Tensor,
        limit: int | None,
    ) -> dict[int, list[Row]]:
        """Rows of images of one size, in batches that fit into the memory."""
        key = (cell.metric, cell.defense, cell.attack or cell.kind, *x.shape[1:])
        asked = min(self.batch or len(indices), len(indices))
        most = min(asked, limit or asked, self._fits.get(key, asked))
        found: dict[int, list[Row]] = {}
        while len(found) < len(indices):
            part, short = slice(len(found), len(found) + most), False
            try:
                rows = self._run_batch(cell, g, dataset, indices[part], x[part])
            except Exception as error:
                if fault_of(error) != "memory" or len(indices[part]) == 1:
                    raise
                rows, short = {}, True
            if short:  # outside the handler, whose traceback holds what filled the memory
                most = self._fits[key] = (len(indices[part]) + 1) // 2
                gc.collect()
                if self.device.startswith("cuda"):
                    torch.cuda.empty_cache()
            recorded = {"batch": most} if most < asked else {}
            found |= {i: [row | recorded for row in r] for i, r in rows.items()}
        return found

    def _run_batch(
        self, cell: Cell, g: DefendedMetric, dataset: Dataset, indices: Sequence[int], x: torch.Tensor
    ) -> dict[int, list[Row]]:
        size = {"height": x.shape[2], "width": x.shape[3]}
        try:
            found = _JOBS[cell.kind](self, cell, g, x)
        except RobustIQAError as error:
            if fault_of(error) != "deterministic":
                raise  # what the images did not cause is no error of theirs
            if len(indices) == 1:
                return {indices[0]: [{"status": "error", "message": str(error), **size}]}
            single: dict[int, list[Row]] = {}
            for k, index in enumerate(indices):
                single |= self._run_batch(cell, g, dataset, [index], x[k : k + 1])
            return single
        return {i: [{"status": "ok", **size, **row} for row in r] for i, r in zip(indices, found, strict=True)}

    def clean(self, g: DefendedMetric, x: torch.Tensor, seed: int) -> Estimate:
        """Evaluation-stream scores of clean images, computed once: every attack on them starts from these."""
        keys = image_keys(x)
        missing = [i for i, key in enumerate(keys) if (g.metric.spec, g.spec, seed, key) not in self._clean]
        if missing:
            estimate = scored(g, x[missing], [keys[i] for i in missing], seed)
            for j, i in enumerate(missing):
                values = (estimate.score[j], estimate.lo[j], estimate.hi[j])
                self._clean[g.metric.spec, g.spec, seed, keys[i]] = values
        return Estimate(*np.array([self._clean[g.metric.spec, g.spec, seed, key] for key in keys]).T)

    def _score(self, cell: Cell, g: DefendedMetric, x: torch.Tensor) -> list[list[Row]]:
        estimate = self.clean(g, x, cell.seed)
        return [[{"clean": s, "clean_lo": lo, "clean_hi": hi}] for s, lo, hi in zip(*estimate, strict=True)]

    def _certify(self, cell: Cell, g: DefendedMetric, x: torch.Tensor) -> list[list[Row]]:
        assert cell.alpha is not None
        population = g.certify(
            x, cell.eps, cell.alpha, cell.seed, cell.family,
            coverage=cell.coverage or "pointwise", pool=self.pool, progress=self.progress,
        )  # fmt: skip
        joint = population.family or population
        certificates = [(population, joint)]
        if population.deployed is not None and joint.deployed is not None:
            certificates.append((population.deployed, joint.deployed))
        return [
            [
                {
                    "certificate": c.kind, "certified_norm": c.norm, "eps": eps, "n": c.n, "alpha": c.alpha,
                    "sigma": c.sigma, "score": c.score[i], "spread": c.spread[i], "lo": c.lo[i, j], "hi": c.hi[i, j],
                    "family_lo": family.lo[i, j], "family_hi": family.hi[i, j], "coverage": c.coverage,
                    "abstained": None if c.abstained is None else bool(c.abstained[i]),
                }
                for c, family in certificates
                for j, eps in enumerate(c.eps)
            ]
            for i in range(len(x))
        ]  # fmt: skip

    def _attack(self, cell: Cell, g: DefendedMetric, x: torch.Tensor) -> list[list[Row]]:
        assert cell.norm is not None
        assert cell.attack is not None
        assert cell.direction is not None
        clean = self.clean(g, x, cell.seed)
        r = self.attack(cell.attack)(g, x, Threat(cell.norm, cell.eps[0]), cell.direction, cell.seed, clean=clean)
        columns = {
            "clean": r.clean.score, "clean_lo": r.clean.lo, "clean_hi": r.clean.hi,
            "attacked": r.attacked.score, "attacked_lo": r.attacked.lo, "attacked_hi": r.attacked.hi,
            "attacked_8bit": r.attacked_8bit.score, "attacked_8bit_lo": r.attacked_8bit.lo,
            "attacked_8bit_hi": r.attacked_8bit.hi, "gain": r.gain, "gain_8bit": r.gain_8bit,
            "linf": r.linf, "l2": r.l2, "psnr": r.psnr, "ssim": r.ssim,
            "forwards": r.forwards, "backwards": r.backwards, "queries": r.queries,
            "seconds": r.seconds,
        }  # fmt: skip
        rows: list[Row] = [{name: values[i].item() for name, values in columns.items()} for i in range(len(x))]
        if self.images:
            for row, image in zip(rows, r.adversarial.cpu().numpy(), strict=True):
                row["adversarial"] = image
        return [[row] for row in rows]

    def attack(self, text: str) -> Callable[..., AttackResult]:
        """What attacks images, for a plug-in string; `Rescorer` has one that remembers."""
        return load_attack(text)

    def dataset(self, text: str) -> Dataset:
        """The data set of a plug-in string, loaded once."""
        if text not in self._datasets:
            self._datasets[text] = load_dataset(text)
        return self._datasets[text]

    def _defend(self, metric: str, defense: str) -> DefendedMetric:
        if self._defended is None or self._defended[0] != (metric, defense):
            if metric not in self._metrics:
                self._metrics[metric] = load_metric(metric, self.device)
            self._defended = (metric, defense), load_defense(defense, self._metrics[metric])
        return self._defended[1]


def _check(cell: Cell, g: DefendedMetric, dataset: Dataset, device: str) -> list[Row]:
    """A row a check; an error of ours, such as an image that cannot be read, is the only row."""
    try:
        findings = examine(g, dataset, cell.images, cell.ladder, cell.seed, device)
    except RobustIQAError as error:
        if fault_of(error) != "deterministic":
            raise
        return [{"status": "error", "message": str(error)}]
    return [
        {"status": "ok", "check": f.name, "raised": f.raised, "message": f.skipped or None}
        | ({} if f.skipped else {"value": f.value, "threshold": f.threshold})
        for f in findings
    ]


_JOBS: dict[str, Callable[[Worker, Cell, DefendedMetric, torch.Tensor], list[list[Row]]]] = {
    "score": Worker._score,
    "certify": Worker._certify,
    "attack": Worker._attack,
}


def _load(
    dataset: Dataset, indices: range, rows: dict[int, list[Row]], device: str
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Batches of equal size; an image that cannot be read becomes an error row at once."""
    groups: dict[tuple[int, ...], list[tuple[int, torch.Tensor]]] = {}
    for index in indices:
        try:
            image = dataset.load(index)
        except RobustIQAError as error:
            if fault_of(error) != "deterministic":
                raise  # a lost file server is no bad image
            rows[index] = [{"status": "error", "message": str(error)}]
            continue
        groups.setdefault(tuple(image.shape), []).append((index, image))
    for members in groups.values():
        yield [index for index, _ in members], torch.stack([image for _, image in members]).to(device)


def _shared(cell: Cell, g: DefendedMetric, dataset: Dataset) -> Row:
    low, high = g.metric.score_range or (None, None)
    shared: Row = {
        "cell": cell.id,
        "kind": cell.kind,
        "metric": cell.metric,
        "defense": cell.defense,
        "dataset": cell.dataset,
        "truth_name": dataset.truth_name,
        "lower_better": g.metric.lower_better,
        "randomised": g.randomised,
        "bounded": g.metric.bounded,
        "range_lo": low,
        "range_hi": high,
    }
    if cell.kind == "attack":
        shared |= {"attack": cell.attack, "norm": cell.norm, "eps": cell.eps[0], "direction": cell.direction}
    return shared


def _described(item: Item) -> Row:
    return {"image": item.id, "reference": item.reference, "truth": item.truth}
