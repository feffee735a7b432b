"""The loop that every attack runs in: budget, best iterate, and a score that the attack has never seen."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple, final, get_args

import numpy as np
import torch

from ..bench.api import AttackResult, DefendedMetric, Direction, Estimate, Norm, Threat, check_batch
from ..bench.errors import BadParameter, Incompatible
from ..bench.judge import judge, scored
from ..bench.objective import MAX_PIXELS, BudgetSpent, Objective, for_each
from ..bench.seeds import image_keys
from ..bench.threads import helpers, shares, side_by_side
from .projection import enforce

ENOUGH = MAX_PIXELS // 4
"""Pixels that keep a core busy: more of them in a batch, and steps along the gradient take no less time an image."""


class Candidate(NamedTuple):
    """An image batch that an attack proposes.

    Attributes:
        x: (B,3,H,W), inside ball and box up to rounding.
        value: (B,) exact oriented score if the attack knows it already (deterministic defences only), else None.
    """

    x: torch.Tensor
    value: torch.Tensor | None = None


class Attack(ABC):
    """An attack with a fixed budget: maximises the defended score (or minimises it) within a threat.

    A subclass writes `candidates`. The base keeps, per image, the candidate with the best score on the selection
    stream, puts it inside the budget to the last bit, and scores it on the evaluation stream.

    Attributes:
        norms: threat norms that it can work in.
        white_box: whether it needs gradients.
        selection_draws: draws on which candidates are compared when the defence is randomised.
        queries: most calls of the deployed score an image, enforced by the objective; None for no limit.
        concurrent: whether `candidates` may run in several threads at once, each with images of its own, some of which
            go up and others down: it must not write to the attack, nor ask for one direction of all images. A subclass
            declares it anew.
    """

    concurrent = False
    spec: str = ""
    norms: tuple[Norm, ...] = ("l2", "linf")
    white_box: bool = True
    selection_draws: int = 32
    queries: int | None = None

    @abstractmethod
    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """Propose perturbed versions of x (B,3,H,W); at least one."""

    def skip(self, g: DefendedMetric, threat: Threat) -> str | None:
        """Why this attack cannot run on a defended metric under a threat, or None if it can."""
        if threat.norm not in self.norms:
            return f"attack {self.spec!r} works in {' and '.join(self.norms)}, not in {threat.norm}"
        if self.white_box and not g.differentiable:
            what = f"defence {g.spec!r}" if g.metric.differentiable else f"metric {g.metric.spec!r}"
            return f"attack {self.spec!r} needs gradients, which {what} does not give: use square or another of scores"
        return None

    @final
    def __call__(
        self,
        g: DefendedMetric,
        x: torch.Tensor,
        threat: Threat,
        direction: Direction | Sequence[Direction] = "up",
        seed: int = 0,
        *,
        clean: Estimate | None = None,
    ) -> AttackResult:
        """Attack images x (B,3,H,W) in [0,1].

        Args:
            g: defended metric.
            x: clean images.
            threat: norm and budget.
            direction: "up" raises the quality that the metric reports, "down" lowers it; one for all, or one for each.
            seed: base seed of all streams.
            clean: evaluation-stream estimate of x if it is known already; it is computed otherwise.

        Raises:
            Incompatible: see `skip`.
            BadImage: x is not (B,3,H,W) in [0,1], or empty.
            BadScore: the metric returned NaN or infinity.
        """
        self._check(g, x, threat)
        # No budget beyond the box's diameter: a huge one would only overflow.
        diameter = 1.0 if threat.norm == "linf" else float(x[0].numel()) ** 0.5
        threat = replace(threat, eps=min(threat.eps, diameter))
        keys, ways = image_keys(x), for_each(direction, len(x))
        adversarial = x.detach().clone()
        forwards, backwards, queries = (np.zeros(len(x), dtype=np.int64) for _ in range(3))
        threads = self._threads(g, x)

        def run(part: slice) -> None:
            objective = Objective(g, keys[part], ways[part], seed, self.salt(threat), self.queries)
            adversarial[part] = enforce(self.find(objective, x[part], threat), x[part], threat)
            forwards[part], backwards[part] = objective.forwards, objective.backwards
            queries[part] = objective.queries

        began = time.perf_counter()
        if threat.eps > 0:
            size = max(1, MAX_PIXELS // threads // (x.shape[2] * x.shape[3]))
            # Images that one search cannot have together have searches of their own.
            turns = [] if self._shareable else [i for i in range(1, len(x)) if ways[i] != ways[i - 1]]
            blocks = [slice(*ends) for ends in itertools.pairwise([0, *turns, len(x)])]
            side_by_side(run, [part for block in blocks for part in _parts(block, size, threads)], threads)
        seconds = np.full(len(x), (time.perf_counter() - began) / max(1, len(x)))
        return AttackResult(
            **vars(judge(g, x, adversarial, seed, clean)),
            adversarial=adversarial,
            forwards=forwards,
            backwards=backwards,
            queries=queries,
            seconds=seconds,
        )

    @final
    def both(
        self, g: DefendedMetric, x: torch.Tensor, threat: Threat, seed: int = 0, *, clean: Estimate | None = None
    ) -> dict[Direction, AttackResult]:
        """Attack images x (B,3,H,W) upwards and downwards, as two calls would: in one batch where that saves time.

        Few small images leave a device idle, and twice as many less so.

        Args:
            g, x, threat, seed, clean: as for a call.

        Raises:
            Incompatible, BadImage, BadScore: as for a call; an error in one direction is one of both.
        """
        self._check(g, x, threat)
        clean = clean or scored(g, x, image_keys(x), seed)
        room = MAX_PIXELS if x.device.type != "cpu" else min(MAX_PIXELS, ENOUGH * torch.get_num_threads())
        if not self._shareable or 2 * x[:, 0].numel() > room:
            return {way: self(g, x, threat, way, seed, clean=clean) for way in get_args(Direction)}
        ways: list[Direction] = [way for way in get_args(Direction) for _ in range(len(x))]
        twice = Estimate(*(np.tile(ends, 2) for ends in clean))
        result = self(g, torch.cat([x, x]), threat, ways, seed, clean=twice)
        return {way: _cut(result, slice(k * len(x), (k + 1) * len(x))) for k, way in enumerate(get_args(Direction))}

    @final
    def each(
        self, g: DefendedMetric, x: torch.Tensor, threats: Sequence[Threat], direction: Direction = "up", seed: int = 0
    ) -> AttackResult:
        """Attack each of the images x (B,3,H,W) within a budget of its own, as B calls would.

        Raises:
            BadParameter: not as many threats as images.
            Incompatible, BadImage, BadScore: as for a call.
        """
        if len(threats) != len(x) or not len(x):
            raise BadParameter(f"{len(threats)} threats for {len(x)} images: expected one each, and at least one")
        return _joined([self(g, x[i : i + 1], threat, direction, seed) for i, threat in enumerate(threats)])

    def _check(self, g: DefendedMetric, x: torch.Tensor, threat: Threat) -> None:
        reason = self.skip(g, threat)
        if reason:
            raise Incompatible(reason)
        check_batch(x)

    def _threads(self, g: DefendedMetric, x: torch.Tensor) -> int:
        """How many threads may attack images x (B,3,H,W), each its share of them."""
        if x.device.type != "cpu" or not self._shareable:
            return 1
        draws = self.selection_draws if g.randomised else 1
        return helpers(draws * x[:, 0].numel(), len(x), g)

    @property
    def _shareable(self) -> bool:
        """Whether this class itself says that it is `concurrent`."""
        return bool(vars(type(self)).get("concurrent", False))

    def salt(self, threat: Threat) -> str:
        """What separates this attack's streams from another's; the defence and its budget are left out on purpose."""
        return f"{self.spec}|{threat.norm}"

    @final
    def find(self, objective: Objective, x: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Per image the candidate with the highest value on the selection stream, not judged any further."""
        proposals = _until_spent(self.candidates(objective, x, threat))
        first, second = next(proposals, None), next(proposals, None)
        if first is None:
            raise BadParameter(f"attack {self.spec!r} proposed no image: its `candidates` must yield at least one")
        if second is None:
            return first.x.detach()  # nothing to choose from
        best, ours = x, False
        best_value = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        for candidate in itertools.chain((first, second), proposals):
            value = candidate.value
            if value is None:
                value = objective.select(candidate.x, self.selection_draws)
            better = value > best_value
            if bool(better.all()):
                best, ours = candidate.x.detach(), False
            elif bool(better.any()):
                best, ours = best if ours else best.clone(), True
                for i in better.nonzero()[:, 0].tolist():
                    best[i] = candidate.x[i].detach()
            best_value = torch.where(better, value, best_value)
        return best


