"""Honest figures of a trained metric: human scores, held-out photographs, and how far an attack moves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..datasets.clive import Clive
from ..distortions import DISTORTIONS, LEVELS, distort
from ..errors import BadData
from ..images import from_uint8, load_image, to_uint8
from ..logistic import fit_logistic
from ..measures import krocc, plcc, srocc
from .sources import shrink


class Estimate(NamedTuple):
    """A figure with the 2.5 and 97.5 percentiles of its bootstrap distribution."""

    value: float
    lo: float
    hi: float

    def __str__(self) -> str:
        """`0.612 [0.55, 0.67]`."""
        return f"{self.value:.3f} [{self.lo:.2f}, {self.hi:.2f}]"


@dataclass
class MetricReport:
    """Figures of `evaluate_metric`.

    Attributes:
        human: by split of CLIVE: number of images, SROCC, PLCC (raw and after the 4-parameter logistic), KROCC to MOS.
        level_per_photo: by kind: mean over photographs of the SROCC between score and -level, levels 0 to 5.
        level_pooled: by kind: the same SROCC over all photographs and levels at once.
        attack: gain in units of the range of the clean scores (p99 - p1) by PGD l_inf 4/255, and that range.
        n_photographs: number of held-out photographs behind the last three.
    """

    human: dict[str, dict[str, Any]] = field(default_factory=dict)
    level_per_photo: dict[str, Estimate] = field(default_factory=dict)
    level_pooled: dict[str, float] = field(default_factory=dict)
    attack: dict[str, float] = field(default_factory=dict)
    n_photographs: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def evaluate_metric(
    metric: nn.Module,
    data_root: str = "",
    photographs: str = "",
    splits: Sequence[str] = ("val", "test"),
    n_photographs: int = 100,
    seed: int = 0,
) -> MetricReport:
    """Measure a metric that maps (B,3,H,W) in [0,1] to (B,), larger = better.

    Args:
        metric: in evaluation mode.
        data_root: folder of the CLIVE release; empty means $ROBUSTIQA_DATA/clive.
        photographs: folder of held-out photographs (JPEG or PNG), used at half size; empty skips these figures.
        splits: splits of CLIVE to measure.
        n_photographs: how many photographs to use, in the order of their names.
        seed: seed of noise, bootstrap and attack.

    Raises:
        BadData: the release or the folder is missing.
    """
    report = MetricReport()
    for split in splits:
        data = Clive(data_root, split=split)
        scores = np.array([_score(metric, [to_uint8(data.load(i))])[0] for i in range(len(data))])
        report.human[split] = agreement(scores, np.array([item.truth for item in data.items]), seed)
    if photographs:
        images = half_size_photographs(photographs, n_photographs)
        report.n_photographs = len(images)
        clean: list[np.ndarray] = []
        for kind in DISTORTIONS:
            rows = np.stack([_score(metric, _ladder(image, kind, (seed, n))) for n, image in enumerate(images)])
            clean.append(rows)
            per_photo = np.array([_srocc(row, -np.arange(LEVELS + 1)) for row in rows])
            report.level_per_photo[kind] = bootstrap(len(per_photo), lambda i, p=per_photo: float(p[i].mean()), seed)
            report.level_pooled[kind] = _srocc(rows.ravel(), np.tile(-np.arange(LEVELS + 1), len(rows)))
        report.attack = _attackability(metric, images, np.concatenate([c.ravel() for c in clean]), seed)
    return report


def agreement(scores: np.ndarray, truth: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Number of images, SROCC, PLCC and KROCC of two vectors with bootstrap intervals; fitted PLCC without one.

    Where the fit gives none, `plcc_logistic_reason` says why.
    """
    estimates = {
        measure.__name__: bootstrap(len(scores), lambda i, f=measure: f(scores[i], truth[i]), seed)
        for measure in (srocc, plcc, krocc)
    }
    fit = fit_logistic(scores, truth)
    reason = {"plcc_logistic_reason": fit.reason} if fit.reason else {}
    return {"n": len(scores), **estimates, "plcc_logistic": fit.plcc, **reason}


def bootstrap(n: int, measure: Callable[[np.ndarray], float], seed: int, draws: int = 1000) -> Estimate:
    """A measure of an index vector, on all of 0..n-1 and on resamples with replacement."""
    rng = np.random.default_rng((seed, 5))
    samples = [measure(rng.integers(0, n, n)) for _ in range(draws)]
    lo, hi = np.percentile(samples, [2.5, 97.5])
    return Estimate(measure(np.arange(n)), float(lo), float(hi))


def half_size_photographs(folder: str, limit: int) -> list[np.ndarray]:
    """The first `limit` photographs of a folder by name, (H,W,3) uint8 at half size; raises `BadData` without any."""
    files = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))[:limit]
    if not files:
        raise BadData(f"no photographs in {folder!r}: give a folder with JPEG or PNG files")
    return [shrink(to_uint8(load_image(file)), 2.0) for file in files]


def pgd_gain(metric: nn.Module, x: torch.Tensor, eps: float, steps: int, sign: float) -> torch.Tensor:
    """Change of score (B,) by plain sign-gradient ascent (sign 1) or descent (-1) in an l_inf ball; best iterate."""
    start = metric(x).detach()
    best, adversarial = torch.zeros_like(start), x.clone()
    for _ in range(steps):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(metric(adversarial).sum(), adversarial)
        moved = adversarial.detach() + sign * 2.5 * eps / steps * gradient.sign()
        adversarial = (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
        with torch.no_grad():
            change = metric(adversarial) - start
        best = torch.where(sign * change > sign * best, change, best)
    return best


def attacked_crops(images: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """128-pixel centre crops of the first 32 photographs, each followed by one distorted version of it."""
    rng = np.random.default_rng((seed, 6))
    crops: list[np.ndarray] = []
    for image in images[:32]:
        top, left = (image.shape[0] - 128) // 2, (image.shape[1] - 128) // 2
        part = np.ascontiguousarray(image[top : top + 128, left : left + 128])
        crops += [part, distort(part, str(rng.choice(list(DISTORTIONS))), int(rng.integers(1, LEVELS + 1)), rng)]
    return crops


def _attackability(metric: nn.Module, images: list[np.ndarray], clean: np.ndarray, seed: int) -> dict[str, float]:
    """PGD l_inf 4/255, 20 steps, on `attacked_crops`."""
    x = torch.stack([from_uint8(c) for c in attacked_crops(images, seed)])
    span = float(np.subtract(*np.percentile(clean, [99, 1])))
    up = pgd_gain(metric, x, 4 / 255, 20, 1.0) / span
    down = pgd_gain(metric, x, 4 / 255, 20, -1.0) / span
    return {
        "range": span,
        "n": float(len(x)),
        "up_mean": float(up.mean()),
        "up_min": float(up.min()),
        "down_mean": float(down.mean()),
    }


def _ladder(image: np.ndarray, kind: str, seed: tuple[int, int]) -> list[np.ndarray]:
    """The image and its five levels."""
    rng = np.random.default_rng(seed)
    return [image] + [distort(image, kind, level, rng) for level in range(1, LEVELS + 1)]


def _score(metric: nn.Module, images: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return metric(torch.stack([from_uint8(image) for image in images])).double().numpy()


def _srocc(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; 0 where one side is constant: such a metric does not see the distortion."""
    value = srocc(a, b)
    return value if np.isfinite(value) else 0.0
