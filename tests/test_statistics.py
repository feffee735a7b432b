"""Statistics of rankings against scipy, closed forms, and simulations in which the truth is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from robustiqa.bench.measures import bootstrap_mean
from robustiqa.leaderboard.statistics import agreement, holm, places, rank_intervals, sign_flip_p

stats: Any = scipy.stats


def names(count: int, each: int = 1) -> list[str]:
    return [f"photo-{i // each:04d}" for i in range(count)]


def test_sign_flips_are_those_of_scipy() -> None:
    """All patterns: scipy's paired permutation test of the mean flips signs, too."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.4, 1, 9), rng.normal(0, 1, 9)
    found = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(a - b, names(9), "t") == pytest.approx(found.pvalue, abs=1e-12)


def test_random_sign_flips_come_near_the_t_test() -> None:
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.15, 0.3):
        d = rng.normal(shift, 1, 200)
        assert sign_flip_p(d, names(200), "t") == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.02)


def test_versions_of_a_photograph_flip_together() -> None:
    """Copies of an image are no more evidence than the image; a missing pair is left out."""
    d = np.array([1.0, 2.0, 0.5, 3.0, -0.1])
    alone = sign_flip_p(d, names(5), "t")
    assert sign_flip_p(np.repeat(d, 4), names(20, each=4), "t") == alone == 4 / 32
    assert sign_flip_p(np.array([*d, np.nan]), names(6), "t") == alone
    assert sign_flip_p(np.ones(5), names(5), "t") == 2 / 32
    assert sign_flip_p(np.zeros(30), names(30), "t") == 1.0
    assert np.isnan(sign_flip_p(np.full(3, np.nan), names(3), "t"))