def _parts(block: slice, size: int, threads: int) -> list[slice]:
    """A block of images cut into as few parts as batches of a size and threads allow, all about as large."""
    images = block.stop - block.start
    rounds = math.ceil(images / size / threads)
    cuts = shares(images, min(threads * rounds, images))
    return [slice(block.start + cut.start, block.start + cut.stop) for cut in cuts]


def _cut(result: AttackResult, part: slice) -> AttackResult:
    """The result of some of the images."""

    def some(values: Any) -> Any:
        return Estimate(*(ends[part] for ends in values)) if isinstance(values, Estimate) else values[part]

    return AttackResult(**{f.name: some(getattr(result, f.name)) for f in fields(result)})


def _joined(results: Sequence[AttackResult]) -> AttackResult:
    """The results of several calls as that of one."""

    def together(parts: list[Any]) -> Any:
        if isinstance(parts[0], Estimate):
            return Estimate(*(np.concatenate(ends) for ends in zip(*parts, strict=True)))
        return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts)

    return AttackResult(**{f.name: together([getattr(r, f.name) for r in results]) for f in fields(AttackResult)})


def _until_spent(candidates: Iterator[Candidate]) -> Iterator[Candidate]:
    """The candidates that were proposed before the query budget was spent."""
    with contextlib.suppress(BudgetSpent):
        yield from candidates


def range_end(g: DefendedMetric, sign: float) -> float:
    """The oriented score at which the metric's declared range ends; infinite if it declares none."""
    if g.metric.score_range is None:
        return float("inf")
    low, high = g.metric.score_range
    return max(sign * low, sign * high)
