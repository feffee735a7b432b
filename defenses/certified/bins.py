"""Score bins: randomised smoothing for classification (Cohen et al., ICML 2019) on a metric cut into bins."""

from __future__ import annotations

import numpy as np

from ...bench.api import Metric
from ...bench.errors import BadParameter
from ...bench.registry import register_defense
from .ranged import Ranged
from .smoothed import MOST_DRAWS, Bounds, Draws, Question
from .stats.binomial import at_least, majority_p, proportion_lower, sure_majority
from .stats.order import shifted

MOST_BINS = 1000


@register_defense("score-bins")
class ScoreBins(Ranged):
    """The most likely bin of the metric under Gaussian noise, as a score: the middle of the bin.

    PREDICT of Cohen et al. on m draws: the most frequent bin, if a two-sided exact test calls it more frequent than the
    second, at alpha .001; otherwise it abstains (`predict` gives -1) and the score is the middle of the range, the same
    for every image. CERTIFY: n0 draws choose the bin, n others bound its probability from below (Clopper-Pearson,
    one-sided); it holds for |d|_2 < sigma Phi^-1(bound). Certified are the edges of the bin, not its middle alone;
    beyond the radius, and where CERTIFY abstains, the range.

    Args:
        sigma: noise level in [0,1] pixel units.
        n0: draws that choose the bin.
        n: draws that certify it.
        m: draws for a deployed score.
        bins: bins of equal width between the ends of the range; two open ones lie outside, whose score is the end.
        low, high: the range; none for the metric's declared one.
        denoiser: denoiser between noise and metric; none for none.
    """

    concurrent = True

    predict_error = 0.001
    """Error probability of PREDICT's test: a property of what is deployed, not of the certificate."""

    def __init__(
        self,
        metric: Metric,
        sigma: float = 0.12,
        n0: int = 100,
        n: int = 1000,
        m: int = 101,
        bins: int = 10,
        low: float | None = None,
        high: float | None = None,
        denoiser: str | None = None,
    ) -> None:
        super().__init__(metric, sigma, n, m, low, high, denoiser)
        if not 1 <= n0 <= MOST_DRAWS or not 1 <= bins <= MOST_BINS:
            raise BadParameter(f"score bins with n0={n0}, bins={bins}: expected 1 to {MOST_DRAWS:,} draws and 1 to "
                               f"{MOST_BINS:,} bins")  # fmt: skip
        self.n0 = n0
        self.edges = np.linspace(self.low, self.high, bins + 1)
        # The open bins have no middle: their score is the end of the range that they lie beyond.
        middles = (self.edges[:-1] + self.edges[1:]) / 2
        self.middles = np.concatenate([[self.low], middles, [self.high]])
        self.lower = np.concatenate([[self.low], self.edges[:-1], [self.high]])
        self.upper = np.concatenate([[self.low], self.edges[1:], [self.high]])

    @property
    def total_draws(self) -> int:
        """n0 + n."""
        return self.n0 + self.n

    def _checked(self, samples: np.ndarray) -> Draws:
        # Not clamped: the open bins are bins of their own.
        return super(Ranged, self)._checked(samples)

    def counts(self, draws: np.ndarray) -> np.ndarray:
        """How many of draws (B,k) fall into each bin: (B, bins + 2), the open ones first and last."""
        index = np.searchsorted(self.edges, draws, side="right")
        index[draws == self.high] = len(self.edges) - 1  # the last bin is closed
        width = len(self.middles)
        flat = (index + width * np.arange(len(draws))[:, None]).ravel()
        return np.bincount(flat, minlength=width * len(draws)).reshape(len(draws), width)

    def predict(self, draws: np.ndarray) -> np.ndarray:
        """Most frequent bin (B,) of draws (B,k), or -1 where it abstains."""
        counts = self.counts(draws)
        second, first = np.sort(counts, axis=1)[:, -2:].T
        return np.where(majority_p(first, second) <= self.predict_error, counts.argmax(axis=1), -1)

    def statistic(self, draws: np.ndarray) -> np.ndarray:
        """Middle (B,) of the predicted bin; the middle of the range where it abstains."""
        return self._score(self.predict(draws))

    def population(self, quantiles: np.ndarray) -> np.ndarray:
        """Middle (B,) of the most likely bin: with all there is to know, nothing is left to abstain from."""
        return self.middles[self.counts(quantiles).argmax(axis=1)]

    def reference(self, draws: Draws) -> np.ndarray:
        """Score of the bin that n0 draws chose."""
        return self.middles[self.counts(draws[: self.n0].values).argmax(axis=1)]

    def interval(self, draws: Draws, error: float) -> tuple[np.ndarray, np.ndarray]:
        """Edges of the most frequent bin if it surely has more than half of the mass, else the range."""
        counts = self.counts(draws.values)
        # The bin was chosen by the same draws: a union bound over all of them.
        sure = proportion_lower(counts.max(axis=1), draws.n, error / counts.shape[1]) > 0.5
        bins = counts.argmax(axis=1)
        return np.where(sure, self.lower[bins], self.low), np.where(sure, self.upper[bins], self.high)

    def bounds(self, draws: Draws, ask: Question) -> Bounds:
        """CERTIFY, and for `deployed` the probability that PREDICT on m fresh draws returns the same bin."""
        bins = self.counts(draws[: self.n0].values).argmax(axis=1)
        hits = self.counts(draws[self.n0 :].values)[np.arange(len(bins)), bins]
        sampling = ask.alpha / 2 if ask.deployed else ask.alpha
        least = proportion_lower(hits, self.n, sampling)
        moved = shifted(least[:, None], -ask.eps[None] / self.sigma)
        if ask.deployed:
            enough = sure_majority(self.cost, self.predict_error)
            holds = at_least(enough, self.cost, moved) >= 1 - ask.alpha / 2
        else:
            holds = moved > 0.5
        lo = np.where(holds, self.lower[bins][:, None], self.low)
        hi = np.where(holds, self.upper[bins][:, None], self.high)
        return Bounds(lo, hi, "one interval", least <= 0.5)

    def _score(self, bins: np.ndarray) -> np.ndarray:
        return np.where(bins >= 0, self.middles[bins], (self.low + self.high) / 2)
