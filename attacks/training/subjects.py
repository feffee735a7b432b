"""What is trained, for both directions at once, and the plain descent that trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...bench.api import Direction, Threat
from ...bench.seeds import generator
from ...bench.training.loop import check_loss, check_weights
from ..nets import PerturbationGenerator, initialise_generator
from ..projection import inside
from ..stored import DIRECTIONS


class Subject(nn.Module, ABC):
    """A source of perturbations with separate weights for each direction."""

    @abstractmethod
    def delta(self, x: torch.Tensor, direction: Direction) -> torch.Tensor:
        """Perturbations (B,3,S,S), or (1,3,S,S) for all, of images x (B,3,S,S)."""

    def constrain(self) -> None:
        """Put the weights back to where they may be, after a step."""


class Tiles(Subject):
    """The perturbations themselves, from zero on; projected onto the ball after every step.

    Args:
        size: their side in pixels.
        threat: norm and budget.
    """

    def __init__(self, size: int, threat: Threat) -> None:
        super().__init__()
        self.threat = threat
        self.tiles = nn.ParameterDict({d: nn.Parameter(torch.zeros(1, 3, size, size)) for d in DIRECTIONS})

    def delta(self, x: torch.Tensor, direction: Direction) -> torch.Tensor:
        """The tile (1,3,S,S), whatever the images."""
        return self.tiles[direction]

    @torch.no_grad()
    def constrain(self) -> None:
        """Project onto the ball."""
        for tile in self.tiles.values():
            tile.copy_(inside(tile, self.threat))


class FromImage(Subject):
    """A U-Net on the image.

    Args:
        width: its channels.
        threat: norm and budget.
        seed: of its first weights.
    """

    def __init__(self, width: int, threat: Threat, seed: int) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({d: PerturbationGenerator(threat, width) for d in DIRECTIONS})
        initialise_generator(self, seed)

    def delta(self, x: torch.Tensor, direction: Direction) -> torch.Tensor:
        """A perturbation (B,3,S,S) for each image."""
        return self.nets[direction](x)


class FromNoise(FromImage):
    """A U-Net on one image of uniform noise, the same in every step.

    Args:
        width: its channels.
        threat: norm and budget.
        seed: of its first weights and of the noise.
        size: side of the noise in pixels.
    """

    noise: torch.Tensor

    def __init__(self, width: int, threat: Threat, seed: int, size: int) -> None:
        super().__init__(width, threat, seed)
        noise = torch.rand((1, 3, size, size), generator=generator("perturbation noise", seed))
        self.register_buffer("noise", noise)

    def delta(self, x: torch.Tensor, direction: Direction) -> torch.Tensor:
        """The perturbation (1,3,S,S), whatever the images."""
        return super().delta(self.noise, direction)


class Descent:
    """A subject with an optimiser of constant rate: Adam, or plain gradient descent, which adds up raw gradients.

    Args:
        subject: what is trained.
        rate: the learning rate.
        raw: plain gradient descent instead of Adam.
    """

    def __init__(self, subject: Subject, rate: float, raw: bool = False) -> None:
        self.subject = subject
        optimiser = torch.optim.SGD if raw else torch.optim.Adam
        self._optimiser: torch.optim.Optimizer = optimiser(subject.parameters(), lr=rate)

    def update(self, loss: torch.Tensor, step: int) -> None:
        """One step on a scalar loss; raises `BadParameter` when the loss or its gradient is not finite."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        check_loss(
            loss, nn.utils.get_total_norm([p.grad for p in self.subject.parameters() if p.grad is not None]), step
        )
        self._optimiser.step()
        self.subject.constrain()

    def check(self, step: int) -> None:
        """Raise `BadParameter` unless all weights are finite: such a state is never kept."""
        check_weights(self.subject.state_dict().values(), step)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"subject": self.subject.state_dict(), "optimiser": self._optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.subject.load_state_dict(state["subject"])
        self._optimiser.load_state_dict(state["optimiser"])
