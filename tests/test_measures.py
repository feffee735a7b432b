"""Measures against scipy, closed forms and enumeration."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from robustiqa.bench import measures
from scipy.stats import kendalltau, pearsonr, spearmanr


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    truth = rng.uniform(0, 100, 80)
    return truth + rng.normal(0, 20, 80), truth


def test_correlations_are_scipys(sample) -> None:
    score, truth = sample
    assert measures.srocc(score, truth) == pytest.approx(spearmanr(score, truth)[0])
    assert measures.krocc(score, truth) == pytest.approx(kendalltau(score, truth)[0])
    assert measures.plcc(score, truth) == pytest.approx(pearsonr(score, truth)[0])


@pytest.mark.parametrize("function", [measures.srocc, measures.krocc, measures.plcc, measures.plcc_logistic])
def test_degenerate_scores_have_no_correlation(function) -> None:
    assert np.isnan(function(np.ones(10), np.arange(10.0)))
    assert np.isnan(function(np.arange(2.0), np.arange(2.0)))


def test_r_score_by_hand() -> None:
    clean, attacked = np.array([20.0, 80.0, 50.0]), np.array([30.0, 80.0, 150.0])
    expected = [np.log10(80 / 10), np.log10(80 / 0.1), np.log10(50 / 100)]
    assert measures.r_score(clean, attacked, (0.0, 100.0)) == pytest.approx(expected)


def test_bootstrap_in_parts_is_the_same_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """All draws for ten thousand images at once would be 320 MB."""
    values = np.random.default_rng(0).normal(size=10_000)
    groups = [str(k) for k in range(10_000)]
    tracemalloc.start()
    whole = measures.bootstrap_mean(values, groups, "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    few = values[:100], groups[:100]
    found = []
    for drawn in (1, 1050, 10**9):
        monkeypatch.setattr(measures, "_DRAWN", drawn)
        found.append(measures.bootstrap_mean(*few, "x"))
    assert found[0] == found[1] == found[2]
    assert whole.lo < whole.mean < whole.hi


def test_bootstrap_covers_the_mean_of_groups() -> None:
    """Groups that share a value: the interval has the coverage of the groups, not of the images."""
    rng = np.random.default_rng(8)
    hits = 0
    groups = [str(i) for i in range(25) for _ in range(8)]
    values = np.zeros(200)
    for trial in range(200):
        values = np.repeat(rng.normal(size=25), 8)
        interval = measures.bootstrap_mean(values, groups, f"trial {trial}")
        hits += interval.lo <= 0 <= interval.hi
    assert 0.86 <= hits / 200 <= 0.985
    assert measures.bootstrap_mean(values, groups, "x") == measures.bootstrap_mean(values, groups, "x")


def test_few_groups_have_students_interval() -> None:
    """Five photographs: 95% must mean 95%, which a percentile bootstrap of five does not give."""
    rng = np.random.default_rng(3)
    groups = [str(i) for i in range(5) for _ in range(4)]
    hits = 0
    for trial in range(400):
        interval = measures.bootstrap_mean(np.repeat(rng.normal(size=5), 4), groups, f"{trial}")
        hits += interval.lo <= 0 <= interval.hi
    assert 0.92 <= hits / 400 <= 0.98
    assert np.isnan(measures.bootstrap_mean(np.ones(3), ["a"] * 3, "x").lo)


def test_violation_p_is_the_binomial_tail() -> None:
    """Population: alpha and .001 for each attack's interval. Deployed: alpha/2 and alpha/2 for each attack's draws."""
    assert measures.violation_p(0, 50, "population", "pointwise", 0.001, 2) == pytest.approx(1.0)
    assert measures.violation_p(1, 50, "population", "pointwise", 0.001, 2) == pytest.approx(1 - 0.997**50)
    assert measures.violation_p(1, 50, "deployed", "pointwise", 0.002, 1) == pytest.approx(1 - 0.998**50)
    assert measures.violation_p(1, 50, "deployed", "pointwise", 0.002, 4) == pytest.approx(1 - 0.995**50)
    assert measures.violation_p(1, 50, "population", "exact", 0.001, 2) == 0  # nothing random may explain it
    assert measures.violation_p(0, 50, "population", "exact", 0.001, 2) == 1
    assert np.isnan(measures.violation_p(0, 0, "population", "pointwise", 0.001, 0))


def test_certified_order_by_hand() -> None:
    lo, hi = np.array([0.0, 2.0, 2.5]), np.array([1.0, 3.0, 4.0])
    order = measures.certified_order(lo, hi, np.array([1.0, 2.0, 3.0]))
    assert order.pairs == pytest.approx(2 / 3)
    assert order.krocc == pytest.approx(2 * 2 / 3 - 1)
    assert order.srocc == pytest.approx((3 * (1 / 3) - 1) / 2)
    assert np.isnan(measures.certified_order(lo, hi, None).krocc)


@pytest.mark.parametrize("ties", [1, 2, 3])
@pytest.mark.parametrize("n", [4, 6, 7])
def test_order_bounds_hold_for_every_ranking_inside_the_bounds(n: int, ties: int) -> None:
    """Enumerate all rankings; those that respect the certified pairs never fall below the two lower bounds."""
    rng = np.random.default_rng(n)
    truth = np.floor(np.arange(n, dtype=float) / ties) * ties
    centre = truth + rng.normal(0, 0.8, n)
    lo, hi = centre - 0.9, centre + 0.9
    order = measures.certified_order(lo, hi, truth)
    fixed = [(i, j) for i in range(n) for j in range(n) if lo[i] > hi[j]]
    assert fixed
    taus, rhos = [], []
    for ranking in itertools.permutations(range(n)):
        if all(ranking[i] > ranking[j] for i, j in fixed):
            taus.append(kendalltau(ranking, truth)[0])
            rhos.append(spearmanr(ranking, truth)[0])
    assert min(taus) >= order.krocc - 1e-12
    assert min(rhos) >= order.srocc - 1e-12