def test_sums_in_another_order_are_the_same_sum() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in binary: rounding must not decide a tie of patterns."""
    assert sign_flip_p(np.array([0.1, 0.2, -0.3]), names(3), "t") == 1.0


def test_holm_is_the_stepwise_procedure() -> None:
    """Against its definition: the smallest times m, the next times m - 1, and no adjusted one below an earlier one."""
    p = [0.01, 0.04, 0.03, 0.005, 0.9]
    assert holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([np.nan, 0.02, np.nan]) == pytest.approx([np.nan, 0.02, np.nan], nan_ok=True)
    assert len(holm([])) == 0


def test_places_are_competition_ranks_of_what_is_printed() -> None:
    assert places([0.3, 0.1, 0.3, 0.2]).tolist() == [3, 1, 3, 2]
    assert places([0.12345671, 0.12345674]).tolist() == [1, 1]
    assert places([0.1234561, 0.1234569]).tolist() == [1, 2]


def test_rank_intervals_of_two_are_the_paired_t_test() -> None:
    """Two entrants and few groups: the interval is one place exactly where the t-test rejects."""
    rng = np.random.default_rng(3)
    for shift in np.linspace(0, 1.5, 16):
        values = np.stack([rng.normal(0, 1, 12), rng.normal(shift, 1, 12)], axis=1)
        found = rank_intervals(values, names(12), "t")
        sure = stats.ttest_1samp(values[:, 0] - values[:, 1], 0).pvalue < 0.05
        assert (found.lo == found.hi).all() == sure
        assert (found.lo <= found.rank).all()
        assert (found.rank <= found.hi).all()


def test_rank_intervals_with_nothing_to_go_by_are_all_places() -> None:
    rng = np.random.default_rng(4)
    one = rank_intervals(rng.normal(size=(6, 3)), ["a"] * 6, "t")
    assert (one.lo.tolist(), one.hi.tolist()) == ([1, 1, 1], [3, 3, 3])
    same = rank_intervals(np.repeat(rng.normal(size=(30, 1)), 3, axis=1), names(30), "t")
    assert (same.rank.tolist(), same.lo.tolist(), same.hi.tolist()) == ([1, 1, 1], [1, 1, 1], [3, 3, 3])
    alone = rank_intervals(rng.normal(size=(6, 1)), names(6), "t")
    assert (alone.rank.tolist(), alone.lo.tolist(), alone.hi.tolist()) == ([1], [1], [1])


def test_missing_images_are_left_out_of_their_pairs_only() -> None:
    """B lacks the images that are hard for all: on common images it is last, whatever its mean says."""
    rng = np.random.default_rng(5)
    hardness = np.repeat([0.0, 10.0], 30)
    values = np.stack([hardness + rng.normal(k, 0.1, 60) for k in (0.0, 2.0, 1.0)], axis=1)
    values[30:, 1] = np.nan
    assert np.nanmean(values, axis=0)[1] < np.nanmean(values, axis=0)[0]
    found = rank_intervals(values, names(60), "t")
    assert (found.lo.tolist(), found.hi.tolist()) == ([1, 3, 2], [1, 3, 2])
    with pytest.raises(ValueError, match="without results"):
        rank_intervals(np.full((4, 2), np.nan), names(4), "t")


@pytest.mark.parametrize(("groups", "each", "skewed"), [(8, 3, False), (25, 1, False), (60, 2, True)])
def test_rank_intervals_cover_the_true_places(groups: int, each: int, skewed: bool) -> None:
    """Six entrants, two of them truly equal, images that share a photograph's difficulty: 95 % an entrant at least.

    With 200 simulations of a promise of .95 the standard error is .015; .915 is more than two below.
    """
    truth = np.array([0.0, 0.3, 0.3, 0.6, 0.7, 1.5])
    first = np.array([1, 2, 2, 4, 5, 6])
    last = np.array([1, 3, 3, 4, 5, 6])
    rng = np.random.default_rng(groups)
    inside, width = np.zeros(6), 0.0
    for k in range(200):
        draw = rng.standard_exponential if skewed else rng.standard_normal
        photo = np.repeat(draw((groups, 6)) - skewed, each, axis=0)
        values = truth + photo + rng.normal(0, 0.5, (groups * each, 6)) + rng.normal(0, 2, (groups * each, 1))
        found = rank_intervals(values, names(groups * each, each), f"{k}")
        inside += (found.lo <= first) & (last <= found.hi)
        width += float((found.hi - found.lo).mean()) / 200
    assert (inside / 200).min() > 0.915
    assert width < 4.9  # all places would be 5


def test_neighbour_tests_keep_the_familys_error() -> None:
    """Neighbours are chosen by the data; with all entrants equal, or equal in pairs, false alarms stay below .05."""
    rng = np.random.default_rng(7)
    for truth in (np.zeros(5), np.array([0.0, 0.0, 1.0, 1.0, 3.0])):
        false = 0
        for k in range(200):
            values = truth + rng.normal(0, 1, (30, 5)) * np.array([0.5, 1, 1, 2, 1])
            order = np.argsort(values.mean(axis=0))
            pairs = list(itertools.pairwise(order))
            p = holm([sign_flip_p(values[:, a] - values[:, b], names(30), f"{k}{a}{b}") for a, b in pairs])
            false += any(q < 0.05 and truth[a] == truth[b] for q, (a, b) in zip(p, pairs, strict=True))
        assert false / 200 < 0.05 + 2 * 0.0155


@pytest.mark.parametrize(("groups", "least"), [(5, 0.9), (19, 0.9), (30, 0.9), (100, 0.92)])
def test_bootstrap_intervals_cover_the_mean(groups: int, least: float) -> None:
    """Gains are skewed, and versions of a photograph go together: what a promise of .95 is worth there."""
    rng = np.random.default_rng(groups)
    inside = 0
    for k in range(300):
        photo = np.repeat(rng.gamma(2.0, 0.5, groups), 3)
        values = photo + rng.normal(0, 0.3, 3 * groups)
        found = bootstrap_mean(values, names(3 * groups, 3), f"{k}")
        inside += found.lo <= 1.0 <= found.hi
    assert inside / 300 > least


def test_concordance_is_friedmans_statistic() -> None:
    """W = chi2 / (M (E - 1)), with ties corrected for; and for two rankings (rho + 1) / 2."""
    rng = np.random.default_rng(8)
    for tied in (False, True):
        values = rng.normal(size=(4, 7)) + np.arange(7)
        values = np.round(values) if tied else values
        expected = stats.friedmanchisquare(*values.T).statistic / (4 * 6)
        found = agreement(values, "t")
        assert found.w == pytest.approx(expected, rel=1e-12)
        taus = [stats.kendalltau(values[i], values[j])[0] for i, j in itertools.combinations(range(4), 2)]
        assert (found.tau_mean, found.tau_min) == pytest.approx((np.mean(taus), min(taus)))
    two = rng.normal(size=(2, 9))
    rho = stats.spearmanr(*two).statistic
    assert agreement(two, "t").w == pytest.approx((rho + 1) / 2)


def test_agreement_of_the_same_order_and_of_none() -> None:
    same = agreement(np.tile(np.arange(6.0), (3, 1)), "t")
    assert (same.w, same.tau_mean, same.tau_min) == pytest.approx((1, 1, 1))
    assert same.p < 0.001
    rng = np.random.default_rng(9)
    p = [agreement(rng.normal(size=(3, 5)), f"{k}").p for k in range(60)]
    assert 0.3 < float(np.mean(p)) < 0.7
    for values in (np.zeros((2, 4)), np.ones((1, 4)), np.eye(2)):
        assert np.isnan(agreement(values, "t")).all()


def test_the_same_label_gives_the_same_figures() -> None:
    rng = np.random.default_rng(10)
    d, values = rng.normal(0.1, 1, 50), rng.normal(size=(3, 6))
    assert sign_flip_p(d, names(50), "a") == sign_flip_p(d, names(50), "a")
    assert agreement(values, "a") == agreement(values, "a")
