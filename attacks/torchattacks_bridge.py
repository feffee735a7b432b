"""The published torchattacks implementations, run on a score: a cross-check of ours.

torchattacks assumes a classifier. The two-logit view [0, s f + 200] with label 0 makes its cross-entropy ascent equal
to ascent on s f: log(1 + exp(z)) = z to the last bit of float32 once z is far in the linear part. Which of its attacks
work on a score within a budget, and how they are called, is the table `PEERS`; why the others do not is `UNSUITABLE`
in `torchattacks_table`.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..bench.api import DefendedMetric, Threat
from ..bench.errors import BadImage, BadParameter, BadPlugin, BadScore
from ..bench.objective import Objective
from ..bench.registry import register_attack
from ..bench.seeds import derive_seed
from ..bench.spec import Value
from .base import Attack, Candidate
from .torchattacks_table import PARAMETERS, PEERS, Parameter, Peer

INSTALL = "pip install --no-deps torchattacks==3.5.1"
SHIFT = 200.0
"""Added to the score's logit; the scores have to stay well above -SHIFT."""

SMALLEST = 5
"""Side in pixels below which torchattacks' Square divides by zero."""


class View(nn.Module):
    """The oriented score as the second of two logits: (N,3,H,W) to (N,2)."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self._objective = objective
        # torchattacks asks the model's parameters for its device.
        self._device = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N,3,H,W) to (N,2) logits."""
        logit = self.logit(x)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """(N,), rising with the oriented score."""
        raise NotImplementedError


class TwoLogit(View):
    """The score with its graph, far in the linear part of the cross-entropy of label 0."""

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """Score + 200."""
        score = self._objective.differentiable(x)
        if not bool((score > 20.0 - SHIFT).all()):
            lowest = float(score.detach().min())
            raise BadScore(f"torchattacks bridge: scores down to {lowest:.4g} leave the linear part of its two-logit "
                           f"view (above {20 - SHIFT:g}): use pgd instead")  # fmt: skip
        return score + SHIFT


class Relative(View):
    """The move from the clean score, in declared ranges: for losses that average probabilities, which 200 would end."""

    def __init__(self, objective: Objective, x: torch.Tensor) -> None:
        super().__init__(objective)
        self._scale = objective.g.metric.span
        with torch.no_grad():
            self._clean = objective.differentiable(x)

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """(score - clean score) / range."""
        return (self._objective.differentiable(x) - self._clean) / self._scale


class Queried(View):
    """The deployed score without gradient, in double precision, each image a query.

    The logit stays below label 0's, so that no success ends the search.
    """

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """Score - 1e6."""
        return torch.cat([self._objective.query(image[None]) for image in x]).to(x.device) - 1e6


class Bridge(Attack):
    """An attack of torchattacks behind a view of the score; what it returns is the result.

    Args:
        name: what users call it.
        peer: its line in the table.
        parameters: what users may set, by our names.
    """

    def __init__(self, name: str, peer: Peer, parameters: Mapping[str, Any]) -> None:
        for key, value in parameters.items():
            allowed = PARAMETERS[key]
            if value is not None and not allowed.low <= value <= allowed.high:
                raise BadParameter(f"{name}[{key}={value}]: expected {_range(allowed)}")
        self.peer, self.parameters = peer, dict(parameters)
        self.norms = peer.norms
        self.white_box = peer.count is None
        self.queries = peer.count(self.parameters) if peer.count else None

    def skip(self, g: DefendedMetric, threat: Threat) -> str | None:
        """As for every attack; and torchattacks, which is optional, has to be installed."""
        if importlib.util.find_spec("torchattacks") is None:
            return f"{self.spec!r} needs torchattacks: {INSTALL}"
        return super().skip(g, threat)

    def candidates(self, objective: Objective, x: torch.Tensor, threat: Threat) -> Iterator[Candidate]:
        """What torchattacks returns, image by image.

        Its random numbers come from the global generator, which knows nothing of images: in a batch, one image's start
        would depend on the others.
        """
        try:
            import torchattacks
        except ImportError as error:
            raise BadPlugin(f"torchattacks cannot be imported ({error}): {INSTALL}") from error
        yield Candidate(torch.cat([self._one(torchattacks, objective, i, x[i : i + 1], threat) for i in range(len(x))]))

    def _one(self, torchattacks: Any, objective: Objective, i: int, x: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Attack image i, (1,3,H,W), and add its passes to the objective's counts."""
        if self.peer.kind == "Square" and min(x.shape[2:]) < SMALLEST:
            raise BadImage(f"{self.spec!r} got an image of {x.shape[2]}x{x.shape[3]} px: expected {SMALLEST} a side")
        alone = objective.only(i)
        model = self._view(alone, x).to(x.device)
        given = self.parameters
        if "draws" in given and not objective.g.randomised:
            given = {**given, "draws": 1}  # all the same
        attack = getattr(torchattacks, self.peer.kind)(model, **self.peer.arguments(given, x, threat))
        label = torch.zeros(1, dtype=torch.long, device=x.device)
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            torch.random.manual_seed(derive_seed(objective.seed, self.spec, objective.keys[i]))
            result = self.peer.call(attack, x, label).detach()
        if model.training:
            raise BadPlugin("torchattacks left the metric in train mode: scores may have drifted; use version 3.5.1")
        objective.charge(alone, i)
        return result

    def _view(self, alone: Objective, x: torch.Tensor) -> View:
        if not self.white_box:
            return Queried(alone)
        return Relative(alone, x) if self.peer.relative else TwoLogit(alone)


def _range(allowed: Parameter) -> str:
    if allowed.high < float("inf"):
        return f"{allowed.low:g} to {allowed.high:g}"
    return "a positive number" if allowed.low < 1 else f"at least {allowed.low:g}"


def _factory(name: str, peer: Peer) -> Callable[..., Bridge]:
    """What builds a bridge, with the parameters that the table gives it."""

    def build(**parameters: Value) -> Bridge:
        return Bridge(name, peer, parameters)

    defaults = {key: peer.defaults.get(key, PARAMETERS[key].default) for key in peer.keys}
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=PARAMETERS[key].kind)
            for key, value in defaults.items()
        ]
    )
    lines = "\n".join(f"    {key}: {PARAMETERS[key].what}." for key in peer.keys)
    arguments = f"\n\nArgs:\n{lines}\n" if lines else ""
    build.__doc__ = f"`torchattacks.{peer.kind}` ({' and '.join(peer.norms)}): {peer.what}.{arguments}"
    build.__name__ = build.__qualname__ = name.replace("-", "_")
    return build


for _name, _peer in PEERS.items():
    register_attack(_name, packages=("torchattacks",))(_factory(_name, _peer))
