"""What all sampled certificates share: noisy scores, one pool of draws, two certificates, advice."""

from __future__ import annotations

import bisect
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch

from ...bench.api import (
    INTERVAL_ERROR,
    Certificate,
    CertifiedToWidth,
    CertifyRequest,
    DefendedMetric,
    Estimate,
    Metric,
    Progress,
    WidthRequest,
)
from ...bench.errors import BadParameter
from ...bench.memory import wanted_format
from ...bench.registry import code_digest, identity_of, package_versions
from ...bench.seeds import Role, Streams
from ...bench.spec import parse_spec
from ...bench.threads import helpers
from ..denoisers import load_denoiser
from .allocate import certify_to_width
from .compiled import Compiled
from .engine import Shelf, certification_scores, sample_scores
from .noise import CertificationNoise, noised
from .shapes import Bounds, Draws, Question

MOST_DRAWS = 10_000_000
MOST_ADVISED = 1_000_000
"""Largest number of draws that an advice recommends."""

Precision = Literal["float32", "bfloat16", "float16"]
"""Number format of a network's products, as `torch.autocast` chooses the operations that take it."""

_REDUCED: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Smoothed(DefendedMetric):
    """A statistic of the metric's scores under Gaussian noise, l2-certified from samples.

    A subclass says what the statistic is and how it is bounded. Everything behind the noise (a denoiser, the clamping
    of scores to a range) belongs to the function that is smoothed and leaves the theorems intact; the noise is added to
    the raw image, which is never clamped before.

    Args:
        metric: the metric inside.
        sigma: noise level in [0,1] pixel units.
        n: draws for a certificate.
        m: draws for a deployed score.
        denoiser: denoiser between the noise and the metric, or None.
        precision: number format of denoiser and metric. It decides scores, so it belongs to the defence: what is
            certified in bfloat16 is what is deployed in bfloat16, and nothing is said of the metric in float32.
        compiled: whether scores without gradients come from a network that torch.compile has made faster; it gives the
            same scores up to rounding.
    """

    randomised = True
    certified_norm = "l2"

    def __init__(
        self,
        metric: Metric,
        sigma: float,
        n: int,
        m: int,
        denoiser: str | None = None,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        super().__init__(metric)
        if precision not in get_args(Precision):
            raise BadParameter(f"precision {precision!r}: expected {', '.join(get_args(Precision))}")
        if not (sigma > 0 and np.isfinite(sigma)):
            raise BadParameter(f"{self._name} with sigma={sigma}: expected a noise level > 0, in [0,1] pixel units")
        if not (1 <= n <= MOST_DRAWS and 1 <= m <= MOST_DRAWS):
            raise BadParameter(f"{self._name} with n={n}, m={m}: expected 1 to {MOST_DRAWS:,} draws each")
        self.sigma, self.n, self.cost, self._denoiser_name = float(sigma), n, m, denoiser
        self.precision: Precision = precision
        self.denoiser = None if denoiser is None else load_denoiser(denoiser, sigma).to(metric.device)
        self.memory_format = wanted_format(self.denoiser, metric)
        self._compiled = Compiled(self._behind) if compiled else None
        if compiled:
            self.concurrent = False

    def base_score(self, noisy: torch.Tensor) -> torch.Tensor:
        """The function that is smoothed: noisy images (b,3,H,W), not clamped, to scores (b,)."""
        behind = self._compiled if self._compiled and torch.is_inference_mode_enabled() else self._behind
        if self.precision == "float32":
            return behind(noisy)
        with torch.autocast(noisy.device.type, _REDUCED[self.precision]):
            return behind(noisy).float()

    def _behind(self, noisy: torch.Tensor) -> torch.Tensor:
        return self.metric(noisy if self.denoiser is None else self.denoiser(noisy))

    @abstractmethod
    def statistic(self, draws: np.ndarray) -> np.ndarray:
        """The deployed score (B,) of draws (B,k); of many draws it is the exact smoothed score."""

    def population(self, quantiles: np.ndarray) -> np.ndarray:
        """The exact smoothed score (B,) of a distribution, given as evenly spaced quantiles (B,k)."""
        return self.statistic(quantiles)

    @abstractmethod
    def interval(self, draws: Draws, error: float) -> tuple[np.ndarray, np.ndarray]:
        """Interval (B,), (B,) for the exact smoothed score, wrong with probability <= error."""

    @abstractmethod
    def bounds(self, draws: Draws, ask: Question) -> Bounds:
        """The certificate from n draws."""

    @property
    def total_draws(self) -> int:
        """Draws that a certificate takes, all included."""
        return self.n

    @property
    def ends(self) -> tuple[float, float]:
        """What a bound is where no sample is one: the end of a range that cannot be left, or infinity."""
        return self.metric.score_range if self.metric.bounded and self.metric.score_range else (-np.inf, np.inf)

    def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
        """(draws,B) single-draw scores, differentiable through noise, and denoiser where there is one."""
        noisy = noised(x, rng.normal(x, draws), self.sigma, self.memory_format)
        return self.base_score(noisy).reshape(draws, x.shape[0])

    def aggregate(self, scores: torch.Tensor) -> torch.Tensor:
        """The statistic of draws (k,B)."""
        return torch.from_numpy(self.statistic(scores.detach().double().cpu().numpy().T))

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        threads = self.threads(x[0, 0].numel(), self.cost * len(x))
        scores = sample_scores(self.base_score, x, self.sigma, self.cost, rng, self.memory_format, threads)
        draws = self._checked(scores)
        return Estimate(self.statistic(draws.values), *self.interval(draws, INTERVAL_ERROR))

    def _certify(self, request: CertifyRequest) -> Certificate:
        shelf = None
        if request.pool is not None:
            shelf = Shelf(request.pool, self.draw_identity(request.seed), request.keys)
        noise = self.noise(request.x, request.keys, request.seed)
        draws = Draws(self.scores(noise, self.total_draws, None, shelf, request.progress))
        joint = self._both(draws, request, request.alpha / request.family) if request.family > 1 else None
        both = self._both(draws, request, request.alpha)
        assert both.deployed is not None
        deployed = replace(both.deployed, notes=self._notes(both.deployed, request.coverage))
        return replace(both, notes=self._notes(both, request.coverage), deployed=deployed, family=joint)

    def scores(
        self,
        noise: CertificationNoise,
        n: int,
        index: Sequence[int] | None = None,
        shelf: Shelf | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Scores (b,n) under the next n draws of certification noise; `BadScore` for NaN or infinity.

        Args:
            noise, n, index, shelf, progress: as in `engine.certification_scores`.
        """
        threads = self.threads(noise.pixels, n * len(noise if index is None else index))
        samples = certification_scores(self.base_score, noise, self.sigma, n, index, shelf, progress, threads)
        self.check_finite(samples)
        return samples

    def threads(self, pixels: int, scores: int) -> int:
        """How many threads may work at once on so many scores of noisy images of so many pixels each."""
        if self.metric.device.type != "cpu" or self._compiled or type(self).base_score is not Smoothed.base_score:
            return 1
        parts = [self.metric] if self.denoiser is None else [self.metric, self.denoiser]
        return helpers(pixels * scores, scores, *parts)

    def noise(self, x: torch.Tensor, keys: Sequence[str], seed: int, *extra: object) -> CertificationNoise:
        """Certification noise for images x (B,3,H,W), at its beginning; `extra` tells draws of another purpose."""
        return CertificationNoise(x, keys, seed, *extra, memory_format=self.memory_format)

    def _certify_to_width(self, request: WidthRequest) -> CertifiedToWidth:
        return certify_to_width(self, request)

    def _notes(self, c: Certificate, coverage: str) -> tuple[str, ...]:
        """What to tell about a certificate. An advice may try many n, so only those that a user sees get any."""
        ask = Question(np.array(c.eps), c.alpha, c.kind == "deployed", coverage)
        return (*self.advice(ask), *_constant(c.spread), *self._wrong_denoiser())

    def _both(self, draws: Draws, request: CertifyRequest, alpha: float) -> Certificate:
        """Population certificate with the deployed one from the same draws."""
        eps, coverage = request.eps, request.coverage
        deployed = self._certificate(draws, Question(eps, alpha, True, coverage))
        return replace(self._certificate(draws, Question(eps, alpha, False, coverage)), deployed=deployed)

    def _certificate(self, draws: Draws, ask: Question) -> Certificate:
        found = self.bounds(draws, ask)
        spread = draws.values.std(axis=1, ddof=1) if draws.n > 1 else np.full(len(draws.values), np.nan)
        return Certificate(
            kind="deployed" if ask.deployed else "population",
            norm="l2",
            eps=tuple(ask.eps.tolist()),
            score=self.reference(draws),
            lo=found.lo,
            hi=found.hi,
            n=draws.n,
            alpha=ask.alpha,
            sigma=self.sigma,
            spread=spread,
            lower_better=self.metric.lower_better,
            coverage=found.coverage,
            abstained=found.abstained,
        )

    def reference(self, draws: Draws) -> np.ndarray:
        """Point estimate (B,) that goes with a certificate."""
        return self.statistic(draws.values)

    def advice(self, ask: Question) -> tuple[str, ...]:
        """Sentences about eps that the draws cannot reach; methods on a bounded range have none."""
        return ()

    def out_of_reach(self, ask: Question, reaches: Callable[[float, int], bool]) -> tuple[str, ...]:
        """A sentence if n draws do not reach some eps, with the smallest n that does.

        Args:
            ask: the question.
            reaches: whether n draws give a finite bound at an eps; monotone in both.
        """
        if np.isfinite(self.ends).all():
            return ()
        budgets = np.sort(ask.eps).tolist()
        # By bisection: one eps after the other, a fine grid would cost more than its bounds.
        lost = budgets[bisect.bisect_left(budgets, True, key=lambda eps: not reaches(eps, self.n)) :]
        if not lost:
            return ()
        kind = "deployed" if ask.deployed else "population"
        cure = "a larger sigma would do"
        if reaches(max(lost), MOST_ADVISED):
            few, enough = self.n, MOST_ADVISED
            while enough - few > 1:
                middle = (few + enough) // 2
                few, enough = (few, middle) if reaches(max(lost), middle) else (middle, enough)
            cure = f"n >= {enough:,} draws would do, or a larger sigma"
        return (
            f"{kind} bound at eps {' to '.join(f'{e:g}' for e in dict.fromkeys((min(lost), max(lost))))} is infinite: "
            f"n={self.n} draws do not reach it at sigma {self.sigma:g} and alpha {ask.alpha:g}; at "
            f"{max(lost):g} {cure}",
        )

    def _wrong_denoiser(self) -> tuple[str, ...]:
        made_for = getattr(self.denoiser, "trained_metric", None)
        return self._wrong_level() + self._wrong_metric(made_for)

    def _wrong_metric(self, made_for: str | None) -> tuple[str, ...]:
        if made_for is None or parse_spec(made_for).name == parse_spec(self.metric.spec).name:
            return ()
        return (
            f"denoiser {self._denoiser_name!r} was trained for the metric {made_for!r}, not for {self.metric.spec!r}: "
            "the certificate holds, but scores under noise are worse than they need be",
        )

    def _wrong_level(self) -> tuple[str, ...]:
        low, high = getattr(self.denoiser, "trained_range", (0.0, np.inf))
        if not low <= self.sigma <= high:
            return (
                f"denoiser {self._denoiser_name!r} was trained for sigma {low:g} to {high:g}, not for {self.sigma:g}: "
                "the certificate holds, but scores under noise are worse than they need be",
            )
        trained = getattr(self.denoiser, "trained_sigma", None)
        if trained is None or np.isclose(trained, self.sigma, rtol=0.05):
            return ()
        return (
            f"denoiser {self._denoiser_name!r} was trained for sigma {trained:g}, not for {self.sigma:g}: the "
            "certificate holds, but scores under noise are worse than they need be",
        )

    def draw_identity(self, seed: int) -> str:
        """All that decides a draw except the image. Methods that only differ in the statistic share their draws."""
        shares = type(self).base_score is Smoothed.base_score
        own = None if shares else identity_of("defense", self.spec)
        name = self._denoiser_name
        denoiser = None if name is None else identity_of("defense", f"denoised-median-smoothing[denoiser={name}]")
        parts = [code_digest(), package_versions(), identity_of("metric", self.metric.spec), own, self.sigma,
                 self.precision, denoiser, seed, Role.CERTIFICATION.value]  # fmt: skip
        return json.dumps(parts)

    def _checked(self, samples: np.ndarray) -> Draws:
        self.check_finite(samples)
        return Draws(samples)

    @property
    def _name(self) -> str:
        return "".join(f" {c.lower()}" if c.isupper() else c for c in type(self).__name__).strip()


def _constant(spread: np.ndarray) -> tuple[str, ...]:
    if not (spread == 0).any():
        return ()
    return (
        f"the metric gave one and the same score under noise for {int((spread == 0).sum())} of {len(spread)} images: a "
        "constant is certified trivially; look at SROCC before believing the bound",
    )
