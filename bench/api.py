"""The shapes that everything agrees on: threats, metrics, defended metrics, certificates and attack results."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from .errors import BadImage, BadParameter, BadScore, Incompatible
from .images import check_size
from .seeds import Role, Streams, image_key

Norm = Literal["l2", "linf"]
Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Threat:
    """What an attacker may do: |x' - x| <= eps in a norm, pixels in [0,1] over all 3HW values."""

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in ("l2", "linf"):
            raise BadParameter(f"unknown norm {self.norm!r}: expected l2 or linf")
        if not math.isfinite(self.eps) or self.eps < 0:
            raise BadParameter(f"eps {self.eps} is not a budget: expected a finite number >= 0, pixels in [0,1]")
        if self.norm == "linf" and self.eps > 1:
            raise BadParameter(f"linf eps {self.eps:g} is more than the whole range of pixels in [0,1]: "
                               f"did you mean {self.eps:g}/255?")  # fmt: skip

    def __str__(self) -> str:
        return f"{self.norm}({self.eps:g})"


def L2(eps: float) -> Threat:
    """Threat with l2 norm at most `eps`."""
    return Threat("l2", float(eps))


def Linf(eps: float) -> Threat:
    """Threat with every pixel value moved by at most `eps`."""
    return Threat("linf", float(eps))


class Metric(nn.Module):
    """A no-reference metric behind one checked face: (B,3,H,W) float in [0,1] -> (B,).

    Attributes:
        spec: canonical plug-in string.
        lower_better: whether a smaller score means a better image.
        score_range: nominal scale, or None.
        bounded: whether `score_range` can never be left, so that a certificate may end there.
        min_size: smallest side in pixels.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: str,
        *,
        lower_better: bool = False,
        score_range: tuple[float, float] | None = None,
        bounded: bool = False,
        min_size: int = 1,
    ) -> None:
        super().__init__()
        if score_range is not None and not score_range[0] < score_range[1]:
            raise BadParameter(f"metric {spec!r} declares the range {score_range}: expected (low, high), low < high")
        if bounded and score_range is None:
            raise BadParameter(f"metric {spec!r} is declared bounded without a score_range: declare the range")
        self.module = module.eval().requires_grad_(False)
        self.spec, self.lower_better, self.score_range = spec, lower_better, score_range
        self.bounded, self.min_size = bounded, min_size

    @property
    def sign(self) -> float:
        """+1 where larger = better, else -1: sign * score is a quality."""
        return -1.0 if self.lower_better else 1.0

    def train(self, mode: bool = True) -> Metric:
        """Stay in eval mode whatever is asked: a metric under test never drifts."""
        return super().train(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,); raises `BadImage` for a bad input and `BadScore` for a wrong output shape."""
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise BadImage(f"metric {self.spec!r} got {x.dtype} of shape {tuple(x.shape)}: expected float (B,3,H,W)")
        check_size(x.shape[2], x.shape[3], self.min_size, f"an image for the metric {self.spec!r}")
        score = self.module(x)
        if not isinstance(score, torch.Tensor) or score.numel() != x.shape[0]:
            shape = tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
            raise BadScore(f"metric {self.spec!r} returned {shape} for {x.shape[0]} images: expected one score each")
        return score.reshape(x.shape[0])


class Estimate(NamedTuple):
    """Deployed scores (B,) with an interval [lo, hi] for what they estimate; equal to the score if deterministic."""

    score: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


