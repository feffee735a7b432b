"""Searches that see nothing but scores: random changes of whole batches, and searches of their own for each image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..bench.api import Threat
from ..bench.errors import BadParameter
from ..bench.objective import Objective
from ..bench.seeds import Streams
from .base import Attack, Candidate

State = tuple[torch.Tensor, ...]
"""What a random search changes, each (B,...); the first is the images themselves."""

T = TypeVar("T")
Asking = Generator[torch.Tensor, float, T]
"""A search that yields an image (3,H,W), is sent its oriented score, and returns a T."""


class _ScoreBased(Attack):
    """What such searches have in common: a budget of queries, and answers averaged on a randomised defence.

    On a randomised defence each comparison is between means of `repeats` fresh answers, and the point at hand is asked
    again each time: a lucky answer would otherwise never be beaten.
    """

    white_box = False

    def __init__(self, queries: int, repeats: int, step: int = 2) -> None:
        if queries < 1 or repeats < 1:
            raise BadParameter(f"{type(self).__name__}[queries={queries},repeats={repeats}]: expected counts >= 1")
        if queries < step * repeats:
            raise BadParameter(
                f"{type(self).__name__}[queries={queries},repeats={repeats}]: one step takes {step * repeats} queries: "
                "give more queries or make the step smaller"
            )
        # `queries` is the limit that the objective enforces; the search plans with a number of its own.
        self.queries, self.repeats, self._asked = queries, repeats, queries

    def _answers(self, objective: Objective, z: torch.Tensor) -> torch.Tensor:
        """Oriented scores (B,): a query each, or the mean of `repeats` on a randomised defence."""
        count = self.repeats if objective.g.randomised else 1
        return torch.stack([objective.query(z) for _ in range(count)]).mean(0)


class RandomSearch(_ScoreBased):
    """Random changes, each kept if the score improves; all images change in the same rounds."""

    @abstractmethod
    def _start(self, x: torch.Tensor, threat: Threat, objective: Objective) -> State:
        """The state that the search starts from."""

    @abstractmethod
    def _propose(
        self, state: State, x: torch.Tensor, threat: Threat, objective: Objective, t: int, rounds: int
    ) -> State:
        """A random change of the state in round t of so many."""

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """Every improvement on a deterministic defence; the last point on a randomised one."""
        randomised = objective.g.randomised
        rounds = self._asked // (2 * self.repeats) if randomised else self._asked - 1
        state = self._start(x, threat, objective)
        value = None
        if not randomised:
            value = self._answers(objective, state[0])
            yield Candidate(state[0], value)
        for t in range(rounds):
            proposal = self._propose(state, x, threat, objective, t, rounds)
            if randomised:
                value = self._answers(objective, state[0])
            found = self._answers(objective, proposal[0])
            assert value is not None
            better = found > value
            state = tuple(
                torch.where(better.to(old.device).view(-1, *[1] * (old.ndim - 1)), new, old)
                for new, old in zip(proposal, state, strict=True)
            )
            value = torch.where(better, found, value)
            if not randomised:
                yield Candidate(state[0], value)
        if randomised:
            yield Candidate(state[0])


@dataclass
class Walk:
    """One image's search: the point that it has reached.

    Attributes:
        x: the clean image (3,H,W).
        threat: norm and budget.
        objective: of this image alone.
        image: the point at hand (3,H,W).
        value: its oriented score, where it is known.
    """

    x: torch.Tensor
    threat: Threat
    objective: Objective
    image: torch.Tensor
    value: float = float("nan")

    @property
    def streams(self) -> Streams:
        """The image's own randomness."""
        return self.objective.search_streams

    def numbers(self, count: int) -> torch.Tensor:
        """Uniform numbers (count,) in [0,1), in double precision."""
        return self.streams.numbers(count)[0]

    def ask(self) -> Asking[float]:
        """The score of the point at hand."""
        self.value = yield self.image
        return self.value

    def rise(self, proposal: torch.Tensor) -> Asking[float]:
        """By how much a proposal scores higher than the point at hand, which a randomised defence is asked anew."""
        if self.objective.g.randomised:
            yield from self.ask()
        found = yield proposal
        return found - self.value

    def move(self, image: torch.Tensor, rise: float) -> None:
        """Go to an image that scores higher by so much."""
        self.image, self.value = image, self.value + rise


class ImageSearch(_ScoreBased):
    """A search of its own for each image; what the images ask at the same time is scored in one batch."""

    @abstractmethod
    def _search(self, walk: Walk) -> Asking[None]:
        """Search from the point at hand, which is the clean image; it ends when it likes, or when the budget does."""

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """Everything that was asked on a deterministic defence; the last points at hand on a randomised one."""
        each = self.repeats if objective.g.randomised else 1
        walks = [Walk(x[i], threat, objective.part([i]), x[i]) for i in range(len(x))]
        searches = [self._search(walk) for walk in walks]
        asked = {i: next(search) for i, search in enumerate(searches)}
        for _ in range(self._asked // each):
            if not asked:
                break
            active = list(asked)
            answers = self._answers(objective.part(active), torch.stack([asked[i] for i in active]))
            if not objective.g.randomised:
                z, value = x.clone(), torch.full((len(x),), -torch.inf, dtype=torch.float64)
                z[active], value[active] = torch.stack([asked[i] for i in active]), answers
                yield Candidate(z, value)
            for i, answer in zip(active, answers.tolist(), strict=True):
                try:
                    asked[i] = searches[i].send(answer)
                except StopIteration:
                    del asked[i]
        if objective.g.randomised:
            yield Candidate(torch.stack([walk.image for walk in walks]))


def corners(numbers: torch.Tensor, x: torch.Tensor, side: int) -> list[tuple[int, int]]:
    """Top left corners of windows inside the image, from uniform numbers (B,2)."""
    height, width = x.shape[2:]
    return [(int(a * (height - side + 1)), int(b * (width - side + 1))) for a, b in numbers.tolist()]


def coins(objective: Objective, count: int) -> torch.Tensor:
    """Random signs (B,count)."""
    return (objective.search_streams.numbers(count) < 0.5).double() * 2 - 1


def halved(share: float, passed: float, marks: Sequence[int]) -> float:
    """A share that is halved at each of the marks, in rounds out of 10,000, after that part of all rounds."""
    return share * 0.5 ** sum(passed >= mark / 10_000 for mark in marks)
