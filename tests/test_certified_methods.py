"""Every sampled method through its public face: closed forms, kinds, coverage over eps, advice, abstention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, load_attack
from robustiqa.bench import Metric, load_dataset, load_metric
from robustiqa.bench.certificates import Coverage
from robustiqa.bench.checks.coverage import simulate
from robustiqa.bench.checks.toys import SIGMA, TOYS, image_at
from robustiqa.bench.errors import BadParameter, BadPlugin, BadScore, Incompatible, UnknownName
from robustiqa.bench.seeds import Role, Streams, image_keys
from robustiqa.defenses import load_defense
from robustiqa.defenses.certified import smoothed
from robustiqa.defenses.certified.smoothed import Bounds, Smoothed
from robustiqa.defenses.certified.stats.means import betting
from scipy.stats import beta, norm

BY_NAME = {toy.name: toy for toy in TOYS}
EPS = (0.05, 0.12)
METHODS = {  # with enough draws that every bound is finite, and the width that more draws tend to, for sd s and shift t
    "median-smoothing[n=4000,m=501]": lambda s, t: 2 * s * t,
    "trimmed-mean-smoothing[n=4000,m=501]": lambda s, t: 2 * s * t,
    "l-estimator-smoothing[n=4000,m=501,weights=winsorised,trim=0.3]": lambda s, t: 2 * s * t,
    "l-estimator-smoothing[n=4000,m=501,weights=midhinge]": lambda s, t: 2 * s * t,
    "center-smoothing[n=4000,m=501]": lambda s, t: 4 * s * norm.ppf((1 + norm.cdf(t)) / 2),
    "cdf-mean-smoothing[n=4000,m=501]": lambda s, t: 2 * s * t + 9,  # the DKW margin in the far tails
    "cdf-mean-smoothing[n=4000,m=501,band=binomial]": lambda s, t: 2 * s * t,
    "mean-smoothing[n=4000,m=501]": lambda s, t: 100 * (norm.cdf(t) - norm.cdf(-t)),
}


def _certification(x: torch.Tensor) -> Streams:
    """The streams that `certify` draws from."""
    return Streams.create(image_keys(x), Role.CERTIFICATION)


def _toy(name: str, count: int = 2):
    toy = BY_NAME[name]
    u, c = np.linspace(-0.5, 0.5, count), np.zeros(count)
    return toy.metric(), image_at(u, c, 0), u


@pytest.mark.parametrize("text", list(METHODS))
def test_bounds_are_sound_and_near_the_theorems_width_on_the_linear_metric(text: str) -> None:
    """f = 50 + 5u, u ~ N(u0, 1): every one of these statistics moves by exactly 5 eps/sigma under the worst attack."""
    metric, x, u = _toy("linear")
    found = load_defense(text, metric).certify(x, EPS, alpha=0.001)
    assert found.deployed is not None
    for j, e in enumerate(EPS):
        shift = e / SIGMA
        for c in (found, found.deployed):
            assert np.all(c.hi[:, j] >= 50 + 5 * (u + shift))
            assert np.all(c.lo[:, j] <= 50 + 5 * (u - shift))
        width = (found.hi - found.lo)[:, j]
        assert np.all(width <= 1.1 * METHODS[text](5, shift) + 6)
        assert np.all((found.deployed.hi - found.deployed.lo)[:, j] > width)
    assert np.all(np.diff(found.hi, axis=1) >= 0)
    assert found.n == 4000


def test_median_dominates_the_other_estimators_of_the_same_draws() -> None:
    """On concentrated scores; the ranking of the method page's order check, and center smoothing behind the median."""
    metric, x, _ = _toy("linear", 8)
    width = {}
    for text in METHODS:
        c = load_defense(text.split("[")[0] + "[n=1000]", metric).certify(x, [0.05])
        width[text.split("[")[0]] = float(np.mean(c.hi - c.lo))
    median = width.pop("median-smoothing")
    assert median < min(width.values())
    assert width["trimmed-mean-smoothing"] < width["cdf-mean-smoothing"] < width["mean-smoothing"]
    assert width["center-smoothing"] > 2 * median


