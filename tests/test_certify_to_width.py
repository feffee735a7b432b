"""Certificates of a width that is asked for: sound though the pilot chooses n, thrifty, within the total, honest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.bench import Metric
from robustiqa.bench.checks.toys import SIGMA, TOYS, image_at
from robustiqa.bench.errors import BadParameter, BadScore, Incompatible
from robustiqa.bench.metrics import load_metric
from robustiqa.bench.seeds import Role, Streams, image_keys
from robustiqa.defenses import load_defense
from robustiqa.defenses.certified import allocate, foresee, smoothed
from robustiqa.defenses.certified.engine import sample_scores
from robustiqa.defenses.certified.shapes import Question
from robustiqa.defenses.certified.smoothed import Smoothed
from robustiqa.defenses.certified.stats.order import lower_index, quantile_bounds, shifted_levels, upper_index
from scipy.stats import binomtest, norm

LINEAR = TOYS[0]
"""50 + 5u."""

EPS = 0.05
SHIFT = EPS / SIGMA
SPREADS = 1.25 * 4 ** (np.arange(7) / 6)
"""From 1.25 to 5."""


class _Graded(torch.nn.Module):
    """50 + spread * <w, x> / sigma, the spread of the image's brightness .2, .3, ..., .8, rounded.

    |w| = 1, and no brightness in it. Noise of .12 moves the brightness of 192 values by .009, so that the next spread
    is 5.8 standard deviations away: under noise the score is Gaussian with the spread of its image, and the most that
    eps moves its median by is spread * eps / sigma.
    """

    def __init__(self) -> None:
        super().__init__()
        w = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3))
        self.register_buffer("w", (w - w.mean()) / (w - w.mean()).norm())
        self.register_buffer("spreads", torch.from_numpy(SPREADS).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = (10 * x.mean((1, 2, 3))).round().long().clamp(2, 8) - 2
        return 50 + self.get_buffer("spreads")[level] * (x * self.get_buffer("w")).sum((1, 2, 3)) / SIGMA


def _images(levels: np.ndarray | list[int]) -> tuple[torch.Tensor, np.ndarray]:
    """Images of score 50 with these levels of brightness, all different, and their spreads."""
    rest = 0.02 * torch.randn((len(levels), 3, 8, 8), generator=torch.Generator().manual_seed(0))
    w = _Graded().get_buffer("w")
    rest -= rest.mean((1, 2, 3), keepdim=True)
    rest -= (rest * w).sum((1, 2, 3), keepdim=True) * w
    return (torch.tensor(levels)[:, None, None, None] + 2) / 10 + rest, SPREADS[levels]


def _median(text: str = ""):
    return load_defense(f"median-smoothing{text}", Metric(_Graded(), "graded"))


# --- what the certificates are worth --------------------------------------------------------------


def test_certificates_hold_though_the_pilot_chooses_their_draws() -> None:
    """2401 certificates at alpha .05: the medians under the worst attacks up and down leave as many as they may."""
    x, spread = _images(np.arange(2401) % 7)
    found = _median().certify_to_width(x, [EPS], 7.0, alpha=0.05, total=2401 * 1000)
    assert len(np.unique(found.n)) > 5  # the pilot does choose
    failed = (found.hi[:, 0] < 50 + spread * SHIFT) | (found.lo[:, 0] > 50 - spread * SHIFT)
    assert binomtest(int(failed.sum()), 2401, 0.05, alternative="greater").pvalue > 1e-3
    assert failed.mean() > 0.01  # a conservative bound would hide a slip
    # Where the pilot saw little spread and gave few draws, no more fail.
    widest = spread == SPREADS[-1]
    few = widest & (found.n < np.median(found.n[widest]))
    assert binomtest(int(failed[few].sum()), int(few.sum()), 0.05, alternative="greater").pvalue > 1e-3


def test_stopping_when_the_interval_is_narrow_does_not_hold() -> None:
    """What the pilot is there for: the same numbers of draws, of the same bound, stopped by a look at the draws."""
    trials, alpha = 4000, 0.05
    draws = np.random.default_rng(5).standard_normal((trials, 256))
    low, high = shifted_levels([EPS], SIGMA)
    failed, left = np.zeros(trials, dtype=bool), np.ones(trials, dtype=bool)
    numbers = allocate._numbers(16, 256)
    for n in numbers:
        lo, hi = quantile_bounds(np.sort(draws[:, :n], axis=1), low, high, alpha)
        stop = left & ((hi - lo)[:, 0] <= 1.4) if n < numbers[-1] else left
        failed[stop] = ((hi[:, 0] < SHIFT) | (lo[:, 0] > -SHIFT))[stop]
        left = left & ~stop
    assert binomtest(int(failed.sum()), trials, alpha, alternative="greater").pvalue < 1e-6


def test_pilot_certificate_and_decision_never_share_a_draw(linear, images, monkeypatch) -> None:
    drawn: list[np.ndarray] = []
    sample = smoothed.certification_scores

    def recorded(*a, **k) -> np.ndarray:
        drawn.append(sample(*a, **k))
        return drawn[-1]

    monkeypatch.setattr(smoothed, "certification_scores", recorded)
    g = load_defense("median-smoothing[n=400]", linear)
    found = g.certify_to_width(images, [0.05], 0.15)
    assert found.n.all()
    assert sum(d.size for d in drawn) == found.draws.sum()
    g.decide(images, 0.05, 100.0)
    values = np.concatenate([d.ravel() for d in drawn])
    assert len(np.unique(values)) == len(values)


def test_each_certificate_is_the_one_that_its_n_gives() -> None:
    x, _ = _images([0, 6, 3, 0, 1, 6])
    found = _median().certify_to_width(x, [0.02, EPS], 7.0, total=6 * 2000)
    for images, c in found.groups:
        plain = _median(f"[n={c.n}]").certify(x[images.tolist()], [0.02, EPS])
        assert np.allclose(c.lo, plain.lo)
        assert np.allclose(found.hi[images], plain.hi)
        assert c.deployed is not None
        assert c.deployed.n == c.n
    frame = found.to_frame()
    assert frame["image"].tolist() == np.repeat(range(6), 4).tolist()
    assert frame.groupby("image")["n"].first().tolist() == found.n.tolist()
    assert (frame.groupby("image")["pilot"].first() == found.pilot).all()


# --- what they cost -------------------------------------------------------------------------------


def test_draws_go_where_the_spread_is() -> None:
    """Spreads from 1.25 to 5, against one n for all that is as narrow at the widest image."""
    x, spread = _images(np.arange(42) % 7)
    g = _median()
    assert isinstance(g, Smoothed)
    found = g.certify_to_width(x, [EPS], 5.6, total=42 * 4000, assurance=0.99)
    widest = (found.hi - found.lo).max()
    draws = sample_scores(g.base_score, x, SIGMA, 3000, Streams.create(image_keys(x), Role.CERTIFICATION))
    low, high = shifted_levels([EPS], SIGMA)
    uniform = (quantile_bounds(np.sort(draws[:, :n], axis=1), low, high, 0.001) for n in range(100, 3000, 50))
    n = 100 + 50 * next(i for i, (lo, hi) in enumerate(uniform) if (hi - lo).max() <= widest)
    saved = 1 - found.draws.sum() / (42 * n)
    print(f"widest {widest:.2f}: {42 * n:,} draws with one n, {found.draws.sum():,} allotted, {saved:.0%} saved")
    assert saved > 0.25
    assert found.aim == found.width
    assert found.reached.mean() > 0.9
    assert found.n[spread == SPREADS[0]].mean() < 60 < 1000 < found.n[spread == SPREADS[-1]].mean()


def test_assurance_is_the_share_of_images_that_reach_the_width() -> None:
    x, _ = _images([6] * 80)
    for assurance in (0.5, 0.9):
        found = _median().certify_to_width(x, [EPS], 7.5, total=80 * 2000, assurance=assurance)
        assert found.reached.mean() == pytest.approx(assurance, abs=0.15)


@pytest.mark.parametrize(("kind", "width"), [("population", 4.6), ("deployed", 17.0)])
def test_a_total_that_is_too_small_buys_the_smallest_common_width(kind, width: float) -> None:
    x, spread = _images([0, 6] * 5)
    narrow, wide = spread == SPREADS[0], spread == SPREADS[-1]
    aims = []
    for each in (200, 500):
        found = _median("[m=21]").certify_to_width(x, [EPS], width, total=10 * each, kind=kind)
        assert found.draws.sum() <= 10 * each
        assert found.draws.sum() > 0.8 * 10 * each
        assert found.n[wide].mean() > 1.5 * found.n[narrow].mean()
        assert any("draws were allowed" in note for note in found.notes)
        aims.append(found.aim)
    assert aims[0] > aims[1] > width
    capped = _median("[m=21]").certify_to_width(x, [EPS], width, total=10 * 500, most=200, kind=kind)
    assert capped.n.max() == 200


def test_a_width_below_what_any_number_of_draws_gives_is_told() -> None:
    """The population's width is 2 * spread * eps / sigma = 4.17 and 1.04: 3 can be had for the second alone."""
    x, spread = _images([0, 6] * 10)
    wide = spread == SPREADS[-1]
    found = _median().certify_to_width(x, [EPS], 3.0, total=20 * 2000)
    assert found.out_of_reach.tolist() == wide.tolist()
    assert (found.n[found.out_of_reach] == 0).all()
    assert found.pilot[found.out_of_reach].mean() < 150
    assert np.isinf(found.wanted[found.out_of_reach]).all()
    assert np.median(found.least[found.out_of_reach]) == pytest.approx(2 * SPREADS[-1] * SHIFT, rel=0.2)
    assert np.isinf(found.hi[found.out_of_reach]).all()
    assert found.reached.tolist() == (~wide).tolist()
    assert sum("out of reach" in note for note in found.notes) == 10
    nothing = _median().certify_to_width(x[:4], [EPS], 0.5)
    assert nothing.groups == ()
    assert nothing.to_frame().empty


