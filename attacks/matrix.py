"""The transfer matrix: what is found on one metric, tried on all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ..bench.api import DefendedMetric, Direction, Estimate, Threat
from ..bench.datasets import Dataset
from ..bench.errors import BadData, BadParameter, BadScore, Incompatible
from ..bench.judge import scored
from ..bench.measures import score_range
from ..bench.seeds import image_keys
from .transfer import Transfer

OTHERS = "all others"
"""The source that is every metric of the matrix but the attacked one."""


class Ensemble(Transfer):
    """The attack `transfer` with metrics that are loaded already, each behind its defence.

    Args:
        sources: the metrics that give the gradients, by name.
        steps: gradient steps.
        draws: draws averaged in the gradient of a randomised defence (EOT).
    """

    spec = "transfer-matrix"

    def __init__(self, sources: Sequence[DefendedMetric], steps: int = 20, draws: int = 8) -> None:
        super().__init__(steps=steps)
        if draws < 1:
            raise BadParameter(f"transfer-matrix[draws={draws}]: expected at least 1")
        self._given = {g.metric.spec: g for g in sources}
        self.sources, self.draws = list(self._given), draws

    def _source(self, name: str, g: DefendedMetric, device: torch.device) -> DefendedMetric:
        return self._given[name]


class Matrix(NamedTuple):
    """Gains by image, and what they are measured in.

    Attributes:
        gains: a row for each `image` (with its `reference`), `source` and `target`: the `gain` in quality, in units
            of the target.
        units: by target: length of the declared range, or R of the clean scores where none is declared.
        left_out: images that are too small for one of the metrics.
    """

    gains: pd.DataFrame
    units: dict[str, float]
    left_out: list[str]


def transfer_matrix(
    metrics: Sequence[DefendedMetric],
    dataset: Dataset,
    threat: Threat,
    direction: Direction = "up",
    seed: int = 0,
    *,
    steps: int = 20,
    draws: int = 8,
    device: str = "cpu",
) -> Matrix:
    """How much images that were attacked on one metric gain on every other.

    Each metric is a source once: MI-FGSM on it alone, as `transfer[source=...]` does, which asks the targets nothing.
    With source and target the same it is the white-box attack. With three metrics or more, the source `all others` is
    the signed ensemble of all metrics but the target. Every image counts in every cell; one that some metric cannot
    take is left out of all.

    Args:
        metrics: at least two, each behind its defence; a source's gradient runs through its own.
        dataset: images of any sizes, attacked one by one.
        threat: norm and budget.
        direction: "up" raises the quality that a metric reports, "down" lowers it, which shows as a negative gain.
        seed: base seed of all streams.
        steps: gradient steps.
        draws: draws averaged in the gradient of a randomised defence.
        device: torch device.

    Raises:
        BadParameter: fewer than two metrics, or one twice.
        Incompatible: a metric without gradient.
        BadData: no image that all metrics take.
        BadScore: an image whose score is NaN or infinite; or a target without declared range whose clean scores are
            all equal, so that nothing can be measured in their range.
    """
    names = [g.metric.spec for g in metrics]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise BadParameter(f"a transfer matrix of {', '.join(names) or 'nothing'}: expected two or more different ones")
    for g in metrics:
        if not g.differentiable:
            raise Incompatible(f"{g.spec!r} on {g.metric.spec!r} has no gradient: leave it out of the matrix")
    smallest = max(g.metric.min_size for g in metrics)
    rows: list[dict[str, Any]] = []
    clean: dict[str, list[float]] = {name: [] for name in names}
    left_out: list[str] = []
    for index, item in enumerate(dataset.items):
        x = dataset.load(index)[None].to(device)
        if min(x.shape[2:]) < smallest:
            left_out.append(item.id)
            continue
        before = {g.metric.spec: _score(g, x, x, seed, item.id) for g in metrics}
        for name, estimate in before.items():
            clean[name].append(float(estimate.score[0]))
        for source, sources, targets in _rounds(metrics):
            # What the attack is called on only judges it: the search asks the sources alone.
            judge = targets[0]
            result = Ensemble(sources, steps, draws)(judge, x, threat, direction, seed, clean=before[judge.metric.spec])
            for g in targets:
                after = _score(g, result.adversarial, x, seed, item.id)
                gain = g.metric.sign * float((after.score - before[g.metric.spec].score)[0])
                rows.append({"image": item.id, "reference": item.reference, "source": source,
                             "target": g.metric.spec, "gain": gain})  # fmt: skip
    if not rows:
        raise BadData(f"no image of the data set has sides of at least {smallest} px, which the metrics need")
    units = {g.metric.spec: _unit(g, np.array(clean[g.metric.spec])) for g in metrics}
    gains = pd.DataFrame(rows)
    return Matrix(gains.assign(gain=gains["gain"] / gains["target"].map(units)), units, left_out)


def _rounds(
    metrics: Sequence[DefendedMetric],
) -> Iterator[tuple[str, Sequence[DefendedMetric], Sequence[DefendedMetric]]]:
    """Name of a source, the metrics that it consists of, and the targets that its images are scored on."""
    for g in metrics:
        yield g.metric.spec, [g], metrics
    for g in metrics if len(metrics) > 2 else ():
        yield OTHERS, [other for other in metrics if other is not g], [g]


def _score(g: DefendedMetric, images: torch.Tensor, clean: torch.Tensor, seed: int, name: str) -> Estimate:
    """Scores on the evaluation streams of the clean images, as the attack base takes them."""
    try:
        return scored(g, images, image_keys(clean), seed)
    except BadScore as error:
        raise BadScore(f"image {name!r}: {error}") from error


def _unit(g: DefendedMetric, scores: np.ndarray) -> float:
    low, high = g.metric.score_range or score_range(scores)
    if not (np.isfinite(high - low) and high > low):
        raise BadScore(f"metric {g.metric.spec!r} has the range [{low:g}, {high:g}] on this data set: no unit of gain")
    return float(high - low)