def test_mean_smoothing_is_tight_on_a_threshold() -> None:
    """f = 100 * 1[u > 0]: E f = 100 Phi(u0), and the bound is that of the interval's end, moved on Phi's scale."""
    metric, x, _ = _toy("threshold")
    g = load_defense("mean-smoothing[n=2000]", metric)
    c = g.certify(x, EPS)
    rng = _certification(x)  # the same draws again, by hand
    noisy = x + SIGMA * rng.normal(x, 2000)
    values = metric(noisy.flatten(0, 1)).reshape(2000, 2).T.double().numpy() / 100
    lo, hi = betting(values, 0.0005)
    assert np.allclose(c.hi, 100 * norm.cdf(norm.ppf(hi)[:, None] + np.array(EPS) / SIGMA))
    assert np.allclose(c.lo, 100 * norm.cdf(norm.ppf(lo)[:, None] - np.array(EPS) / SIGMA))


def test_clamped_metric_is_what_is_deployed() -> None:
    metric, x, _ = _toy("linear")
    g = load_defense("mean-smoothing[low=45,high=52,m=400]", metric)
    scores = g.estimate(x).score
    assert np.all((scores > 45) & (scores < 52))
    assert g.surrogate(x, _certification(x), 50).max() <= 52
    c = g.certify(x, [0.3])
    assert np.all(c.hi <= 52)
    assert np.all(c.lo >= 45)


@pytest.mark.parametrize("text", ["mean-smoothing", "cdf-mean-smoothing", "score-bins", "denoised-score-bins"])
def test_unknown_range_is_one_sentence(linear, text: str) -> None:
    with pytest.raises(BadParameter, match="low=0,high=100"):
        load_defense(text, linear)
    with pytest.raises(BadParameter, match="low < high"):
        load_defense(f"{text}[low=3,high=3]", linear)
    assert load_defense(text, load_metric("bounded")).certify(torch.rand(1, 3, 32, 32), [0.01]).hi.max() <= 1


# --- score bins ---------------------------------------------------------------------------------


def test_bins_follow_cohens_certify() -> None:
    """Radius sigma Phi^-1(p) with the one-sided Clopper-Pearson bound, from draws that did not choose the bin."""
    metric, x, _ = _toy("exp", 6)
    g = load_defense("score-bins[n0=50,n=800,bins=4,low=0,high=40]", metric)
    c = g.certify(x, np.linspace(0.001, 0.3, 60).tolist(), alpha=0.01)
    rng = _certification(x)
    scores = metric((x + SIGMA * rng.normal(x, 850)).flatten(0, 1)).reshape(850, 6).numpy()
    for i in range(6):
        bins = np.digitize(scores[:, i], [0, 10, 20, 30, 40])
        chosen = np.bincount(bins[:50], minlength=6).argmax()
        hits = int((bins[50:] == chosen).sum())
        lowest = beta.ppf(0.01, hits, 800 - hits + 1)
        radius = SIGMA * norm.ppf(lowest)
        assert c.abstained is not None
        assert c.abstained[i] == (lowest <= 0.5)
        for j, e in enumerate(c.eps):
            inside = (10.0 * (chosen - 1), 10.0 * chosen) if e < radius else (0.0, 40.0)
            assert (c.lo[i, j], c.hi[i, j]) == inside
    assert c.n == 850


def test_bins_cover_the_range_with_two_open_ends() -> None:
    g = load_defense("score-bins[bins=10,low=0,high=100]", BY_NAME["linear"].metric())
    values = np.array([[-5.0, 0.0, 9.99, 10.0, 99.9, 100.0, 100.1]])
    bins = [int(g.counts(values[:, [k]]).argmax()) for k in range(7)]  # type: ignore[operator]
    assert bins == [0, 1, 1, 2, 10, 10, 11]


def test_predict_abstains_where_two_bins_are_alike() -> None:
    metric, x, _ = _toy("threshold", 3)
    g = load_defense("score-bins[m=101]", metric)
    even = np.array([[5.0] * 50 + [95.0] * 51, [5.0] * 20 + [95.0] * 81])
    assert g.predict(even).tolist() == [-1, 10]  # type: ignore[operator]
    assert g.statistic(even).tolist() == [50.0, 95.0]  # type: ignore[operator]
    # u = -.5, 0, .5: the middle image is a coin flip, and is not certified at any radius.
    c = g.certify(x, [0.01])
    assert c.abstained is not None
    assert c.abstained.tolist() == [False, True, False]
    assert (c.lo[1, 0], c.hi[1, 0]) == (0, 100)


