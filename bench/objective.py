"""What an attack may ask of a defended metric: oriented values and gradients, every call counted."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from scipy.stats import beta

from .api import DefendedMetric, Direction, Estimate
from .errors import BadParameter, BadScore, Incompatible
from .memory import joined, laid_out_like
from .seeds import Role, Streams
from .threads import crew, going_on

MAX_PIXELS = 32 * 128 * 128
"""Pixels in one batch through the network: bounds memory whatever the number of draws or images."""

T = TypeVar("T")

Render = Callable[[torch.Tensor], torch.Tensor]
"""A differentiable map from what an attack moves, (B,...), to images (B,3,H,W)."""

Centre = Literal["mean", "kernel", "quantile"]
"""What the gradient of a randomised defence is taken of: the mean of the draws, an average of those near their median
in value, or of those near it in rank (a soft quantile)."""


_TOLD: list[Callable[[int], object]] = []
_TELLING = threading.Lock()
"""Attacks may run in several threads, and those who are told need not know."""


@contextlib.contextmanager
def told(tell: Callable[[int], object]) -> Iterator[None]:
    """Call `tell` with the forward passes of each step of the attacks that run in the block: a sign of life."""
    _TOLD.append(tell)
    try:
        yield
    finally:
        _TOLD.remove(tell)


class BudgetSpent(Exception):
    """The next call would exceed the query budget; the attack base ends the search and keeps what was found."""


class _Watched(torch.autograd.Function):
    """Identity that shows the gradient that comes back, and makes it contiguous: channels-last networks' is not."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, show: Callable[[torch.Tensor], None]) -> torch.Tensor:
        ctx.show = show
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.show(gradients[0])
        return gradients[0].contiguous(), None


