"""The shapes that everything agrees on: metrics, defended metrics, attack results; threats and certificates beside."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from torch import nn

from .certificates import Certificate, CertifyRequest, Coverage, Decision, Progress
from .errors import BadImage, BadParameter, BadPlugin, BadScore, Incompatible
from .frames import attack_frame
from .images import check_size
from .measures import INTERVAL_ERROR
from .seeds import Role, Streams, image_keys
from .threats import L2, Direction, Linf, Norm, Threat
from .widths import Allotted, CertifiedToWidth, WidthRequest

__all__ = [
    "INTERVAL_ERROR",
    "L2",
    "Allotted",
    "AttackResult",
    "Certificate",
    "CertifiedToWidth",
    "CertifyRequest",
    "Coverage",
    "Decision",
    "DefendedMetric",
    "Direction",
    "Estimate",
    "Judged",
    "Linf",
    "Metric",
    "Norm",
    "Progress",
    "Threat",
    "WidthRequest",
    "check_batch",
]  # fmt: skip


Kind = Literal["population", "deployed"]
"""Of a certificate: of the exact smoothed statistic, or of the score that is shipped."""

LEAST_SHARE = 100
"""Draws an image without which nothing can be foreseen."""

_ROUNDING = 1e-5
"""Share of a bounded range by which rounding may take a score out of it."""


class Metric(nn.Module):
    """A no-reference metric behind one checked face: (B,3,H,W) float in [0,1] -> (B,).

    Attributes:
        spec: canonical plug-in string.
        lower_better: whether a smaller score means a better image.
        score_range: nominal scale, or None.
        bounded: whether `score_range` can never be left, so that a certificate may end there; a score that leaves it
            all the same is an error.
        min_size: smallest side in pixels.
        differentiable: whether the score has a gradient in the image that is not zero everywhere; without one only
            attacks that ask for scores work.
        empirical_range: whether `score_range` was measured on images, for want of a declared one.
    """

    concurrent = True

    empirical_range: bool = False

    def __init__(
        self,
        module: nn.Module,
        spec: str,
        *,
        lower_better: bool = False,
        score_range: tuple[float, float] | None = None,
        bounded: bool = False,
        min_size: int = 1,
        differentiable: bool = True,
    ) -> None:
        super().__init__()
        if score_range is not None and not score_range[0] < score_range[1]:
            raise BadParameter(f"metric {spec!r} declares the range {score_range}: expected (low, high), low < high")
        if bounded and score_range is None:
            raise BadParameter(f"metric {spec!r} is declared bounded without a score_range: declare the range")
        self.module = module.eval().requires_grad_(False)
        self.spec, self.lower_better, self.score_range = spec, lower_better, score_range
        self.bounded, self.min_size, self.differentiable = bounded, min_size, differentiable

    @property
    def sign(self) -> float:
        """+1 where larger = better, else -1: sign * score is a quality."""
        return -1.0 if self.lower_better else 1.0

    @property
    def span(self) -> float:
        """Length of the declared range, the unit in which attacks weigh scores; 1 where there is none, or no end."""
        low, high = self.score_range or (0.0, 1.0)
        return high - low if math.isfinite(high - low) else 1.0

    @property
    def device(self) -> torch.device:
        """Where its weights lie, and what stands before it should; the CPU for a metric without any."""
        return next((held.device for held in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    def train(self, mode: bool = True) -> Metric:
        """Stay in eval mode whatever is asked: a metric under test never drifts."""
        return super().train(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B,).

        Raises:
            BadImage: a bad input.
            BadScore: a wrong output shape, or a score outside a range that is declared as bounded.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise BadImage(f"metric {self.spec!r} got {x.dtype} of shape {tuple(x.shape)}: expected float (B,3,H,W)")
        self.check_takes(x.shape[2], x.shape[3])
        score = self.module(x)
        if not isinstance(score, torch.Tensor) or score.numel() != x.shape[0]:
            shape = tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
            raise BadScore(f"metric {self.spec!r} returned {shape} for {x.shape[0]} images: expected one score each")
        score = score.reshape(x.shape[0])
        self._check_promise(score.detach())
        return score

    def _check_promise(self, score: torch.Tensor) -> None:
        """Raise `BadScore` where a score leaves a range that it is declared never to leave, by more than rounding."""
        if not self.bounded or self.score_range is None:
            return
        low, high = self.score_range
        slack = _ROUNDING * self.span
        outside = (score < low - slack) | (score > high + slack)
        if bool(outside.any()):
            raise BadScore(
                f"metric {self.spec!r} is declared bounded in [{low:g}, {high:g}] and gives a score of "
                f"{float(score[outside][0]):g}: declare it unbounded, or correct the range"
            )

    def check_takes(self, height: int, width: int) -> None:
        """Raise `BadImage` when an image of this size is too small."""
        check_size(height, width, self.min_size, f"an image for the metric {self.spec!r}")


class Estimate(NamedTuple):
    """Deployed scores (B,) with an interval [lo, hi] for what they estimate; equal to the score if deterministic.

    The interval is wrong with probability `INTERVAL_ERROR` at most; certainly so for the smoothed defences (order
    statistics, or bounds for the mean of bounded scores), `random-flip`, `random-metric` and what is deterministic. For
    means over other draws it is Student's t, which is approximate (`defenses.base.mean_estimate`).
    """

    score: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


class DefendedMetric(nn.Module, ABC):
    """A metric behind a defence. What `forward` computes is what is deployed, attacked and certified.

    Attributes:
        metric: the metric inside.
        randomised: whether two calls with different streams differ; attacks then need EOT.
        differentiable: whether `surrogate` has a useful gradient; not where the metric has none.
        certified_norm: "l2" or "linf" if `certify` works, else None.
        foreseeable: whether the width of its bounds follows from the number of draws and the spread of the scores, so
            that draws can be chosen for a width.
        cost: forwards of the metric for one deployed score.
        memory_format: order in memory of the images on which `surrogate` is fastest; any order gives the same scores.

    A class that says `concurrent = True` in its own body may be called in several threads at once, if its network may
    (`bench.threads`): nothing that it does writes to it.
    """

    spec: str = ""
    randomised: bool = False
    differentiable: bool = True
    certified_norm: Norm | None = None
    foreseeable: bool = False
    cost: int = 1
    memory_format: torch.memory_format = torch.contiguous_format

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric
        self.differentiable = self.differentiable and metric.differentiable

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
        rng = rng or Streams.create(image_keys(x), Role.EVALUATION)
        before = None if x.is_inference() else x._version  # counts what is done to it in place
        with torch.inference_mode():
            estimate = self._estimate(x, rng)
        if before is not None and x._version != before:
            raise BadPlugin(f"defence {self.spec!r} writes into the images that it is given: work on a copy, x.clone()")
        self.check_finite(estimate.score)
        return estimate

    def check_finite(self, scores: np.ndarray) -> None:
        """Raise `BadScore` if a score is NaN or infinite."""
        bad = int((~np.isfinite(scores)).sum())
        if bad:
            cause = "; `robustiqa score` with --defense none shows whether it is the metric"
            cause = "" if self.spec == "none" else cause
            raise BadScore(
                f"{bad} of {scores.size} scores of {self.metric.spec!r} behind {self.spec!r} are NaN or infinite: "
                f"recorded as an error, not as a score{cause}"
            )

    @abstractmethod
    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        """What `estimate` returns; every random number comes from `rng`."""

    def check_takes(self, height: int, width: int) -> None:
        """Raise `BadImage` when an image of this size is too small, for a plan; here for the metric inside."""
        self.metric.check_takes(height, width)

    @abstractmethod
    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """Differentiable view (draws, B) of the deployed score for adaptive attacks.

        The forward values are exact (BPDA: exact forward, surrogate backward). A deterministic defence returns one
        row; a randomised one returns independent draws whose mean or median the attacker aggregates (EOT).
        """

    def surrogates(self) -> Sequence[DefendedMetric]:
        """Views that deploy this score and differ in the gradient of `surrogate`; this one first, here the only one.

        A defence that knows several gradients for what has none (BPDA) declares them here: an adaptive attack may
        follow them all.
        """
        return [self]

    def aggregate(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B,) that draws (k,B) of `surrogate` would give if they were the deployed ones; here the median."""
        return scores.double().quantile(0.5, dim=0)

    def certify(
        self,
        x: torch.Tensor,
        eps: Sequence[float],
        alpha: float = 0.001,
        seed: int = 0,
        family: int = 1,
        *,
        coverage: Coverage = "pointwise",
        pool: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Certificate:
        """Certify images x (B,3,H,W) at every budget in `eps`.

        Args:
            x: images in [0,1].
            eps: budgets in the certified norm, pixels in [0,1].
            alpha: error probability per image and eps (per image, for coverage over all eps).
            seed: base seed of the certification streams.
            family: number of images M of which something is to be said jointly; above 1 the certificate carries, from
                the same draws, a second one at alpha/M (`Certificate.family`).
            coverage: "pointwise": each bound holds at its own eps, fixed in advance; "bonferroni": those of the grid
                hold together; "dkw": the whole curve holds. A method that gives more than is asked says so in
                `Certificate.coverage`.
            pool: folder that keeps the draws: an interrupted certification goes on from there, and other eps, alpha, n
                and estimators of the same noisy metric use the same draws.
            progress: called with draws done and wanted.

        Raises:
            Incompatible: the defence has no certificate.
            BadImage: x is not one batch of equal-sized RGB images.
            BadParameter: alpha, eps, family or coverage out of range.
            BadScore: the metric returned NaN or infinity under noise, or left the range that it declares as bounded.
        """
        request = self._request(x, eps, alpha, seed, family, coverage, pool, progress)
        with torch.inference_mode():
            certificate = self._certify(request)
        for c in (certificate, certificate.deployed, certificate.family, getattr(certificate.family, "deployed", None)):
            if c is not None and not c.lo.shape == c.hi.shape == (len(x), len(eps)):
                raise BadPlugin(f"defence {self.spec!r} gave bounds of shape {c.lo.shape} and {c.hi.shape}: expected "
                                f"(images, eps) = {(len(x), len(eps))}")  # fmt: skip
            if c is not None and not bool((c.lo <= c.hi).all()):
                raise BadScore(f"defence {self.spec!r} gave a bound that is NaN or has lo > hi: a fault of the defence")
        return certificate

    def _certify(self, request: CertifyRequest) -> Certificate:
        """What `certify` returns; certified defences override it."""
        raise NotImplementedError

    def certify_to_width(
        self,
        x: torch.Tensor,
        eps: Sequence[float],
        width: float,
        alpha: float = 0.001,
        seed: int = 0,
        *,
        total: int | None = None,
        most: int | None = None,
        kind: Kind = "population",
        assurance: float = 0.9,
        coverage: Coverage = "pointwise",
        pool: str | Path | None = None,
        progress: Progress | None = None,
    ) -> CertifiedToWidth:
        """Certify each image with as many draws as an interval of this width is foreseen to need.

        The numbers of draws come from pilot draws of a stream of their own, which are in no certificate, so that each
        certificate holds with 1 - alpha. Where the total does not pay for the width, it buys the smallest common one;
        an image that no number of draws would bring to the width gets none.

        Args:
            x, eps, alpha, coverage, pool, progress: as in `certify`; the draws of a certificate are the first ones of
                those that `certify` makes.
            width: hi - lo wanted at the largest eps, in the metric's units.
            seed: base seed; one whose draws are known already proves nothing.
            total: most draws of all images together, pilot included; none for those that `certify` would make.
            most: most certification draws of one image; none for 16 times its share of the total.
            kind: whose width is meant.
            assurance: probability, from 1/2 on, with which an image should reach the width.

        Raises:
            Incompatible: the defence has no certificate, or not one whose width follows from n.
            BadImage, BadScore: as in `certify`.
            BadParameter: an argument out of range.
        """
        request = self._request(x, eps, alpha, seed, 1, coverage, pool, progress)
        if not self.foreseeable:
            raise Incompatible(
                f"defence {self.spec!r} has no interval whose width follows from the number of draws: use `certify` "
                "without a width, or a median, trimmed-mean, L-estimator or CDF mean smoothing"
            )
        if not (math.isfinite(width) and width > 0):
            raise BadParameter(f"width {width} is not one of an interval: expected a number > 0 in the metric's units")
        _check_kind(kind)
        if not 0.5 <= assurance < 1:
            raise BadParameter(f"assurance {assurance} is not a probability from 1/2 on: expected 0.5 <= assurance < 1")
        total = self.total_draws * len(x) if total is None else total
        share = total // len(x)
        if share < LEAST_SHARE:
            raise BadParameter(f"a total of {total:,} draws for {len(x)} images is too few: expected {LEAST_SHARE} an "
                               "image at least, half of which may be pilot draws")  # fmt: skip
        if most is not None and most < 1:
            raise BadParameter(f"most={most} is not a number of draws: expected at least 1")
        most = min(16 * share if most is None else most, total)
        with torch.inference_mode():
            return self._certify_to_width(
                WidthRequest(**vars(request), width=width, kind=kind, total=total, most=most, assurance=assurance)
            )

    def _certify_to_width(self, request: WidthRequest) -> CertifiedToWidth:
        """What `certify_to_width` returns; foreseeable defences override it."""
        raise NotImplementedError

    def decide(
        self,
        x: torch.Tensor,
        eps: float,
        tau: float,
        alpha: float = 0.001,
        seed: int = 0,
        *,
        kind: Kind = "population",
    ) -> Decision:
        """Decide for each image whether every |d|_2 <= eps leaves the score within tau of a centre, stopping early.

        The centre is the score of some pilot draws, reported beside the verdict. Two scores inside the window, such as
        the clean and an attacked one, are at most 2 tau apart.

        Raises:
            Incompatible: the defence has no such test.
            BadParameter: tau, eps or alpha out of range.
            BadScore: the metric returned NaN or infinity under noise.
        """
        norm = self._certifiable(alpha)
        Threat(norm, eps)
        if not (math.isfinite(tau) and tau > 0):
            raise BadParameter(f"tau {tau} is not a shift: expected a number > 0 in the metric's units")
        _check_kind(kind)
        check_batch(x)
        with torch.inference_mode():
            return self._decide(x, eps, tau, alpha, seed, kind)

    def _decide(self, x: torch.Tensor, eps: float, tau: float, alpha: float, seed: int, kind: str) -> Decision:
        """What `decide` returns; defences with a sequential test override it."""
        raise Incompatible(
            f"defence {self.spec!r} has no early-stopped test: use a median smoothing, or `certify --eps`"
        )

    def _request(
        self,
        x: torch.Tensor,
        eps: Sequence[float],
        alpha: float,
        seed: int,
        family: int,
        coverage: Coverage,
        pool: str | Path | None,
        progress: Progress | None,
    ) -> CertifyRequest:
        """The arguments of `certify`, checked."""
        norm = self._certifiable(alpha)
        if not len(eps):
            raise BadParameter("no eps to certify at: give at least one budget, for example eps=[0.05]")
        for e in eps:
            Threat(norm, e)
        if family < 1:
            raise BadParameter(f"family {family} is not a number of images: expected at least 1")
        if coverage not in get_args(Coverage):
            raise BadParameter(f"unknown coverage {coverage!r}: expected one of {', '.join(get_args(Coverage))}")
        check_batch(x)
        keys = tuple(image_keys(x))
        folder = None if pool is None else Path(pool)
        budgets = np.array(eps, dtype=float)
        return CertifyRequest(x, budgets, alpha, keys, seed, family, coverage, folder, progress)

    @property
    def total_draws(self) -> int:
        """Draws that a certificate takes, all included; 0 for one without sampling."""
        return 0

    def _certifiable(self, alpha: float) -> Norm:
        if self.certified_norm is None:
            raise Incompatible(f"defence {self.spec!r} has no certificate: use a certified one, e.g. median-smoothing")
        if not 0 < alpha < 1:
            raise BadParameter(f"alpha {alpha} is not an error probability: expected 0 < alpha < 1")
        return self.certified_norm


def _check_kind(kind: str) -> None:
    if kind not in get_args(Kind):
        raise BadParameter(f"unknown kind {kind!r}: expected {' or '.join(get_args(Kind))}")


def check_batch(x: torch.Tensor) -> None:
    """Raise `BadImage` unless x is one tensor (B,3,H,W) with values in [0,1]."""
    if not isinstance(x, torch.Tensor):
        sizes = ", ".join(dict.fromkeys(str(tuple(getattr(i, "shape", ()))) for i in x)) if isinstance(x, list) else "?"
        raise BadImage(f"got a {type(x).__name__} of images ({sizes}): expected one tensor (B,3,H,W); images of "
                       "different sizes take one call for each size")  # fmt: skip
    images = x.ndim == 4 and x.shape[1] == 3 and x.numel() > 0
    if not (images and all(0 <= float(end) <= 1 for end in x.aminmax())):
        raise BadImage(f"got images of shape {tuple(x.shape)}: expected (B,3,H,W) with values in [0,1]")


@dataclass(frozen=True)
class Judged:
    """What follows from B adversarial images alone; arrays are per image.

    Attributes:
        clean, attacked, attacked_8bit: deployed scores on the evaluation stream, which no attack has seen.
        gain: (B,) sign * (attacked - clean), oriented so that a success in the chosen direction is positive for "up"
            and negative for "down", in the metric's units.
        linf, l2, psnr, ssim: measured on the float result.
    """

    clean: Estimate
    attacked: Estimate
    attacked_8bit: Estimate
    gain: np.ndarray
    gain_8bit: np.ndarray
    linf: np.ndarray
    l2: np.ndarray
    psnr: np.ndarray
    ssim: np.ndarray


@dataclass(frozen=True)
class AttackResult(Judged):
    """What an attack did to B images, and what it took; arrays are per image.

    Attributes:
        adversarial: (B,3,H,W) float images inside ball and box.
        forwards, backwards: per image, of the metric network.
        queries: per image, calls of the deployed score by a black-box attack.
        seconds: per image, wall clock of the attack without the final evaluation.
    """

    adversarial: torch.Tensor
    forwards: np.ndarray
    backwards: np.ndarray
    queries: np.ndarray
    seconds: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """A row an image, by its place in the batch: scores with their intervals in metric units, and the figures."""
        names = ("gain", "gain_8bit", "linf", "l2", "psnr", "ssim", "forwards", "backwards", "queries", "seconds")
        return attack_frame(
            {"clean": self.clean, "attacked": self.attacked, "attacked_8bit": self.attacked_8bit},
            {name: getattr(self, name) for name in names},
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.to_frame().to_html(max_rows=20)