def test_draws_do_not_depend_on_the_other_images() -> None:
    x, _ = _images([0, 3, 6, 4, 2, 6, 0, 5])
    together = _median("[n=3000]").certify_to_width(x, [EPS], 7.0)
    for part in ([0], [3], [7, 2, 4]):
        alone = _median("[n=3000]").certify_to_width(x[part], [EPS], 7.0)
        assert alone.draws.tolist() == together.draws[part].tolist()
        assert np.allclose(alone.lo, together.lo[part], rtol=1e-6)
        assert np.allclose(alone.hi, together.hi[part], rtol=1e-6)


# --- the forecast ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [60, 1000, 100_000])
def test_forecast_of_a_gaussian_is_its_closed_form(n: int) -> None:
    """Draws that lie exactly at normal scores: the width is that of the two order statistics' normal scores."""
    draws = 50 + 5 * foresee.normal_scores(100)[None]
    table = foresee.tabulated(draws)
    assert np.allclose(table, 50 + 5 * foresee.KNOTS)
    g = load_defense("median-smoothing", LINEAR.metric())
    assert isinstance(g, Smoothed)
    ask = Question(np.array([EPS]), 0.001, False, "pointwise")
    low, high = shifted_levels([EPS], SIGMA)
    index = np.concatenate([lower_index(n, low, 0.0005), upper_index(n, high, 0.0005)])
    ends = norm.ppf((index - 0.375) / (n + 0.25))
    assert foresee.width_of(g, ask, table, n)[0] == pytest.approx(5 * np.diff(ends)[0], rel=1e-3)
    assert foresee.tabulated(draws, tail=False).max() == pytest.approx(50 + 5 * norm.ppf(0.95))