# --- coverage over eps, advice --------------------------------------------------------------------


def test_bonferroni_is_alpha_over_the_grid_and_dkw_holds_the_curve() -> None:
    metric, x, _ = _toy("linear")
    g = load_defense("median-smoothing[n=2000]", metric)
    grid = [0.02, 0.05, 0.08, 0.1]
    point, bonferroni, dkw = (g.certify(x, grid, 0.01, coverage=c) for c in ("pointwise", "bonferroni", "dkw"))
    assert (point.coverage, bonferroni.coverage, dkw.coverage) == ("pointwise", "bonferroni", "dkw")
    assert np.array_equal(bonferroni.hi, g.certify(x, grid, 0.0025).hi)
    assert np.all(dkw.hi > point.hi)
    one_eps = g.certify(x, grid[:1], 0.01, coverage="dkw")
    assert np.array_equal(one_eps.hi[:, 0], dkw.hi[:, 0])  # the curve does not depend on the grid
    with pytest.raises(BadParameter, match="bonferroni"):
        g.certify(x, grid, coverage="simultaneous")  # type: ignore[arg-type]


def test_simultaneous_curves_cover_all_eps_at_once() -> None:
    metric, trials = BY_NAME["linear"].metric(), 2500
    u = np.zeros(trials)
    x = image_at(u, u, 1)
    grid = np.linspace(0.01, 0.1, 10)
    g = load_defense("median-smoothing[n=200]", metric)
    coverages: list[Coverage] = ["pointwise", "bonferroni", "dkw"]
    failures = {}
    for name in coverages:
        c = g.certify(x, grid.tolist(), 0.05, coverage=name)
        failures[name] = int((c.hi < 50 + 5 * grid / SIGMA).any(1).sum() + (c.lo > 50 - 5 * grid / SIGMA).any(1).sum())
    assert max(failures["bonferroni"], failures["dkw"]) <= 0.05 * trials
    assert failures["pointwise"] > 1.3 * 0.05 * trials  # pointwise does not hold for the grid, and does not claim to


def test_methods_name_the_coverage_that_they_give() -> None:
    metric, x, _ = _toy("linear")
    given = {
        "mean-smoothing": "one interval", "score-bins": "one interval", "cdf-mean-smoothing": "dkw",
        "trimmed-mean-smoothing": "binomial band", "center-smoothing": "pointwise",
    }  # fmt: skip
    assert {name: load_defense(name, metric).certify(x, EPS).coverage for name in given} == given
    assert load_defense("center-smoothing", metric).certify(x, EPS, coverage="dkw").coverage == "bonferroni"


@pytest.mark.parametrize("name", ["median-smoothing", "center-smoothing", "trimmed-mean-smoothing"])
@pytest.mark.parametrize("coverage", ["pointwise", "bonferroni", "dkw"])
@pytest.mark.parametrize("kind", ["population", "deployed"])
def test_too_few_draws_say_how_many_would_do(name: str, coverage, kind: str) -> None:
    metric, x, _ = _toy("linear", 1)

    def certify(n: int):
        c = load_defense(f"{name}[n={n},m=101]", metric).certify(x, [0.02, 0.1], coverage=coverage)
        c = c if kind == "population" else c.deployed
        assert c is not None
        return c

    few = certify(10)
    assert np.isinf(few.hi[:, 1]).all()
    (note,) = (n for n in few.notes if n.startswith(kind))
    needed = int(note.split("n >= ")[1].split(" ")[0].replace(",", ""))
    assert np.isinf(certify(needed - 1).hi[:, 1]).all()
    enough = certify(needed)
    assert np.isfinite(enough.hi).all()
    assert not any("infinite" in n for n in enough.notes)


def test_a_range_that_is_left_is_an_error() -> None:
    metric = Metric(BY_NAME["linear"].metric().module, "liar", score_range=(0, 1), bounded=True)
    with pytest.raises(BadScore, match="declared bounded"):
        load_defense("median-smoothing[n=50]", metric).certify(_toy("linear")[1], [0.05])


def test_constant_metric_and_foreign_noise_level_are_noted(images) -> None:
    metric = load_metric("linear[scale=0.0]")
    c = load_defense("denoised-median-smoothing[sigma=0.3,n=50]", metric).certify(images, [0.05])
    assert any("constant" in note for note in c.notes)
    assert any("trained for sigma 0.25" in note for note in c.notes)
    assert np.array_equal(c.lo, c.hi)


