"""What a plan will cost: passes counted on a stand-in, times what a pass of each defended metric takes here."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .api import DefendedMetric, Threat
from .build import load_attack, load_defense
from .checks.examine import examine
from .checks.ladder import climb
from .datasets import Dataset, load_dataset
from .errors import BadImage, RobustIQAError
from .metrics import load_metric
from .objective import MAX_PIXELS, Objective
from .plan import Cell
from .records import encode
from .seeds import Role, Streams, image_keys
from .standin import Passes, StandIn

SAMPLE = 16
"""Images of a data set, spread over it, that are looked at for their size."""

LONG_ENOUGH = 0.25
"""Seconds for which one thing is repeated: the fastest time counts, since other work on the machine only adds."""

DRAWS = 8
"""Draws of a randomised defence in one gradient of the probe."""

_DRAW, _SHELF = 8, 540
"""Bytes of a draw where certificates keep them, and of what an image's file has beside: names and a digest."""


class Cost(NamedTuple):
    """What cells cost.

    Attributes:
        seconds: on one worker of this machine.
        forwards, backwards: passes of images through the metric.
        bytes: of result files; `pool_bytes` of the draws that certificates keep beside them.
    """

    seconds: float = 0.0
    forwards: float = 0.0
    backwards: float = 0.0
    bytes: float = 0.0
    pool_bytes: float = 0.0

    def times(self, factor: float) -> Cost:
        """So many of them."""
        return Cost(*(factor * value for value in self))

    def plus(self, other: Cost) -> Cost:
        """Both."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Estimate:
    """The cost of cells, each by its id, and what could not be estimated with the reason."""

    cells: dict[str, Cost]
    unknown: tuple[tuple[str, str], ...]

    @property
    def total(self) -> Cost:
        """Of all cells."""
        total = Cost()
        for cost in self.cells.values():
            total = total.plus(cost)
        return total

    def seconds(self, workers: int) -> float:
        """Wall clock with so many workers, each as fast as the probe was: no shorter than the longest cell."""
        longest = max((cost.seconds for cost in self.cells.values()), default=0.0)
        return max(longest, self.total.seconds / workers)


class Speed(NamedTuple):
    """Seconds of one image: a deployed score, a pass without and a pass with gradient (None: there is none)."""

    score: float
    forward: float
    both: float | None


def estimate(cells: Sequence[Cell], device: str = "cpu", say: Callable[[str], object] = lambda text: None) -> Estimate:
    """Estimate what cells cost on this machine, by a short probe of each metric, defence and data set.

    Attacks are run on a `StandIn` at the size of the first images, which counts their passes and takes the time of all
    that is not a pass. A pass is timed on the real thing. Certificates are counted by their draws, those that several
    share once; one that has no draws is computed for one image, as are the reliability checks. Images that cannot be
    scored, and a defence that fails, are in `unknown`.

    Args:
        cells: what is to be run, in the order of the plan.
        device: torch device.
        say: told what is being probed.
    """
    known: dict[str, Cost] = {}
    unknown: list[tuple[str, str]] = []
    counts: dict[tuple[Any, ...], tuple[float, Passes]] = {}
    drawn: dict[tuple[str, str], int] = {}
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.metric, cell.defense, cell.dataset), []).append(cell)
    for (metric, defense, name), mine in groups.items():
        say(f"probing {defense} on {metric}, {name}")
        try:
            began = time.perf_counter()
            g = load_defense(defense, load_metric(metric, device))
            loading = time.perf_counter() - began
            probe = _Probe(g, load_dataset(name), max(c.stop - c.start for c in mine), device, counts, drawn)
        except RobustIQAError as error:
            unknown.append((f"{defense} on {metric}, {name}", str(error)))
            continue
        for k, cell in enumerate(mine):
            try:
                known[cell.id] = probe.cost(cell).plus(Cost(seconds=loading if k == 0 else 0.0))
            except (RobustIQAError, RuntimeError) as error:
                unknown.append((cell.label, str(error)))
    return Estimate(known, tuple(unknown))


class _Probe:
    """Times and counts for one defended metric on one data set."""

    def __init__(
        self, g: DefendedMetric, dataset: Dataset, chunk: int, device: str,
        counts: dict[tuple[Any, ...], tuple[float, Passes]], drawn: dict[tuple[str, str], int],
    ) -> None:  # fmt: skip
        self.g, self.dataset, self.device, self._counts, self._drawn = g, dataset, device, counts, drawn
        images, self.loading, pixels = _sample(dataset)
        first = images[0].shape
        most = max(1, MAX_PIXELS // (first[1] * first[2]))
        alike = [image for image in images if image.shape == first][: min(chunk, most)]
        self.x = torch.stack(alike).to(device)
        self.larger = pixels / (first[1] * first[2])
        self.speed = _speed(g, self.x)
        self._undefended = self.speed if g.spec == "none" else None
        self._jobs: dict[tuple[Any, ...], Cost] = {}

    def cost(self, cell: Cell) -> Cost:
        """Of one cell: of its images, of loading them, and of its file."""
        images, rows = cell.stop - cell.start, cell.stop - cell.start
        if cell.kind == "check":
            return self._each(cell).times(min(cell.images, images)).plus(Cost(_WRITE, bytes=_bytes(cell, _CHECKS)))
        if cell.kind == "certify":
            rows *= 2 * len(cell.eps)  # population and deployed
        each = self._certificate(cell) if cell.kind == "certify" else self._each(cell)
        return each.times(images).plus(Cost(_WRITE + self.loading * images, bytes=_bytes(cell, rows)))

    def _each(self, cell: Cell) -> Cost:
        """Of one image of the data set's mean size."""
        key = (cell.kind, cell.attack, cell.norm, cell.ladder)
        if key not in self._jobs:
            work = {"score": self._score, "attack": self._attack, "check": self._check}
            found = work[cell.kind](cell)
            self._jobs[key] = found._replace(seconds=found.seconds * self.larger)
        return self._jobs[key]

    def _score(self, cell: Cell) -> Cost:
        return Cost(self.speed.score, self.g.cost)

    def _attack(self, cell: Cell) -> Cost:
        assert cell.norm is not None
        assert cell.direction is not None
        attack, threat, g = load_attack(cell.attack or ""), Threat(cell.norm, cell.eps[0]), self.g
        ends = g.metric.score_range is not None
        traits = (
            g.metric.spec,
            g.randomised,
            g.differentiable,
            g.cost,
            len(g.surrogates()),
            g.metric.differentiable,
            ends,
        )
        key = (cell.attack, cell.norm, *traits, *self.x.shape)
        if key not in self._counts:
            passes = Passes()
            standin = StandIn(g, passes)
            clean = standin.estimate(self.x)
            passes.forwards = 0  # what is known already
            seconds = _timed(lambda: attack(standin, self.x, threat, cell.direction or "up", clean=clean), self.device)
            self._counts[key] = (seconds / len(self.x), passes)
        seconds, passes = self._counts[key]
        return self._passes(seconds, passes, len(self.x))

    def _passes(self, seconds: float, passes: Passes, images: int) -> Cost:
        """Of one image, what was counted on the stand-in, with the time that the passes take on the real thing."""
        bare = passes.bare_forwards, passes.bare_backwards
        through = passes.forwards - bare[0], passes.backwards - bare[1]
        seconds += _seconds(self.speed, *through) / images
        if any(bare):
            seconds += _seconds(self._bare(), *bare) / images
        return Cost(seconds, passes.forwards / images, passes.backwards / images)

    def _bare(self) -> Speed:
        """Of the metric without its defence: transferred attacks ask it alone."""
        if self._undefended is None:
            self._undefended = _speed(load_defense("none", self.g.metric), self.x)
        return self._undefended

    def _certificate(self, cell: Cell) -> Cost:
        draws, key = getattr(self.g, "total_draws", None), getattr(self.g, "draw_identity", None)
        if draws is None or key is None:
            if (cell.kind,) not in self._jobs:
                seconds = _timed(lambda: self.g.certify(self.x[:1], cell.eps, cell.alpha or 0.001), self.device)
                self._jobs[cell.kind,] = Cost(seconds * self.larger, 1)
            return self._jobs[cell.kind,]
        # Cells come in the order in which they will be run: the first certificate on some images draws for the others.
        place = (key(cell.seed), f"{cell.dataset}|{cell.start}")
        before = self._drawn.get(place, 0)
        new = max(0, draws - before)
        self._drawn[place] = max(draws, before)
        kept = _DRAW * new + (0 if before else _SHELF)
        return Cost(new * self.speed.forward * self.larger, new, pool_bytes=kept)

    def _check(self, cell: Cell) -> Cost:
        """The checks of one image, by doing them; the ladder of attacks counted on a stand-in."""
        passes = Passes()

        def count(module: object, given: tuple[torch.Tensor, ...], scores: torch.Tensor) -> None:
            passes.watch(scores, len(given[0]))

        handle = self.g.metric.register_forward_hook(count)  # type: ignore[arg-type]
        try:
            seconds = _timed(lambda: examine(self.g, self.dataset, 1, False, cell.seed, self.device), self.device)
        finally:
            handle.remove()
        cost = Cost(seconds, passes.forwards, passes.backwards)
        if not cell.ladder:
            return cost
        climbing = Passes()
        seconds = _timed(lambda: climb(StandIn(self.g, climbing), self.x[:1], cell.seed), self.device)
        return cost.plus(self._passes(seconds, climbing, 1))


