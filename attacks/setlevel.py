"""Attacks on a whole set of images: what they lower is the correlation, not the score of any one image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from ..bench.api import DefendedMetric, Direction, Threat
from ..bench.datasets import Dataset
from ..bench.errors import BadData, BadImage, BadParameter, BadScore, Incompatible
from ..bench.objective import Objective
from ..bench.seeds import Role, Streams, image_key
from .base import Candidate
from .iterative import IFgsm
from .pgd import State
from .projection import unit

Method = Literal["sma", "opposite"]
"""How the images of a set are steered."""

LEAST = 3
"""Images that a rank correlation needs."""

_STEPS, _RATE, _WEIGHT = 1000, 0.05, 1e-4
_WARM, _COLD = 100.0, 1.0


class Towards(IFgsm):
    """Targeted I-FGSM: brings the quality to a target instead of up or down (stage 2 of SMA, arXiv 2404.13277).

    It minimises (quality - target)^2; the nearest point counts, of all steps on a deterministic defence, else of the
    last. Where the gradient says that less than a whole step is left to the target, the step is that short: the
    paper's fixed steps would jump to and fro around it.

    Args:
        target: wanted quality.
        steps: gradient steps, 10 in the paper.
        step: step size as a fraction of eps; none for 2 / steps, which is the paper's .001 of .005.
        draws: draws averaged in the gradient of a randomised defence (EOT).
    """

    spec = "towards"
    way = 2.0

    def __init__(self, target: float, steps: int = 10, step: float | None = None, draws: int = 8) -> None:
        super().__init__(steps, step, draws)
        self.target = target

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """The points of the ascent; the value of each is minus its squared distance to the target."""
        for z, value in super().candidates(objective, x, threat):
            reached = objective.select(z, self.selection_draws) if value is None else value
            yield Candidate(z, -(reached - self.target).square())

    def _gradient(
        self, objective: Objective, z: torch.Tensor, state: State
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        value, gradient = objective.gradient(z, self.draws)
        left = self.target - value.to(gradient)
        slope = gradient.flatten(1).norm(p=1 if state.threat.norm == "linf" else 2, dim=1).clamp_min(1e-30)
        length = left.sign() * (left.abs() / slope).clamp_max(self.step * state.threat.eps)
        return value, length[:, None, None, None] * unit(gradient, state.threat.norm)

    def _moved(self, z: torch.Tensor, gradient: torch.Tensor, state: State) -> torch.Tensor:
        return z + gradient


def attack_set(
    g: DefendedMetric,
    dataset: Dataset,
    threat: Threat,
    method: Method = "sma",
    seed: int = 0,
    *,
    steps: int = 10,
    draws: int = 8,
    device: str = "cpu",
) -> pd.DataFrame:
    """Attack all images of a data set so that their scores no longer agree with what they were.

    `sma` is the SROCC-MSE attack of Yang et al., "Beyond Score Changes" (arXiv 2404.13277): `target_scores` of the
    whole set, then `Towards` for each image. `opposite` raises each image whose quality is at most the set's median
    and lowers the others, with as many steps of the same size (the rule of Liu et al., CVPR 2024, with the median of
    the set for the middle of the scale).

    The targets are made from the attacker's own draws of a randomised defence; the scores of the table are all from
    the evaluation stream.

    Args:
        g: defended metric.
        dataset: images of any sizes, attacked one by one.
        threat: norm and budget of each image.
        method: "sma" or "opposite".
        seed: base seed of all streams.
        steps: gradient steps an image.
        draws: draws averaged in the gradient of a randomised defence.
        device: torch device.

    Returns:
        a row an image: `image`, `reference`, `truth`; qualities (scores, negated where smaller is better) `clean`,
        `target` (NaN for `opposite`), `attacked`, `attacked_8bit`; `linf`, `l2`, `psnr`, `ssim` to the clean image;
        `forwards`, `backwards`, `seconds`. Images that cannot be read or scored are left out, with the reason in
        `attrs["left_out"]`.

    Raises:
        BadData: fewer than 3 images that can be scored, or all have the same score.
        BadParameter: unknown method.
        BadScore: an image whose score is NaN or infinite.
        Incompatible: no gradient.
    """
    if method not in get_args(Method):
        raise BadParameter(f"unknown method {method!r}: expected {' or '.join(get_args(Method))}")
    if not g.differentiable:
        raise Incompatible(f"attack {method!r} needs gradients, which {g.spec!r} does not give")
    if len(dataset) < LEAST:
        raise BadData(f"{len(dataset)} images have no rank correlation to attack: give a data set of at least {LEAST}")
    usable, qualities, left_out = [], [], []
    for index, item in enumerate(dataset.items):
        try:
            qualities.append(_known(g, dataset, index, seed, device))
            usable.append(index)
        except BadImage as error:
            left_out.append(f"{item.id}: {error}")
    known = np.array(qualities)
    if len(known) < LEAST:
        raise BadData(f"of {len(dataset)} images only {len(known)} can be scored, {LEAST} are needed: {left_out[0]}")
    if np.ptp(known) == 0:
        score = g.metric.sign * known[0]
        raise BadData(f"all {len(known)} images have the score {score:g}: there is no order to attack")
    targets = target_scores(known) if method == "sma" else np.full(len(known), np.nan)
    middle = float(np.median(known))
    rows: list[dict[str, Any]] = []
    for index, quality, target in zip(usable, known, targets, strict=True):
        item, x = dataset.items[index], dataset.load(index)[None].to(device)
        direction: Direction = "up" if method == "sma" or quality <= middle else "down"
        attack = Towards(float(target), steps, draws=draws) if method == "sma" else IFgsm(steps, 2 / steps, draws)
        attack.spec = method
        result = attack(g, x, threat, direction, seed)
        sign = g.metric.sign
        rows.append(
            {
                "image": item.id, "reference": item.reference,
                "truth": np.nan if item.truth is None else item.truth,
                "clean": sign * result.clean.score[0], "target": target,
                "attacked": sign * result.attacked.score[0], "attacked_8bit": sign * result.attacked_8bit.score[0],
                "linf": result.linf[0], "l2": result.l2[0], "psnr": result.psnr[0], "ssim": result.ssim[0],
                "forwards": result.forwards[0] + g.cost, "backwards": result.backwards[0],
                "seconds": result.seconds[0],
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table.attrs["left_out"] = left_out
    return table


def target_scores(quality: np.ndarray) -> np.ndarray:
    """Targets (N,) for qualities (N,) that minimise SROCC - 1e-4 variance - 1e-4 MSE (stage 1 of SMA).

    The loss is that of the authors, with the range of the clean qualities as 0 to 100: the rank correlation to these
    falls while the targets spread and move away from them. Differences from their code: ranks are soft by pairwise
    sigmoids (`soft_ranks`), whose width falls from the whole range to a hundredth of it, so that an image can pass all
    others and not only its neighbours; targets stay within the range, because what lies beyond is often out of reach,
    and images that all fail to get there keep their order; 1000 steps of Adam suffice instead of 100,000. At the end
    the targets are sorted against the qualities: by the rearrangement inequality no other order of the same targets
    has a smaller loss.

    Args:
        quality: what the clean images have, larger = better; not all equal.
    """
    low, high = float(quality.min()), float(quality.max())
    q = torch.as_tensor(100.0 * (quality - low) / (high - low), dtype=torch.float64)
    ranks = torch.as_tensor(rankdata(quality), dtype=torch.float64)
    ranks = (ranks - ranks.mean()) / ranks.std(correction=0)
    free = torch.logit((q / 100.0).clamp(0.01, 0.99)).requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=_RATE)
    for width in np.geomspace(_WARM, _COLD, _STEPS):
        targets = 100.0 * torch.sigmoid(free)
        soft = soft_ranks(targets, float(width))
        soft = soft - soft.mean()
        srocc = (ranks * soft).mean() / soft.square().mean().sqrt().clamp_min(1e-12)
        loss = srocc - _WEIGHT * targets.var(correction=0) - _WEIGHT * (targets - q).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = np.sort(low + (high - low) * torch.sigmoid(free).detach().numpy())
    reversed_order = np.empty(len(found))
    reversed_order[np.argsort(-quality, kind="stable")] = found
    return reversed_order


def soft_ranks(values: torch.Tensor, width: float) -> torch.Tensor:
    """Differentiable ranks (N,) from 1 to N: 1/2 plus the sum over all images of sigmoid((v_i - v_j) / width).

    As the width falls to 0 they become the ranks, with the mean rank for ties (Qin, Liu and Li 2010).
    """
    return 0.5 + torch.sigmoid((values[:, None] - values[None, :]) / width).sum(1)


def _known(g: DefendedMetric, dataset: Dataset, index: int, seed: int, device: str) -> float:
    """The quality that the attacker sees of an image, on draws of his own."""
    image = dataset.load(index)
    rng = Streams.create([image_key(image)], Role.SEARCH, seed, "set-level")
    try:
        return g.metric.sign * float(g.estimate(image[None].to(device), rng).score[0])
    except BadScore as error:
        raise BadScore(f"image {dataset.items[index].id!r}: {error}") from error