def test_any_denoiser_can_be_named(linear, images) -> None:
    g = load_defense("median-smoothing[n=50,denoiser=box]", linear)
    noisy = images + 0.12 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    expected = linear(torch.nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False))
    assert torch.equal(g.base_score(noisy), expected)  # type: ignore[operator]
    other = load_defense("trimmed-mean-smoothing[sigma=0.25,n=500,denoiser=box]", linear).certify(images, [0.05])
    assert any("'box' was trained for sigma 0.12" in note for note in other.notes)
    for name, word in (("shrink", "same shape"), ("batch-mean", "on its own"), ("noisy", "without randomness")):
        with pytest.raises(BadPlugin, match=word):
            load_defense(f"median-smoothing[denoiser={name}]", linear)
    with pytest.raises(BadPlugin, match="float"):
        load_defense("median-smoothing[denoiser=no-network]", linear)
    with pytest.raises(UnknownName, match="did you mean 'light-s0\\.12'"):
        load_defense("median-smoothing[denoiser=ligth-s0.12]", linear)


def test_bounds_of_a_wrong_shape_are_one_sentence(images, monkeypatch) -> None:
    g = load_defense("median-smoothing[n=50]", load_metric("linear"))
    monkeypatch.setattr(type(g), "bounds", lambda self, draws, ask: Bounds(np.zeros(3), np.ones(3), "pointwise"))
    with pytest.raises(BadPlugin, match="expected"):
        g.certify(images, [0.05, 0.1])


def test_diffusion_beyond_its_training_is_noted(images) -> None:
    c = load_defense("diffusion-denoised-median-smoothing[sigma=0.5,n=20]", load_metric("linear")).certify(
        images, [0.01]
    )
    assert any("trained for sigma 0.03 to 0.3" in note for note in c.notes)


# --- decisions ------------------------------------------------------------------------------------


def test_decisions_agree_with_the_truth_and_cost_little() -> None:
    metric, x, _ = _toy("linear", 40)
    g = load_defense("median-smoothing[n=2000]", metric)
    true_shift = 5 * 0.05 / SIGMA  # 2.08
    easy, hard, wrong = (g.decide(x, 0.05, tau, alpha=0.01) for tau in (10.0, true_shift + 0.02, true_shift - 1.5))
    assert easy.certified.all()
    assert easy.draws.mean() < 120
    assert not wrong.certified.any()
    assert wrong.refuted.all()
    assert hard.draws.mean() > 5 * easy.draws.mean()
    strict = g.decide(x, 0.05, 10.0, alpha=0.01, kind="deployed")
    assert strict.certified.all()
    assert strict.draws.mean() > easy.draws.mean()


def test_false_decisions_are_rarer_than_alpha() -> None:
    """tau just below the truth of the pilot's centre: certified at most alpha of the time."""
    metric, trials, alpha = BY_NAME["linear"].metric(), 4000, 0.05
    u = np.zeros(trials)
    g = load_defense("median-smoothing[n=48]", metric)
    found = g.decide(image_at(u, u, 2), 0.05, 5.0, alpha=alpha)
    shift = 5 * 0.05 / SIGMA
    false = found.certified & ((50 + shift > found.centre + 5.0) | (50 - shift < found.centre - 5.0))
    at_edge = np.abs(np.abs(found.centre - 50) - (5.0 - shift)) < 0.5
    assert at_edge.sum() > 50  # the case occurs
    assert false.sum() <= alpha * trials


def test_pilot_decision_and_certification_draws_are_disjoint(linear, images, monkeypatch) -> None:
    drawn = []
    sample = smoothed.certification_scores
    monkeypatch.setattr(smoothed, "certification_scores", lambda *a, **k: drawn.append(sample(*a, **k)) or drawn[-1])
    g = load_defense("median-smoothing[n=64]", linear)
    assert isinstance(g, Smoothed)
    g.decide(images, 0.05, 100.0)
    pool = sample(g.base_score, g.noise(images, image_keys(images), 0), 0.12, 64)
    values = np.concatenate([d.ravel() for d in [*drawn, pool]])
    assert len(np.unique(values)) == len(values)


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_tau_must_be_a_shift(linear, images, tau: float) -> None:
    with pytest.raises(BadParameter, match="tau"):
        load_defense("median-smoothing", linear).decide(images, 0.05, tau)


