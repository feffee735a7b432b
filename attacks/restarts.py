"""Restarts of an ascent, side by side in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ..bench.api import Threat
from ..bench.objective import MAX_PIXELS, Objective
from ..bench.threads import crew
from .base import Candidate
from .projection import random_start

Ascend = Callable[[Objective, torch.Tensor, torch.Tensor, Threat], Iterator[Candidate]]
"""An ascent: objective, starting points (B,3,H,W), images (B,3,H,W) and threat to what it proposes."""


def restarted(
    ascend: Ascend,
    objective: Objective,
    x: torch.Tensor,
    threat: Threat,
    restarts: int,
    *,
    from_image: bool = True,
) -> Iterator[Candidate]:
    """What the restarts of an ascent propose; as many of them as MAX_PIXELS allows climb in one batch.

    Each restart draws from streams of its own, so that how many go together decides nothing.

    Args:
        ascend: the ascent; it treats the images of a batch one by one.
        objective: of the images.
        x: (B,3,H,W) images.
        threat: norm and budget.
        restarts: how many.
        from_image: the first starts at the images themselves; all others, and else all, at random points of the ball.
    """
    together = max(1, MAX_PIXELS // crew() // x[:, 0].numel())
    for first in range(0, restarts, together):
        count = min(together, restarts - first)
        view = objective.restarted(first, count)
        many = x if count == 1 else torch.cat([x] * count)
        given = len(x) if first == 0 and from_image else 0
        start = many[:given]
        if given < len(many):
            drawn = random_start(many[given:], threat, view.search_streams[given:])
            start = torch.cat([start, drawn]) if given else drawn
        for z, value in ascend(view, start, many, threat):
            values = [None] * count if value is None else value.split(len(x))
            yield from map(Candidate, z.split(len(x)), values)