_WRITE = 0.005
"""Seconds to encode a result file and to have it on a disk."""

_CHECKS = 24
"""Rows in the file of the reliability checks, about."""


def _sample(dataset: Dataset) -> tuple[list[torch.Tensor], float, float]:
    """Images spread over a data set, seconds to load one, and their mean number of pixels; raises `BadImage`."""
    places = torch.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).round().int().tolist()
    images: list[torch.Tensor] = []
    last: BadImage | None = None
    began = time.perf_counter()
    for place in dict.fromkeys(places):
        try:
            images.append(dataset.load(place))
        except BadImage as error:
            last = error
    if not images:
        raise last or BadImage("the data set has no images")
    return (
        images,
        (time.perf_counter() - began) / len(images),
        sum(i.shape[1] * i.shape[2] for i in images) / len(images),
    )


def _speed(g: DefendedMetric, x: torch.Tensor) -> Speed:
    """Times of one image in a batch like x, after a first call that is not counted."""
    keys = image_keys(x)
    device = str(x.device)

    def score() -> object:
        return g.estimate(x, Streams.create(keys, Role.EVALUATION))

    score()
    each = min(_repeated(score, device)) / len(x)
    both = None
    if g.differentiable:
        objective, draws = Objective(g, keys), DRAWS if g.randomised else 1
        objective.gradient(x, draws)
        passes = draws if g.randomised else g.cost
        both = min(_repeated(lambda: objective.gradient(x, draws), device)) / len(x) / passes
    return Speed(each, each / g.cost, both)