class Objective:
    """Maximised by an attack: the quality of B images by the defended metric, or its negative where it is to go down.

    Attributes:
        directions: which way the quality of each image is to be moved.
        signs: (B,) of 1 and -1, float64 on the CPU: what makes each image's score one that is maximised.
        limit: most queries an image, or None.
    """

    def __init__(
        self,
        g: DefendedMetric,
        keys: Sequence[str],
        direction: Direction | Sequence[Direction] = "up",
        seed: int = 0,
        salt: str = "",
        limit: int | None = None,
    ) -> None:
        self.g, self.seed, self.keys, self.limit = g, seed, list(keys), limit
        self.directions = for_each(direction, len(self.keys))
        self._made_of = seed, salt, limit
        ways = [1.0 if way == "up" else -1.0 for way in self.directions]
        self.signs = g.metric.sign * torch.tensor(ways, dtype=torch.float64)
        self._counts, self._index = np.zeros((3, len(self.keys)), dtype=np.int64), np.arange(len(self.keys))
        # The defence is not part of the seed: defences are compared on common random numbers.
        self._search = self.streams(Role.SEARCH, salt)
        self._selection = self.streams(Role.SELECTION, salt)

    def only(self, index: int) -> Objective:
        """The same objective for one of the images, with streams and counts of its own."""
        return Objective(self.g, [self.keys[index]], self.directions[index], *self._made_of)

    def part(self, index: Sequence[int]) -> Objective:
        """A view of some of the images: it draws from their streams and adds to their counts."""
        view = copy.copy(self)
        view.keys, view._index = [self.keys[i] for i in index], self._index[list(index)]
        view.directions, view.signs = [self.directions[i] for i in index], self.signs[list(index)]
        view._search, view._selection = self._search[index], self._selection[index]
        return view

    @property
    def direction(self) -> Direction:
        """Which way the quality of all images is to be moved; `Incompatible` where they differ."""
        return _same(self.directions)

    @property
    def sign(self) -> float:
        """What makes the score of all images one that is maximised; `Incompatible` where their directions differ."""
        return _same(self.signs.tolist())

    @property
    def forwards(self) -> np.ndarray:
        """(B,) forward passes of the metric network so far."""
        return self._counts[0, self._index]

    @property
    def backwards(self) -> np.ndarray:
        """(B,) backward passes so far."""
        return self._counts[1, self._index]

    @property
    def queries(self) -> np.ndarray:
        """(B,) calls of the deployed score so far: what a black-box attacker pays."""
        return self._counts[2, self._index]

    def charge(self, other: Objective, index: int) -> None:
        """Add what was spent through `only(index)` to the counts of that image."""
        self._counts[:, self._index[index]] += other._counts[:, other._index].sum(1)

    @contextlib.contextmanager
    def counted_unless(self, *errors: type[Exception]) -> Iterator[None]:
        """Forget what is counted in the block if it fails by one of these errors, since it is tried in another way."""
        before = self._counts.copy()
        try:
            yield
        except errors:
            self._counts[:] = before
            raise

    def of(self, g: DefendedMetric) -> Objective:
        """The same search on another defended metric: it draws from these streams and adds to these counts."""
        view = copy.copy(self)
        view.g, view.signs = g, self.signs * self.g.metric.sign * g.metric.sign
        return view

    def salted(self, salt: str) -> Objective:
        """A view with the streams that an attack of another salt has; it adds to these counts."""
        seed, _, limit = self._made_of
        view = copy.copy(self)
        fresh = Objective(self.g, self.keys, self.directions, seed, salt, limit)
        view._made_of, view._search, view._selection = fresh._made_of, fresh._search, fresh._selection
        return view

    def restarted(self, first: int, count: int) -> Objective:
        """A view of `count` restarts side by side, from number `first` on: the images in turn for each of them.

        Restart 0 draws from these search streams, every other one from streams of its own; all are compared on the same
        selection draws, and add to these counts.
        """
        view, salt = copy.copy(self), self._made_of[1]
        view.keys, view._index = self.keys * count, np.tile(self._index, count)
        view.directions, view.signs = self.directions * count, self.signs.repeat(count)
        own = [self.streams(Role.SEARCH, salt, f"restart {k}") if k else self._search
               for k in range(first, first + count)]  # fmt: skip
        view._search = Streams(tuple(one for streams in own for one in streams.generators))
        view._selection = Streams(self._selection.generators * count)
        return view

    def streams(self, role: Role, *extra: object) -> Streams:
        """Fresh streams of a role for these images."""
        return Streams.create(self.keys, role, self.seed, *extra)

    @property
    def search_streams(self) -> Streams:
        """The attack's own randomness: starting points, random directions."""
        return self._search

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """Exact oriented score (B,) of a deterministic defence; for a randomised one use `select`."""
        self._count(self.g.cost)
        return self._oriented(self.g.estimate(x, self._selection.fork()))

    def query(self, x: torch.Tensor) -> torch.Tensor:
        """Oriented deployed score (B,), all that a black-box attacker sees; a randomised defence draws anew each time.

        Raises:
            BudgetSpent: an image has no query left. The attack base handles it.
            BadScore: the metric returned NaN or infinity.
        """
        if self.limit is not None and bool((self.queries >= self.limit).any()):
            raise BudgetSpent
        self._count(self.g.cost, queries=1)
        return self._oriented(self.g.estimate(x, self._search))

    def select(self, x: torch.Tensor, draws: int) -> torch.Tensor:
        """Oriented score (B,) from `draws` fresh draws of the selection stream, the same for every candidate.

        The best iterate is chosen on these draws and judged on others: a choice judged on its own draw is biased
        upwards.
        """
        if not self.g.randomised:
            return self.value(x)
        self._count(draws)
        with torch.inference_mode():
            chunks = self._chunks(x, draws, self._selection.fork())
            scores = joined([self.g.surrogate(x, rng, d) for d, rng in chunks])
        self.g.check_finite(scores.cpu().numpy())
        return self.signs * self.g.aggregate(scores).double().cpu()

    def gradient(
        self,
        x: torch.Tensor,
        draws: int = 1,
        *,
        render: Render | None = None,
        centre: Centre = "mean",
        fixed: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Oriented score (B,) over `draws` fresh search draws, and its gradient, shaped like x (EOT).

        Args:
            x: (B,3,H,W) images, or with `render` what it makes them of.
            draws: draws of a randomised defence; a deterministic one has one.
            render: a differentiable map from x to images: another view of them, a colour curve, a flow.
            centre: "mean", of low variance but not what a median smoothing deploys; or "kernel": draws weighted by
                their closeness to their median (Gaussian kernel, bandwidth 0.9 min(sd, iqr/1.34) draws^(-1/5),
                Silverman 1986), between the mean and the gradient of the median, which is that of a single draw; or
                "quantile": the soft median of Harrell and Davis (1982), draws weighted by their rank: the k-th of n by
                the mass of Beta((n+1)/2, (n+1)/2) between (k-1)/n and k/n.
            fixed: take the same draws as in the last call with `fixed`, instead of fresh ones.

        Raises:
            Incompatible: the defended metric has no gradient at all.
            BadScore: a score or gradient is NaN or infinite.
        """
        if not self.g.differentiable:
            raise Incompatible(f"{self.g.spec!r} has no gradient: use a black-box attack")
        draws = draws if self.g.randomised else 1
        images = x
        if render is not None and self.g.randomised:  # only the size of batches and a look at the draws need them
            with torch.no_grad():
                images = render(x)
        rng = self._search.fork() if fixed else self._search
        weigh = _WEIGHTS[centre] if draws > 2 and centre != "mean" else None
        # Images all of whose draws go through the network together are weighed as they come; others need a look before.
        whole = MAX_PIXELS // (draws * images.shape[-2] * images.shape[-1]) if weigh and render is None else 0
        looked = None if weigh is None or whole else weigh(self._look(images, draws, rng.fork()))

        def weights(scores: torch.Tensor, done: int) -> torch.Tensor:
            if weigh is None:
                return torch.full_like(scores, 1 / draws)
            return weigh(scores.double()) if looked is None else looked[done : done + len(scores)]

        # Whether a look is needed must not depend on how many threads share the memory: it is counted.
        step = max(1, whole // crew()) if whole else len(x)
        parts = [
            self._slope(
                x[part],
                [(draws, rng[part])] if whole else self._chunks(images[part], draws, rng[part]),
                render,
                weights,
                self.signs[part],
            )
            for part in (slice(start, start + step) for start in range(0, len(x), step))
        ]
        total, gradient = (joined(found) for found in zip(*parts, strict=True))
        passes = draws if self.g.randomised else self.g.cost
        self._count(passes, backwards=passes)
        self.g.check_finite(total.numpy())
        self._check_gradient(gradient)
        return total, gradient

    def differentiable(self, z: torch.Tensor) -> torch.Tensor:
        """Oriented scores (B,) of one search draw with their graph, for code that calls `backward` itself.

        An objective of one image (see `only`) takes any number of versions of it. Forwards are counted for each
        version, backwards when they happen.

        Raises:
            BadScore: in the backward pass, if the gradient is NaN or infinite.
        """

        def show(gradient: torch.Tensor) -> None:
            self._count(0, backwards=passes * len(gradient) // images)
            self._check_gradient(gradient)

        images = len(self.keys)
        rng = self._search[[0] * len(z)] if images == 1 else self._search
        passes = 1 if self.g.randomised else self.g.cost
        self._count(passes * len(z) // images)
        scores = self.g.surrogate(_Watched.apply(z, show), rng, 1).mean(0)
        return self.signs.to(scores) * scores

    def _slope(
        self,
        x: torch.Tensor,
        chunks: list[tuple[int, Streams]],
        render: Render | None,
        weights: Callable[[torch.Tensor, int], torch.Tensor],
        signs: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted oriented scores (B,) of draws, chunk after chunk, and their gradient, shaped like x.

        Args:
            x: images, or what `render` makes them of.
            chunks: numbers of draws with their streams.
            render: see `gradient`.
            weights: scores (d,B) of the draws of a chunk, and how many there were before, to their weights (d,B).
            signs: (B,) of these images.
        """
        total, gradient, done = torch.zeros(len(x), dtype=torch.float64), None, 0
        leaf = x.detach()
        for d, rng in chunks:
            leaf = leaf.requires_grad_(True)
            scores = self.g.surrogate(render(leaf) if render else leaf, rng, d)
            if not scores.requires_grad:
                what = f"metric {self.g.metric.spec!r} behind defence {self.g.spec!r}"
                raise Incompatible(f"{what} returns scores without gradient: use a black-box attack")
            oriented = weights(scores.detach(), done).to(scores) * signs.to(scores)
            (slope,) = torch.autograd.grad(scores, leaf, oriented)
            slope = laid_out_like(slope, leaf)
            gradient = slope if gradient is None else gradient.add_(slope)
            total += (oriented * scores.detach()).sum(0).double().cpu()
            leaf, done = leaf.detach(), done + d
        assert gradient is not None
        return total, gradient

    def _look(self, x: torch.Tensor, draws: int, rng: Streams) -> torch.Tensor:
        """Scores (draws,B) of draws, without gradient."""
        with torch.inference_mode():
            looked = [self.g.surrogate(x, stream, d) for d, stream in self._chunks(x, draws, rng)]
        self._count(draws)
        return joined(looked).double()

    def _chunks(self, x: torch.Tensor, draws: int, rng: Streams) -> list[tuple[int, Streams]]:
        """Draw counts that keep a batch within MAX_PIXELS; `rng` runs on from chunk to chunk."""
        if not self.g.randomised:
            return [(1, rng)]
        most = max(1, MAX_PIXELS // crew() // (x.shape[0] * x.shape[-2] * x.shape[-1]))
        return [(min(most, draws - done), rng) for done in range(0, draws, most)]

    def _oriented(self, estimate: Estimate) -> torch.Tensor:
        return self.signs * torch.as_tensor(estimate.score, dtype=torch.float64)

    def _check_gradient(self, gradient: torch.Tensor) -> None:
        # A sum keeps what is NaN or infinite, and is by far the fastest look at all values; it may also overflow.
        if not bool(gradient.sum().isfinite()) and not bool(gradient.isfinite().all()):
            raise BadScore(f"{self.g.spec!r} has a NaN or infinite gradient: recorded as an error, not as a result")

    def _count(self, forwards: int, backwards: int = 0, queries: int = 0) -> None:
        going_on()
        times = np.bincount(self._index, minlength=self._counts.shape[1])  # an image may stand several times
        self._counts += times * np.array([[forwards], [backwards], [queries]])
        with _TELLING:
            for tell in _TOLD:
                tell(forwards)


def _same(each: Sequence[T]) -> T:
    if len(set(each)) > 1:
        raise Incompatible("images of both directions: use `directions` or `signs`, which have one for each image")
    return each[0]


def for_each(direction: Direction | Sequence[Direction], images: int) -> list[Direction]:
    """The direction of each image, given one for all or one for each; `BadParameter` for what is none."""
    ways: list[Direction] = [direction] * images if isinstance(direction, str) else list(direction)
    if len(ways) != images:
        raise BadParameter(f"{len(ways)} directions for {images} images: expected one for all, or one for each")
    for way in ways:
        if way not in get_args(Direction):
            raise BadParameter(f"unknown direction {way!r}: expected {' or '.join(get_args(Direction))}")
    return ways


def near_median(scores: torch.Tensor) -> torch.Tensor:
    """Weights (k,B) of draws (k,B) by a Gaussian kernel at their median, of Silverman's bandwidth; they sum to 1."""
    q = scores.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device=scores.device), dim=0)
    spread = torch.minimum(scores.std(0), (q[2] - q[0]) / 1.34)
    bandwidth = (0.9 * spread * len(scores) ** -0.2).clamp_min(1e-12)
    weights = torch.exp(-0.5 * ((scores - q[1]) / bandwidth).square())
    # Where all draws agree to the last bits, or the median lies between two far ones, no weight would be left.
    flat = weights.sum(0) < 1e-3
    weights[:, flat] = 1.0
    return weights / weights.sum(0)


def soft_median(scores: torch.Tensor) -> torch.Tensor:
    """Weights (k,B) of draws (k,B) by their rank, with which their sum is the median of Harrell and Davis (1982)."""
    k = len(scores)
    mass = np.diff(beta.cdf(np.linspace(0.0, 1.0, k + 1), (k + 1) / 2, (k + 1) / 2))
    ranks = scores.argsort(dim=0, stable=True).argsort(dim=0, stable=True)
    return torch.as_tensor(mass, device=scores.device)[ranks]


_WEIGHTS = {"kernel": near_median, "quantile": soft_median}


def check_centre(centre: str) -> None:
    """Raise `BadParameter` for another word than those of `Centre`."""
    if centre not in get_args(Centre):
        raise BadParameter(f"centre {centre!r}: expected {' or '.join(get_args(Centre))}")
