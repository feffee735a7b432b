"""Early-stopped decisions: does the smoothed score stay within tau of a centre under every perturbation within eps?

The upper claim "h_p(x + d) <= T for |d|_2 <= eps" follows from P(f(x + sigma G) <= T) >= Phi(Phi^-1(p) + eps/sigma), a
statement about a coin, if T is fixed before the coin is thrown: here T = pilot median + tau, from draws that are
used for nothing else. Each side is tested by `log_wealth`, which may be looked at after every draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ...bench.api import Decision
from ...bench.seeds import image_keys
from .stats.order import median
from .stats.sequential import log_wealth

if TYPE_CHECKING:
    from .smoothed import Smoothed

PILOT = 33
"""Draws that fix the centre: odd, so that it is a score that the metric takes. From a stream of their own, never used
again."""

_STAGE = 16
"""Draws between two looks. Looking rarely costs draws, never validity."""


def decide_quantile(
    g: Smoothed, x: torch.Tensor, eps: float, tau: float, level: float, error: float, alpha: float, seed: int, kind: str
) -> Decision:
    """Decide for each of B images whether the moved quantiles lie within [centre - tau, centre + tau].

    Args:
        g: median-smoothed metric; at most g.n draws an image are spent after the pilot.
        x: (B,3,H,W) images.
        eps, tau: what is claimed.
        level: p of the moved upper quantile, that of the lower one being 1 - p.
        error: error probability a side.
        alpha: error probability of the whole claim, for the record.
        seed: base seed.
        kind: name of the certificate.
    """
    keys = image_keys(x)
    pilot = g.scores(g.noise(x, keys, seed, "pilot"), min(PILOT, g.n))
    centre = median(np.sort(pilot, axis=1))
    noise = g.noise(x, keys, seed, "decision")
    draws = np.full(len(x), pilot.shape[1])
    proven = np.zeros((len(x), 2), dtype=bool)
    refuted = np.zeros(len(x), dtype=bool)
    inside = np.zeros((len(x), 2), dtype=int)
    done = 0
    while done < g.n and len(active := np.flatnonzero(~proven.all(1) & ~refuted)):
        stage = min(_STAGE, g.n - done)
        scores = g.scores(noise, stage, active.tolist())
        shift = (scores - centre[active, None])[:, None]
        hits = np.concatenate([shift <= tau, shift >= -tau], axis=1)
        counts = inside[active][:, :, None] + np.cumsum(hits, axis=2)
        seen = done + np.arange(1, stage + 1)
        evidence = log_wealth(counts, np.broadcast_to(seen, counts.shape), level)
        against = log_wealth(seen - counts, np.broadcast_to(seen, counts.shape), 1 - level)
        proven[active] |= (evidence >= -np.log(error)).any(2)
        refuted[active] |= (against >= -np.log(error)).any(axis=(1, 2))
        inside[active] = counts[:, :, -1]
        draws[active] += stage
        done += stage
    certified = np.asarray(proven.all(1))
    return Decision(kind, eps, tau, centre, certified, refuted & ~certified, draws, alpha)
