"""The pure statistics: against scipy, closed forms, brute force, simulation, and the order check of the method page."""

from __future__ import annotations

import numpy as np
import pytest
from robustiqa.bench.errors import BadParameter, UnknownName
from robustiqa.defenses.certified.stats import bands, binomial, means, sequential
from robustiqa.defenses.certified.stats.order import quantile_bounds, shifted_levels
from scipy.integrate import quad
from scipy.stats import beta, binom, binomtest, norm

TRIALS = 20_000


def _not_above(failures: int, trials: int, alpha: float) -> bool:
    return bool(binomtest(failures, trials, alpha, alternative="greater").pvalue > 1e-4)


# --- binomial -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 7), (7, 7), (690, 1000)])
@pytest.mark.parametrize("error", [0.05, 0.0005])
def test_clopper_pearson_is_scipys(k: int, n: int, error: float) -> None:
    scipys = binomtest(k, n).proportion_ci(1 - 2 * error, method="exact")
    assert binomial.proportion_lower(k, n, error) == pytest.approx(scipys.low)
    assert binomial.proportion_upper(k, n, error) == pytest.approx(scipys.high)


@pytest.mark.parametrize(("a", "b"), [(1, 0), (10, 10), (15, 5), (60, 41), (100, 1)])
def test_majority_test_is_scipys_binomtest(a: int, b: int) -> None:
    assert binomial.majority_p(a, b) == pytest.approx(binomtest(a, a + b, 0.5).pvalue)


@pytest.mark.parametrize("m", [5, 11, 25, 100])
def test_sure_majority_is_the_smallest_sure_count(m: int) -> None:
    sure = [k for k in range(m // 2 + 1, m + 1) if binomtest(k, m, 0.5).pvalue <= 0.001]
    assert binomial.sure_majority(m, 0.001) == (sure[0] if sure else m + 1)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_mean_reaches_bounds_the_worst_case_which_is_a_coin(p: float) -> None:
    m, error = 40, 0.01
    level = float(binomial.mean_reaches(p, m, error))
    assert level >= p
    # A coin is the most spread out variable in [0,1]: exact tail at the level, and it is not absurdly far.
    assert binom.sf(np.floor(level * m + 1e-9), m, p) <= error
    assert level <= min(1.0, p + np.sqrt(-np.log(error) / (2 * m)) + 1e-9)


def test_kl_is_the_relative_entropy() -> None:
    q, p = 0.3, 0.6
    assert binomial.kl(q, p) == pytest.approx(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)))
    assert binomial.kl(0.0, 0.6) == pytest.approx(-np.log(0.4))


# --- means --------------------------------------------------------------------------------------

DISTRIBUTIONS = {
    "uniform": (lambda rng, shape: rng.random(shape), 0.5),
    "narrow": (lambda rng, shape: np.clip(0.3 + 0.02 * rng.standard_normal(shape), 0, 1), 0.3),
    "coin": (lambda rng, shape: (rng.random(shape) < 0.2).astype(float), 0.2),
    "skewed": (lambda rng, shape: rng.beta(0.3, 3, shape), 0.3 / 3.3),
}


@pytest.mark.parametrize("name", list(means.INTERVALS))
@pytest.mark.parametrize("distribution", list(DISTRIBUTIONS))
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_mean_intervals_cover(name: str, distribution: str, alpha: float) -> None:
    draw, truth = DISTRIBUTIONS[distribution]
    lo, hi = means.INTERVALS[name](draw(np.random.default_rng(4), (TRIALS, 40)), alpha / 2)
    assert _not_above(int(((lo > truth) | (hi < truth)).sum()), TRIALS, alpha)
    assert np.all((lo >= 0) & (hi <= 1) & (lo <= hi))


def test_closed_forms_of_hoeffding_and_bernstein() -> None:
    draws = np.random.default_rng(0).random((1, 100))
    error = 0.005
    lo, hi = means.hoeffding(draws, error)
    assert hi[0] - draws.mean() == pytest.approx(np.sqrt(np.log(200) / 200))
    lo, hi = means.empirical_bernstein(draws, error)
    expected = np.sqrt(2 * draws.var(ddof=1) * np.log(400) / 100) + 7 * np.log(400) / (3 * 99)
    assert hi[0] - draws.mean() == pytest.approx(expected)
    assert draws.mean() - lo[0] == pytest.approx(expected)