def _seconds(speed: Speed, forwards: int, backwards: int) -> float:
    """Of so many passes, of which as many are with a gradient as there are backwards."""
    with_gradient = min(backwards, forwards)
    both = 3 * speed.forward if speed.both is None else speed.both
    return with_gradient * both + (forwards - with_gradient) * speed.forward


def _repeated(work: Callable[[], object], device: str) -> Iterator[float]:
    until = time.perf_counter() + LONG_ENOUGH
    yield _timed(work, device)
    while time.perf_counter() < until:
        yield _timed(work, device)


def _timed(work: Callable[[], object], device: str) -> float:
    """Seconds that it takes, with what a GPU still has to do."""
    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


_FILLED = {
    "score": ("clean", "clean_lo", "clean_hi", "truth"),
    "certify": ("lo", "hi", "family_lo", "family_hi", "score", "spread", "truth"),
    "attack": ("clean", "attacked", "attacked_8bit", "attacked_lo", "attacked_hi", "attacked_8bit_lo",
               "attacked_8bit_hi", "gain", "gain_8bit", "linf", "l2", "psnr", "ssim", "seconds", "truth"),
    "check": ("value",),
}  # fmt: skip
"""Columns with a number of its own in every row, by kind of cell: they decide the size of a file."""

_ROWS = 64


def _bytes(cell: Cell, rows: int) -> float:
    """Size of a result file of so many rows, from encoding made-up ones: digits that nobody can compress."""
    key = (cell.kind, min(rows, _ROWS))
    if key not in _SIZES:
        rng = random.Random(0)
        shared = {"cell": cell.id, "kind": cell.kind, "metric": cell.metric, "defense": cell.defense, "status": "ok",
                  "dataset": cell.dataset, "attack": cell.attack}  # fmt: skip
        made = [
            {**shared, "image": f"image-{rng.random()}", **{name: rng.random() for name in _FILLED[cell.kind]}}
            for _ in range(key[1])
        ]
        _SIZES[key] = len(encode(made))
    return _SIZES[key] * max(1.0, rows / _ROWS)


_SIZES: dict[tuple[str, int], int] = {}
