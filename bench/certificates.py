"""What a certified defence answers, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from .frames import certificate_frame
from .threats import Norm

Coverage = Literal["pointwise", "bonferroni", "dkw"]
Progress = Callable[[int, int], None]
"""Called with the draws done and wanted, for all images together."""

_SHOWN = 20
"""Rows that a notebook shows."""


@dataclass(frozen=True)
class Certificate:
    """Bounds that no |d|_2 <= eps can leave, with probability >= 1 - alpha.

    For `population` the probability is over the certification draws. For `deployed` it is over these and the fresh
    draws of the deployed score, which the attacker must not know: a score from a published seed is a fixed-noise score,
    and an attacker who can compute it can search for an image whose draws are lucky.

    Attributes:
        kind: "population" (bounds the exact smoothed statistic) or "deployed" (bounds the shipped m-sample score).
        norm: norm of the threat.
        eps: the E budgets.
        score: (B,) point estimate from the certification draws.
        lo, hi: (B,E) bounds in the metric's units; infinite where the samples do not suffice.
        n: certification draws an image, all of them (0 for a certificate without sampling).
        alpha: total error probability per image, and per eps if `coverage` is "pointwise".
        sigma: noise level in [0,1] pixel units; 0 without noise.
        spread: (B,) standard deviation of the draws, the lever of the width.
        lower_better: orientation of the scores.
        coverage: whether the bounds of one image hold together for all eps: "pointwise" (each alone), "bonferroni"
            (together, over the grid), "dkw" or "binomial band" (together, for every eps there is), "one interval" (all
            eps follow from one estimate), "exact" (no probability involved).
        abstained: (B,) whether the method gave no answer, for methods that may.
        notes: what the user should know: draws that cannot suffice, a denoiser for another noise level.
        deployed: the certificate of the shipped score, on a `population` one.
        family: the same at alpha/M from the same draws, for statements about M images jointly.
    """

    kind: str
    norm: Norm
    eps: tuple[float, ...]
    score: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    n: int
    alpha: float
    sigma: float
    spread: np.ndarray
    lower_better: bool = False
    coverage: str = "pointwise"
    abstained: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    deployed: Certificate | None = None
    family: Certificate | None = None

    @property
    def delta(self) -> np.ndarray:
        """(B,E) largest certified shift: max(hi - score, score - lo)."""
        return np.maximum(self.hi - self.score[:, None], self.score[:, None] - self.lo)

    @property
    def gaming_delta(self) -> np.ndarray:
        """(B,E) largest certified unfair improvement of quality."""
        return self.score[:, None] - self.lo if self.lower_better else self.hi - self.score[:, None]

    def to_frame(self) -> pd.DataFrame:
        """A row an image (by its place in the batch), kind and eps, with that of the deployed score, in metric units.

        Columns: `image, kind, norm, eps, score, spread, [abstained,] lo, hi, delta, gaming_delta, n, alpha, coverage`.
        """
        return certificate_frame([self] if self.deployed is None else [self, self.deployed])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.to_frame().to_html(max_rows=_SHOWN) + "".join(f"<p>{escape(note)}</p>" for note in self.notes)


@dataclass(frozen=True)
class Decision:
    """Whether the score stays within tau of a centre under every perturbation, decided with as few draws as it takes.

    Attributes:
        kind: as in `Certificate`.
        eps, tau: budget, and the shift in the metric's units.
        centre: (B,) score from the pilot draws; every perturbed score is claimed to be in centre -/+ tau.
        certified: (B,) the claim holds, with probability >= 1 - alpha.
        refuted: (B,) it was shown that this certificate cannot be had: the shifted quantile lies outside.
        draws: (B,) forwards spent, pilot included. Neither certified nor refuted: undecided after the most allowed.
        alpha: error probability per image.
    """

    kind: str
    eps: float
    tau: float
    centre: np.ndarray
    certified: np.ndarray
    refuted: np.ndarray
    draws: np.ndarray
    alpha: float


@dataclass(frozen=True)
class CertifyRequest:
    """What `DefendedMetric.certify` was asked, checked.

    Attributes:
        x: (B,3,H,W) images.
        eps: (E,) budgets.
        alpha: error probability.
        keys: content keys of the images.
        seed: base seed of the certification streams.
        family: number of images about which something is to be said jointly.
        coverage: how the bounds of one image hold over the grid of eps.
        pool: folder that keeps the draws, or None.
        progress: called as the draws go on, or None.
    """

    x: torch.Tensor
    eps: np.ndarray
    alpha: float
    keys: tuple[str, ...]
    seed: int
    family: int
    coverage: Coverage
    pool: Path | None
    progress: Progress | None