@pytest.mark.parametrize(("text", "width"), [
    ("median-smoothing", 7.0),
    ("trimmed-mean-smoothing", 8.0),
    ("l-estimator-smoothing", 8.0),
    ("cdf-mean-smoothing[band=binomial]", 12.0),
])  # fmt: skip
def test_forecast_is_what_the_certificate_then_is(text: str, width: float) -> None:
    for toy in (LINEAR, TOYS[1]):  # Gaussian, and skewed
        g = load_defense(text, toy.metric())
        x = image_at(np.zeros(6), np.zeros(6), 1)
        found = g.certify_to_width(x, [EPS], width, total=6 * 2000)
        assert found.foreseen.mean() == pytest.approx((found.hi - found.lo).mean(), rel=0.12)
        assert found.reached.mean() >= 0.5


def test_what_rests_on_the_tail_is_told() -> None:
    """At eps = 2.5 sigma the bound lies where a pilot of 200 has no draws; at eps .4 sigma it does not."""
    x = image_at(np.zeros(4), np.zeros(4), 0)
    near, far = (
        load_defense("median-smoothing[n=20000]", LINEAR.metric()).certify_to_width(x, [e], w)
        for e, w in ((EPS, 7.0), (2.5 * SIGMA, 40.0))
    )
    assert not near.extrapolated.any()
    assert far.extrapolated.all()
    assert np.isfinite(far.hi).all()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["mean-smoothing", "score-bins", "center-smoothing"])
