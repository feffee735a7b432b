"""The reverse process of a diffusion model, in few steps: DDPM and DDIM sampling.

A state at step t of the table is sqrt(abar_t) x + sqrt(1 - abar_t) noise, with x in [-1,1]. Song et al., "Denoising
Diffusion Implicit Models" (ICLR 2021, arXiv 2010.02502, equations 12 and 16), go from a state z with abar = a to one
with abar = b > a by

    z' = sqrt(b) x0 + sqrt(1 - b - s^2) e + s noise,    s^2 = eta^2 (1 - b) / (1 - a) (1 - a / b),

x0 being the network's estimate of the clean image and e = (z - sqrt(a) x0) / sqrt(1 - a) the noise that belongs to it,
computed from the clamped x0. With eta = 0 nothing is drawn (DDIM). With eta = 1 it is the posterior q(z' | z, x0) of Ho
et al. (NeurIPS 2020, arXiv 2006.11239, equations 6 and 7), with its variance (DDPM), of the table's chosen steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Move(NamedTuple):
    """One step of the reverse process: z' = of_clean * x0 + of_state * z + spread * noise, x0 estimated at step `t`."""

    t: int
    of_clean: float
    of_state: float
    spread: float


def spaced(first: int, last: int, count: int) -> list[int]:
    """At most `count` of the steps first to last, evenly spaced, in descending order: from `last`, and to `first`."""
    count = min(count, last - first + 1)
    return [last - (last - first) * i // max(count - 1, 1) for i in range(count)]


def moves(alpha_bar: torch.Tensor, steps: list[int], eta: float) -> list[Move]:
    """The moves through `steps`, in descending order, and from the last of them to the estimate of the clean image.

    Args:
        alpha_bar: (T,) table, float64.
        steps: steps at which the network is evaluated, counted from 0.
        eta: 1 for DDPM, 0 for DDIM.
    """
    kept = [float(alpha_bar[t]) for t in steps]
    found: list[Move] = []
    for t, a, b in zip(steps, kept, [*kept[1:], 1.0], strict=True):
        variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        of_state = math.sqrt((1 - b - variance) / (1 - a))
        found.append(Move(t, math.sqrt(b) - math.sqrt(a) * of_state, of_state, math.sqrt(variance)))
    return found