@pytest.mark.slow
def test_decisions_on_photographs_take_a_fifth_of_the_fixed_draws() -> None:
    """tiny-iqa on `photos`, eps .05, alpha .001, tau 4 % of its range; every decision as with n = 1000."""
    dataset = load_dataset("photos[size=128,subset=quick]")
    x = torch.stack([dataset.load(i) for i in range(len(dataset))])
    g = load_defense("median-smoothing[n=1000]", load_metric("tiny-iqa"))
    early, fixed = g.decide(x, 0.05, 3.0), g.certify(x, [0.05])
    assert early.certified.tolist() == (fixed.delta[:, 0] <= 3.0).tolist()
    assert early.draws.mean() <= 1000 / 5


# --- the negative control -------------------------------------------------------------------------


def test_fixed_noise_is_not_certified_and_an_attack_breaks_the_bound_that_it_seems_to_have() -> None:
    """A wave of high frequency: its median under noise is certified to stay; with the noise known it goes anywhere."""
    metric = load_metric("wave")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 0.6 + 0.2
    fixed = load_defense("fixed-noise-median-smoothing[m=5]", metric)
    with pytest.raises(Incompatible, match="no certificate"):
        fixed.certify(x, [0.1])
    honest = load_defense("median-smoothing[n=4000,m=501]", metric)
    bound = honest.certify(x, [0.1])
    broken = load_attack("pgd[steps=40,restarts=3]")(fixed, x, L2(0.1))
    assert np.all(broken.l2 <= 0.1)
    assert np.all(broken.attacked.score > bound.hi[:, 0] + 0.1)
    kept = load_attack("eot-pgd")(honest, x, L2(0.1))
    assert np.all(kept.attacked.lo <= bound.hi[:, 0])


def test_known_noise_breaks_the_bound_of_the_embedded_metric() -> None:
    """tiny-iqa: clean scores under fixed noise lie in the certificate of the exact median, attacked ones outside."""
    dataset = load_dataset("photos[size=128,subset=quick]")
    x = torch.stack([dataset.load(i) for i in (0, 24)])
    metric = load_metric("tiny-iqa")
    bound = load_defense("median-smoothing[n=1000]", metric).certify(x, [0.12])
    result = load_attack("pgd[steps=20]")(load_defense("fixed-noise-median-smoothing", metric), x, L2(0.12))
    assert np.all((result.clean.score >= bound.lo[:, 0]) & (result.clean.score <= bound.hi[:, 0]))
    assert np.all(result.attacked.score > bound.hi[:, 0])


@pytest.mark.parametrize(("text", "word"), [
    ("mean-smoothing[interval=chebyshev]", "interval"),
    ("cdf-mean-smoothing[band=dwk]", "dkw"),
    ("trimmed-mean-smoothing[trim=0.5]", "trim"),
    ("l-estimator-smoothing[weights=mean]", "trimean"),
    ("score-bins[bins=0]", "bins"),
    ("score-bins[n0=0]", "n0"),
    ("score-bins[n0=100000000000]", "n0"),
    ("score-bins[bins=100000000]", "bins"),
    ("center-smoothing[n=4]", "at least 5"),
    ("fixed-noise-median-smoothing[m=0]", "m >= 1"),
    ("center-smoothing[sigma=-0.1]", "sigma"),
    ("mean-smoothing[sigma=nan]", "sigma"),
    ("trimmed-mean-smoothing[m=0]", "draws"),
])  # fmt: skip
def test_bad_parameters_are_one_sentence(text: str, word: str) -> None:
    with pytest.raises((BadParameter, UnknownName), match=word):
        load_defense(text, load_metric("bounded"))


@pytest.mark.parametrize("text", ["median-smoothing[n=60,m=11]", "mean-smoothing[n=60,m=11]", "score-bins[n=60,m=25]"])
def test_simulation_of_a_sound_method_finds_nothing(text: str) -> None:
    for name in ("linear", "threshold", "mixture"):
        coverage, independence = simulate(text, BY_NAME[name], 800)
        assert min(c.p for c in coverage) > 1e-4
        assert not any(i.broken for i in independence)