@dataclass(frozen=True)
class Certificate:
    """Bounds that no |d|_2 <= eps can leave, with probability >= 1 - alpha.

    For `population` the probability is over the certification draws. For `deployed` it is over these and the fresh
    draws of the deployed score, which the attacker must not know: a score from a published seed is a fixed-noise score,
    and an attacker who can compute it can search for an image whose draws are lucky.

    Attributes:
        kind: "population" (bounds the exact smoothed statistic) or "deployed" (bounds the shipped m-sample score).
        norm: norm of the threat.
        eps: the E budgets, each bound read off at its own level: not simultaneous over the grid.
        score: (B,) point estimate from the certification draws.
        lo, hi: (B,E) bounds in the metric's units; infinite where the samples do not suffice.
        n: certification draws an image.
        alpha: total error probability per image and eps.
        sigma: noise level in [0,1] pixel units.
        spread: (B,) standard deviation of the draws, the lever of the width.
        lower_better: orientation of the scores.
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


class DefendedMetric(nn.Module, ABC):
    """A metric behind a defence. What `forward` computes is what is deployed, attacked and certified.

    Attributes:
        metric: the metric inside.
        randomised: whether two calls with different streams differ; attacks then need EOT.
        differentiable: whether `surrogate` has a useful gradient.
        certified_norm: "l2" or "linf" if `certify` works, else None.
        cost: forwards of the metric for one deployed score.
    """

    spec: str = ""
    randomised: bool = False
    differentiable: bool = True
    certified_norm: Norm | None = None
    cost: int = 1

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric

    def train(self, mode: bool = True) -> DefendedMetric:
        """Stay in eval mode whatever is asked."""
        return super().train(False)

    def forward(self, x: torch.Tensor, rng: Streams | None = None) -> torch.Tensor:
        """Deployed scores (B,), without gradient; `rng` defaults to the evaluation streams of seed 0.

        The default is reproducible, so it is known to an attacker. To rely on a `deployed` certificate, pass streams
        of a secret seed: `Streams.create(keys, Role.EVALUATION, secrets.randbits(31))`.
        """
        scores = self.estimate(x, rng).score
        return torch.as_tensor(scores, dtype=x.dtype, device=x.device)

    def estimate(self, x: torch.Tensor, rng: Streams | None = None) -> Estimate:
        """Deployed scores with their intervals; raises `BadScore` for NaN or infinity."""
        rng = rng or Streams.create([image_key(i) for i in x], Role.EVALUATION)
        with torch.inference_mode():
            estimate = self._estimate(x, rng)
        check_finite(estimate.score, self.metric.spec)
        return estimate

    @abstractmethod
    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        """What `estimate` returns; every random number comes from `rng`."""

    @abstractmethod
    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """Differentiable view (draws, B) of the deployed score for adaptive attacks.

        The forward values are exact (BPDA: exact forward, surrogate backward). A deterministic defence returns one
        row; a randomised one returns independent draws whose mean or median the attacker aggregates (EOT).
        """

    def certify(
        self, x: torch.Tensor, eps: Sequence[float], alpha: float = 0.001, seed: int = 0, family: int = 1
    ) -> Certificate:
        """Certify images x (B,3,H,W) at every budget in `eps`.

        Args:
            x: images in [0,1].
            eps: budgets in the certified norm, pixels in [0,1].
            alpha: error probability per image and eps.
            seed: base seed of the certification streams.
            family: number of images M of which something is to be said jointly; above 1 the certificate carries, from
                the same draws, a second one at alpha/M (`Certificate.family`).

        Raises:
            Incompatible: the defence has no certificate.
            BadParameter: alpha, eps or family out of range.
            BadScore: the metric returned NaN or infinity under noise.
        """
        if self.certified_norm is None:
            raise Incompatible(f"defence {self.spec!r} has no certificate: use a certified one, e.g. median-smoothing")
        if not 0 < alpha < 1:
            raise BadParameter(f"alpha {alpha} is not an error probability: expected 0 < alpha < 1")
        if not len(eps):
            raise BadParameter("no eps to certify at: give at least one l2 budget, for example eps=[0.05]")
        for e in eps:
            Threat(self.certified_norm, e)
        if family < 1:
            raise BadParameter(f"family {family} is not a number of images: expected at least 1")
        rng = Streams.create([image_key(i) for i in x], Role.CERTIFICATION, seed)
        with torch.inference_mode():
            return self._certify(x, tuple(float(e) for e in eps), alpha, rng, family)

    def _certify(self, x: torch.Tensor, eps: tuple[float, ...], alpha: float, rng: Streams, family: int) -> Certificate:
        """What `certify` returns; certified defences override it."""
        raise NotImplementedError


def check_finite(scores: np.ndarray, metric: str) -> None:
    """Raise `BadScore` if a score is NaN or infinite."""
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise BadScore(
            f"metric {metric!r} returned {bad} NaN or infinite of {scores.size} scores: "
            "the image is recorded as an error, not scored; check the metric on it with `robustiqa score`"
        )


@dataclass(frozen=True)
class AttackResult:
    """What an attack did to B images; arrays are per image.

    Attributes:
        adversarial: (B,3,H,W) float images inside ball and box.
        clean, attacked, attacked_8bit: deployed scores on the evaluation stream, which no attack has seen.
        gain: (B,) sign * (attacked - clean), oriented so that a success in the chosen direction is positive for "up"
            and negative for "down", in the metric's units.
        linf, l2, psnr, ssim: measured on the float result.
        forwards, backwards: per image, of the metric network.
        seconds: per image, wall clock of the attack without the final evaluation.
    """

    adversarial: torch.Tensor
    clean: Estimate
    attacked: Estimate
    attacked_8bit: Estimate
    gain: np.ndarray
    gain_8bit: np.ndarray
    linf: np.ndarray
    l2: np.ndarray
    psnr: np.ndarray
    ssim: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    seconds: np.ndarray
