"""Order statistics: the test vectors of Chiang et al.'s method, scipy, brute force and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from robustiqa.bench.errors import BadParameter
from robustiqa.defenses.certified.stats.order import (
    deployed_level,
    lower_index,
    median,
    pick,
    quantile_bounds,
    reached,
    shifted_levels,
    upper_index,
)
from scipy.stats import binom, binomtest, norm

# sigma, eps, n -> 1-based (kl, ku) at alpha = .001; None where no index exists (0 and n + 1 in our functions).
VECTORS = [
    (0.12, 0.05, 1000, 290, 711),
    (0.12, 0.05, 10000, 3229, 6772),
    (0.12, 0.10, 1000, 162, 839),
    (0.12, 0.12, 1000, 122, 879),
    (0.12, 0.25, 1000, 6, 995),
    (0.12, 0.25, 10000, 143, 9858),
    (0.12, 0.36, 1000, None, None),
    (0.12, 0.36, 10000, 3, 9998),
    (0.18, 0.25, 1000, 55, 946),
    (0.18, 0.36, 1000, 9, 992),
    (0.25, 0.25, 1000, 122, 879),
    (0.25, 0.36, 1000, 49, 952),
    (0.25, 0.50, 1000, 9, 992),
]


@pytest.mark.parametrize(("sigma", "eps", "n", "kl", "ku"), VECTORS)
def test_indices_match_the_published_vectors(sigma: float, eps: float, n: int, kl: int | None, ku: int | None) -> None:
    pl, pu = shifted_levels(eps, sigma)
    assert int(lower_index(n, pl, 0.0005)) == (kl or 0)
    assert int(upper_index(n, pu, 0.0005)) == (ku or n + 1)


def test_indices_of_many_levels_at_once_are_those_of_each() -> None:
    levels = np.linspace(0, 1, 201)
    for n, error in ((1, 0.2), (37, 0.01), (1000, 5e-4), (10000, 1e-9)):
        together = upper_index(n, levels, error)
        assert together.tolist() == [int(upper_index(n, level, error)) for level in levels]
        assert np.all(np.diff(together) >= 0)
        assert np.array_equal(lower_index(n, levels, error), n + 1 - upper_index(n, 1 - levels, error))


@pytest.mark.parametrize("n", [1, 2, 7, 50, 333])
@pytest.mark.parametrize("level", [0.02, 0.4, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("error", [0.3, 0.05, 1e-6])
def test_indices_match_their_definition_by_brute_force(n: int, level: float, error: float) -> None:
    cdf = [binom.cdf(k - 1, n, level) for k in range(1, n + 1)]
    sf = [binom.sf(k - 1, n, level) for k in range(1, n + 1)]
    assert upper_index(n, level, error) == next((k for k in range(1, n + 1) if sf[k - 1] <= error), n + 1)
    assert lower_index(n, level, error) == next((k for k in range(n, 0, -1) if cdf[k - 1] <= error), 0)


@pytest.mark.parametrize(("n", "expected"), [(100, 1.45), (1000, 2.43), (10000, 3.17)])
def test_largest_radius(n: int, expected: float) -> None:
    radius = norm.ppf(0.0005 ** (1 / n))  # Phi^-1((alpha/2)^(1/n)), the largest certifiable eps/sigma
    assert radius == pytest.approx(expected, abs=0.005)
    assert upper_index(n, float(norm.cdf(radius * 0.9999)), 0.0005) == n
    assert upper_index(n, float(norm.cdf(radius * 1.001)), 0.0005) == n + 1


def test_unreachable_side_is_infinite_or_the_range_end_never_a_sample() -> None:
    samples = np.sort(np.random.default_rng(0).normal(size=(2, 100)), axis=1)
    levels = shifted_levels([3.0], 1.0)
    lo, hi = (side[:, 0] for side in quantile_bounds(samples, *levels, 0.001))
    assert np.all(np.isneginf(lo))
    assert np.all(np.isposinf(hi))
    lo, hi = (side[:, 0] for side in quantile_bounds(samples, *levels, 0.001, ends=(-7.0, 9.0)))
    assert lo.tolist() == [-7.0, -7.0]
    assert hi.tolist() == [9.0, 9.0]


@pytest.mark.parametrize("m", [1, 2, 51, 100, 101])
@pytest.mark.parametrize("error", [0.05, 0.00025])
def test_deployed_level_is_the_smallest_that_holds(m: int, error: float) -> None:
    level = deployed_level(m, error)
    k = m // 2 + 1
    assert binom.sf(k - 1, m, level) >= 1 - error - 1e-9
    assert binom.sf(k - 1, m, level - 1e-4) < 1 - error


def test_median_is_not_the_lower_median() -> None:
    assert median(np.array([[1.0, 2.0, 4.0, 9.0]])).tolist() == [3.0]
    assert median(np.array([[1.0, 2.0, 4.0]])).tolist() == [2.0]


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("distribution", ["normal", "ties", "skewed"])
def test_coverage_of_simulated_certificates(alpha: float, distribution: str) -> None:
    """Observed failures do not exceed alpha (exact binomial test), and the bound is not absurdly wide."""
    rng = np.random.default_rng([3, int(1000 * alpha)])
    trials, n, eps, sigma = 20_000, 60, 0.4, 1.0
    z = rng.normal(size=(trials, n))
    transform = {"normal": lambda v: v, "ties": np.floor, "skewed": np.exp}[distribution]
    samples = np.sort(transform(z), axis=1)
    pl, pu = shifted_levels(eps, sigma)
    lo, hi = (side[:, 0] for side in quantile_bounds(samples, pl, pu, alpha))
    # With ties the theorem's quantile on the lower side is the sup-, on the upper side the inf-quantile.
    truth_lo, truth_hi = transform(np.array(norm.ppf(pl))), transform(np.array(norm.ppf(pu)))
    failures = int(((lo > truth_lo) | (hi < truth_hi)).sum())
    assert binomtest(failures, trials, alpha, alternative="greater").pvalue > 1e-4
    if distribution != "ties":
        assert failures > 0.3 * alpha * trials


def test_an_index_off_by_one_would_be_caught() -> None:
    """The same simulation fails for the 0-based/1-based slip of published code: the test above can fail."""
    rng = np.random.default_rng(9)
    trials, n, alpha = 20_000, 60, 0.05
    samples = np.sort(rng.normal(size=(trials, n)), axis=1)
    pl, pu = shifted_levels(0.4, 1.0)
    low, high = int(lower_index(n, pl, alpha / 2)), int(upper_index(n, pu, alpha / 2))
    # 1-based index used on a 0-based array on the lower side; the upper one too small by one.
    failures = int(((samples[:, low] > norm.ppf(pl)) | (samples[:, high - 2] < norm.ppf(pu))).sum())
    assert binomtest(failures, trials, alpha, alternative="greater").pvalue < 1e-4


def test_no_sample_outside_the_indices() -> None:
    with pytest.raises(BadParameter, match="order statistic"):
        pick(np.zeros((1, 5)), 7)


@pytest.mark.parametrize(("n", "error"), [(0, 0.1), (10, 0.0), (10, 1.0)])
def test_bad_arguments(n: int, error: float) -> None:
    with pytest.raises(BadParameter, match="expected"):
        upper_index(n, 0.5, error)


def test_sigma_must_be_positive() -> None:
    with pytest.raises(BadParameter, match="sigma"):
        shifted_levels(0.1, 0.0)


@pytest.mark.parametrize("error", [0.3, 0.0005, 1e-9])
def test_whether_any_sample_is_a_bound_is_what_the_index_says(error: float) -> None:
    for level in (0.0, 0.3, 0.5, 0.77, 0.99, 0.9999, 1.0):
        for n in (1, 2, 8, 20, 50, 333, 1000, 20_000):
            assert reached(n, level, error) == (upper_index(n, level, error) <= n), (n, level)