def test_methods_whose_width_does_not_follow_from_n_are_refused(text: str) -> None:
    x, _ = _images([0, 6])
    with pytest.raises(Incompatible, match="width follows from the number of draws"):
        load_defense(text, LINEAR.metric()).certify_to_width(x, [EPS], 5.0)


@pytest.mark.parametrize(("options", "word"), [
    ({"width": 0.0}, "width"),
    ({"width": float("nan")}, "width"),
    ({"total": 199}, "too few"),
    ({"most": 0}, "most"),
    ({"assurance": 0.3}, "assurance"),
    ({"assurance": 1.0}, "assurance"),
    ({"kind": "exact"}, "population or deployed"),
    ({"eps": []}, "at least one budget"),
    ({"alpha": 0.0}, "alpha"),
])  # fmt: skip
def test_bad_arguments_are_one_sentence(options, word: str) -> None:
    x, _ = _images([0, 6])
    with pytest.raises(BadParameter, match=word):
        _median().certify_to_width(x, **({"eps": [EPS], "width": 5.0} | options))


def test_a_bad_score_in_the_pilot_is_an_error(images) -> None:
    metric = load_metric("linear")
    inner = metric.module.forward
    metric.module.forward = lambda x: torch.where(torch.arange(len(x)) == 17, torch.nan, inner(x))  # type: ignore
    with pytest.raises(BadScore, match="NaN"):
        load_defense("median-smoothing", metric).certify_to_width(images, [0.05], 1.0)


def test_a_pool_serves_both_kinds_of_question(linear, images, tmp_path) -> None:
    g = load_defense("median-smoothing[n=400]", linear)
    found = g.certify_to_width(images, [0.05], 0.15, pool=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(images)
    g.certify(images, [0.05], pool=tmp_path)
    assert sorted(tmp_path.iterdir()) == files
    again = g.certify_to_width(images, [0.05], 0.15, pool=tmp_path)
    assert np.array_equal(again.lo, found.lo)


def test_progress_counts_the_certification_draws(linear, images) -> None:
    calls: list[tuple[int, int]] = []
    g = load_defense("median-smoothing[n=400]", linear)
    found = g.certify_to_width(images, [0.05], 0.15, progress=lambda n, of: calls.append((n, of)))
    assert calls[-1] == (found.n.sum(), found.n.sum())
    assert [n for n, _ in calls] == sorted(n for n, _ in calls)