def test_betting_end_is_where_the_wealth_reaches_its_threshold() -> None:
    """Recomputed draw by draw, from the paper's formulas."""
    draws, error = np.random.default_rng(8).beta(2, 5, 60), 0.01
    lo, _ = means.betting(draws[None], error)

    def largest(mean: float) -> float:
        wealth, top, seen, n = 0.0, -np.inf, [], len(draws)
        for t, x in enumerate(draws):
            past = np.array(seen)
            running = np.array([(0.5 + past[: i + 1].sum()) / (i + 2) for i in range(t)])
            variance = (0.25 + np.square(past - running).sum()) / (t + 1)
            bet = min(np.sqrt(2 * np.log(1 / error) / (n * variance)), 0.75 / mean)
            wealth += np.log1p(bet * (x - mean))
            top = max(top, wealth)
            seen.append(x)
        return top

    assert largest(lo[0] - 1e-6) >= np.log(1 / error)
    assert largest(lo[0] + 1e-6) < np.log(1 / error)


def test_betting_is_the_tightest_where_the_spread_is_small() -> None:
    draws = DISTRIBUTIONS["narrow"][0](np.random.default_rng(1), (50, 500))
    width = {name: np.mean(np.subtract(*interval(draws, 5e-4)[::-1])) for name, interval in means.INTERVALS.items()}
    assert width["betting"] < 0.5 * width["bernstein"] < 0.5 * width["hoeffding"]


def test_shifted_mean_is_the_exact_worst_case_of_a_threshold() -> None:
    """f = 1[z > 0], z ~ N(u, 1): E f = Phi(u), and a move by s makes it Phi(u + s)."""
    u, s = np.array([0.3, -1.0]), np.array([0.4, 1.0])
    lo, hi = means.shifted_mean(norm.cdf(u), norm.cdf(u), s)
    assert np.allclose(hi, norm.cdf(u[:, None] + s))
    assert np.allclose(lo, norm.cdf(u[:, None] - s))


# --- bands --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(bands.BANDS))
@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("n", [25, 300])
def test_bands_hold_all_order_statistics_at_once(name: str, alpha: float, n: int) -> None:
    uniform = np.sort(np.random.default_rng(5).random((TRIALS, n)), axis=1)
    failures = int((uniform < bands.BANDS[name](n, alpha)).any(axis=1).sum())
    assert _not_above(failures, TRIALS, alpha)
    assert failures > 0.15 * alpha * TRIALS
    # The other reading: fresh draws lie below their levels.
    assert _not_above(int((uniform > bands.fresh_levels(n, alpha, bands.BANDS[name])).any(axis=1).sum()), TRIALS, alpha)


def test_band_values_by_hand() -> None:
    assert bands.dkw_band(10, 0.05)[9] == pytest.approx(1 - np.sqrt(np.log(20) / 20))
    assert bands.dkw_band(10, 0.05)[0] == 0
    full = bands.binomial_band(40, 0.05)
    assert full[39] == pytest.approx((0.05 / 40) ** (1 / 40))
    assert full[10] == pytest.approx(beta.ppf(0.05 / 40, 11, 30))
    with pytest.raises(UnknownName, match="dkw"):
        bands.named_band("dwk")


def test_upper_sum_with_a_perfect_band_is_the_integral_of_the_moved_quantiles() -> None:
    n, shift = 20_000, np.array([0.0, 0.4, 1.0])
    levels = (np.arange(n) + 1) / (n + 1)
    ordered = norm.ppf(levels)[None] * 2 + 7
    for measure, density in (
        (bands.uniform, lambda p: 1.0),
        (lambda p: bands.trimmed(p, 0.2), lambda p: (0.2 <= p <= 0.8) / 0.6),
    ):
        for j, s in enumerate(shift):
            moved, _ = quad(
                lambda p, s=s, density=density: density(p) * (7 + 2 * (norm.ppf(p) + s)), 1e-9, 1 - 1e-9,
                points=[0.2, 0.8], limit=200,
            )  # fmt: skip
            assert bands.upper_sum(ordered, levels, measure, shift, 7 + 2 * 5)[0, j] == pytest.approx(moved, abs=1e-2)
            below = bands.lower_sum(ordered, levels, measure, shift, 7 - 2 * 5)[0, j]
            assert below == pytest.approx(14 - moved, abs=1e-2)


def test_weight_above_the_band_is_infinite_and_none_is_finite() -> None:
    ordered, shift = np.arange(10.0)[None], np.array([0.1])
    band = np.arange(1, 11) / 11
    assert np.isinf(bands.upper_sum(ordered, band, bands.uniform, shift)[0, 0])
    assert np.isfinite(bands.upper_sum(ordered, band, lambda p: bands.trimmed(p, 0.25), shift)[0, 0])
    third = np.full(3, 1 / 3)  # 3 * (1/3) is not 1 in floats: no weight must be left over for infinity
    assert np.isfinite(bands.upper_sum(ordered, band, bands.atoms(np.array([0.1, 0.5, 0.6]), third), shift)[0, 0])


def test_atoms_are_quantiles() -> None:
    """One atom at 1/2 is the median: the sum is the quantile that the band gives."""
    rng = np.random.default_rng(2)
    ordered = np.sort(rng.normal(size=(4, 500)), axis=1)
    shift = np.array([0.2, 0.6])
    band = bands.dkw_band(500, 0.01)
    upper = bands.upper_sum(ordered, band, bands.atoms(np.array([0.5]), np.ones(1)), shift)
    first = [int(np.argmax(norm.cdf(norm.ppf(band) - s) > 0.5)) for s in shift]
    assert np.array_equal(upper, ordered[:, first])


@pytest.mark.parametrize("alpha", [0.05])
def test_dominating_mean_covers_fresh_means_of_the_worst_distribution(alpha: float) -> None:
    """With the true quantiles for a band: the mean of m draws at the worst shift exceeds the level with <= alpha."""
    n, m, shift = 4000, 25, 0.5
    levels = (np.arange(n) + 1) / (n + 1)
    ordered = np.clip(50 + 5 * norm.ppf(levels), 0, 100)[None]
    level = bands.dominating_mean(ordered, levels, np.array([shift]), 100.0, m, alpha)[0, 0]
    means_ = 50 + 5 * shift + 5 * np.random.default_rng(3).normal(size=(TRIALS, m)).mean(axis=1)
    assert _not_above(int((means_ > level).sum()), TRIALS, alpha)
    assert level < 50 + 5 * shift + 5 * 4 / np.sqrt(m)  # a Chernoff bound of a normal: z = 2.45 instead of 1.64


# --- sequential ---------------------------------------------------------------------------------


def test_wealth_is_the_average_likelihood_ratio() -> None:
    p0, s, n = 0.6, 13, 15
    weight = lambda q: beta.pdf(q, 0.5, 0.5) / beta.sf(p0, 0.5, 0.5)  # noqa: E731
    ratio = lambda q: (q / p0) ** s * ((1 - q) / (1 - p0)) ** (n - s)  # noqa: E731
    expected, _ = quad(lambda q: weight(q) * ratio(q), p0, 1, limit=200)
    assert np.exp(sequential.log_wealth(s, n, p0)) == pytest.approx(expected, rel=1e-6)
    assert sequential.log_wealth(0, 0, p0) == pytest.approx(0)


@pytest.mark.parametrize("p0", [0.55, 0.84, 0.98])
@pytest.mark.parametrize("error", [0.05, 0.01])
def test_stopping_at_any_time_errs_rarely(p0: float, error: float) -> None:
    """20,000 coins at the edge of the hypothesis, looked at after each of 400 throws."""
    hits = np.cumsum(np.random.default_rng(6).random((TRIALS, 400)) < p0, axis=1)
    successes, draws = np.meshgrid(np.arange(401), np.arange(1, 401), indexing="ij")
    rich = sequential.log_wealth(np.minimum(successes, draws), draws, p0) >= -np.log(error)  # once for each pair
    ever = rich[hits, np.arange(400)].any(axis=1)
    assert _not_above(int(ever.sum()), TRIALS, error)
    assert ever.sum() > 0.05 * error * TRIALS


# --- the order check of the method page -----------------------------------------------------------


def test_order_check() -> None:
    """Score sd .9 under noise, range 100, eps/sigma .417, n 1000: widths 1.00 / 3.3 / 13.7 / 36 / 43 within 5 %."""
    draws = 50 + 0.9 * np.random.default_rng(0).standard_normal((100, 1000))
    ordered, shift, error = np.sort(draws, axis=1), np.array([0.05 / 0.12]), 0.0005
    width = {"median": np.subtract(*quantile_bounds(ordered, *shifted_levels([0.05], 0.12), 2 * error)[::-1]).mean()}
    band = bands.dkw_band(1000, error)
    for name, low, high in (("window", 40, 60), ("cdf", 0, 100)):
        upper = bands.upper_sum(ordered, band, bands.uniform, shift, high)
        width[name] = (upper - bands.lower_sum(ordered, band, bands.uniform, shift, low)).mean()
    for name in ("bernstein", "hoeffding"):
        lo, hi = means.shifted_mean(*means.INTERVALS[name](draws / 100, error), shift)
        width[name] = 100 * (hi - lo).mean()
    assert width == pytest.approx(
        {"median": 1.00, "window": 3.3, "cdf": 13.7, "bernstein": 36, "hoeffding": 43}, rel=0.05
    )


@pytest.mark.parametrize("n", [0, -1])
def test_no_samples_are_refused(n: int) -> None:
    for function in (bands.dkw_band, bands.binomial_band):
        with pytest.raises(BadParameter, match="samples"):
            function(n, 0.1)


@pytest.mark.parametrize("n", [1, 7, 500])
def test_a_band_at_some_order_statistics_is_what_the_whole_one_has_there(n: int) -> None:
    for function in (bands.dkw_band, bands.binomial_band):
        whole = function(n, 0.01)
        for k in (np.array([n]), np.arange(1, n + 1)[::3]):
            assert np.array_equal(function(n, 0.01, k), whole[k - 1])
