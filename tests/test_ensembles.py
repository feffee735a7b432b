"""Ensembles of metrics: maps against closed forms and scipy, combinations against numpy, draws from streams alone."""

from __future__ import annotations

import subprocess
import sys
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.bench import Metric, calibration, load_dataset, load_metric, register_metric
from robustiqa.bench.align import MAPS, STEEPEST, MonotoneMap, isotonic_map, quantile_map
from robustiqa.bench.checks.probes import _Planted, planted_pattern, probe
from robustiqa.bench.errors import Absent, BadImage, BadParameter, BadScore, UnknownName
from robustiqa.bench.images import save_png
from robustiqa.bench.registry import _content, identity_of, registry
from robustiqa.bench.seeds import Role, Streams
from robustiqa.defenses import load_defense
from robustiqa.defenses.ensembles.ensemble import Ensemble
from robustiqa.defenses.ensembles.random_metric import RandomMetric
from scipy.stats import chisquare, trim_mean

HERE = Path(__file__).parent
NOISE = "calibration=noise[count=40]"
TWIN = "linear-dmos[scale=-1.0,offset=-3.0]"
FIVE = "linear[scale=2.0];linear[offset=1.0];linear[scale=-1.0,offset=3.2];bounded"


@pytest.fixture(scope="module", autouse=True)
def noise() -> None:
    """The data set in memory."""
    registry.load_file(HERE / "plugins" / "tiny_bench.py")


def streams(x: torch.Tensor, seed: int = 0) -> Streams:
    return Streams.create([str(i) for i in range(len(x))], Role.EVALUATION, seed)


def at(f: MonotoneMap, values: object) -> np.ndarray:
    return f(torch.as_tensor(values, dtype=torch.float64)).numpy()


def ensemble(text: str, metric: Metric) -> Ensemble:
    g = load_defense(f"ensemble[{text}]", metric)
    assert isinstance(g, Ensemble)
    return g


def drawn(text: str, metric: Metric) -> RandomMetric:
    g = load_defense(f"random-metric[{text}]", metric)
    assert isinstance(g, RandomMetric)
    return g


# Maps


def test_a_map_is_linear_between_its_knots_and_goes_on_beyond_them() -> None:
    f = MonotoneMap(np.array([0.0, 1.0, 3.0]), np.array([10.0, 12.0, 13.0]))
    assert at(f, [-2.0, 0.0, 0.5, 1.0, 2.0, 3.0, 7.0]).tolist() == [6.0, 10.0, 11.0, 12.0, 12.5, 13.0, 15.0]
    inside = np.random.default_rng(0).uniform(0, 3, 50)
    assert np.allclose(at(f, inside), np.interp(inside, f.x, f.y), atol=1e-12)


def test_a_map_has_the_slope_of_its_pieces_as_gradient() -> None:
    f = MonotoneMap(np.array([0.0, 1.0, 3.0]), np.array([10.0, 12.0, 13.0]))
    q = torch.tensor([-5.0, 0.5, 2.0, 9.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(f(q).sum(), q)
    assert gradient.tolist() == [2.0, 2.0, 0.5, 0.5]
    assert f(q).dtype == torch.float32


def test_quantile_map_takes_decile_to_decile() -> None:
    """Of 101 images the deciles are every tenth in order, whatever image has which score."""
    rng = np.random.default_rng(1)
    member, target = rng.permutation(np.arange(101.0)), rng.permutation(np.arange(101.0) ** 1.5 / 5)
    f = quantile_map(member, target)
    assert np.allclose(f.x, np.arange(0, 101, 10))
    assert np.allclose(f.y, np.arange(0, 101, 10) ** 1.5 / 5)
    assert len(quantile_map(member[:7], target[:7]).x) == 7


def centred(member: np.ndarray, target: np.ndarray) -> tuple[list[float], list[float]]:
    """Pool adjacent violators, written out: blocks of (sum of x, sum of y, count), merged while they fall."""
    blocks: list[list[float]] = []
    for value in np.unique(member):
        same = member == value
        blocks.append([value * same.sum(), target[same].sum(), same.sum()])
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return [b[0] / b[2] for b in blocks], [b[1] / b[2] for b in blocks]


@pytest.mark.parametrize("seed", range(4))
def test_isotonic_map_is_centred_isotonic_regression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    member = rng.integers(0, 60, 80).astype(float)  # with ties
    target = member + rng.normal(0, 12, 80)
    f = isotonic_map(member, target)
    x, y = centred(member, target)
    assert np.allclose(f.x, x)
    usual = target.std() / member.std()
    slopes = np.diff(y) / np.diff(x)
    free = (slopes > usual / STEEPEST) & (slopes < usual * STEEPEST)
    assert free.sum() > 5
    assert np.allclose((np.diff(f.y) / np.diff(f.x))[free], slopes[free])
    assert f.y.mean() == pytest.approx(np.mean(y))


def test_a_member_that_falls_gets_a_line_of_the_least_slope() -> None:
    member = np.linspace(0, 1, 30)
    f = isotonic_map(member, 5 - 40 * member)
    assert at(f, [member.mean()])[0] == pytest.approx(-15)
    assert np.allclose(np.diff(at(f, [-9.0, 0.0, 9.0])), 9 * 40 / STEEPEST)


@pytest.mark.parametrize("align", ["quantile", "isotonic"])
@pytest.mark.parametrize("seed", range(5))
def test_maps_increase_strictly_everywhere(align: str, seed: int) -> None:
    """Also far beyond the calibration, and where scores are tied, cut off at an end, or have outliers."""
    rng = np.random.default_rng(seed)
    target = rng.normal(50, 20, 60)
    member = np.round((target + rng.normal(0, 20, 60)).clip(30, 70)) / 7
    member[:2] = 70, -20
    f = MAPS[align](member, target)  # type: ignore[index]
    values = at(f, np.linspace(member.min() - 100, member.max() + 100, 4001))
    slopes = np.diff(values) / np.diff(np.linspace(member.min() - 100, member.max() + 100, 4001))
    usual = target.std() / member.std()
    assert slopes.min() >= usual / STEEPEST * (1 - 1e-6)
    assert slopes.max() <= usual * STEEPEST * (1 + 1e-6)
    for end, outside in ((0, [-50.0, -10.0]), (-1, [10.0, 50.0])):
        slope = np.diff(f.y)[end] / np.diff(f.x)[end]
        assert np.allclose(at(f, f.x[end] + np.array(outside)), f.y[end] + slope * np.array(outside))


@pytest.mark.parametrize("transform", [lambda s: 3 * s - 7, lambda s: np.exp(s / 40), lambda s: np.cbrt(s - 50) + s])
def test_a_strictly_increasing_transform_is_undone(transform) -> None:
    """At every image by isotonic regression, at the deciles by quantiles: there all images are knots up to eleven."""
    target = np.random.default_rng(3).uniform(20, 80, 101)
    member = transform(target)
    assert np.allclose(at(isotonic_map(member, target), member), target)
    deciles = np.argsort(target)[::10]
    assert np.allclose(at(quantile_map(member, target), member[deciles]), target[deciles])
    assert np.allclose(at(quantile_map(member[:11], target[:11]), member[:11]), target[:11])


def test_an_affine_transform_is_undone_everywhere() -> None:
    target = np.random.default_rng(3).normal(50, 20, 101)
    beyond = np.linspace(-100, 200, 31)
    for fit in MAPS.values():
        assert np.allclose(at(fit(5 - 2 * -target, target), 5 + 2 * beyond), beyond)


# Ensembles


@pytest.mark.parametrize("align", ["quantile", "isotonic", "none"])
@pytest.mark.parametrize("combine", ["mean", "median"])
def test_a_metric_and_its_negated_twin_are_the_metric(linear, align, combine) -> None:
    x = torch.rand(4, 3, 48, 40, generator=torch.Generator().manual_seed(0)) ** 3  # far from the calibration
    for metric, twin in ((linear, TWIN), (load_metric("linear-dmos"), "linear[scale=-1.0,offset=-3.0]")):
        g = ensemble(f"others={twin},align={align},combine={combine},{NOISE}", metric)
        assert torch.allclose(g(x), metric(x), atol=1e-4)
        assert g.metric is metric


def test_the_result_has_the_direction_of_the_defended_metric(images) -> None:
    metric = load_metric("linear-dmos")
    g = ensemble(f"others=bounded[scale=-2.0];linear[scale=-30.0],{NOISE}", metric)
    worse, better = images, (images - 0.05 * metric.module.weights(images).sign()).clamp(0, 1)  # type: ignore[operator]
    assert bool((metric(better) < metric(worse)).all())
    assert bool((g(better) < g(worse)).all())
    assert torch.allclose(g(images), metric(images), atol=0.1), "30 times the scale, brought back"


def test_combinations_are_numpys_and_scipys(linear, images) -> None:
    members = np.stack([load_metric(m)(images).numpy() for m in ["linear", *FIVE.split(";")]])
    assert len(members) == 5

    def scores(more: str) -> np.ndarray:
        return ensemble(f"others={FIVE},align=none,{more}", linear)(images).numpy()

    assert np.allclose(scores("combine=mean"), members.mean(0), atol=1e-6)
    assert np.allclose(scores("combine=median"), np.median(members, 0), atol=1e-6)
    for trim in (0.2, 0.39, 0.4):
        assert np.allclose(scores(f"combine=trimmed-mean,trim={trim}"), trim_mean(members, trim, axis=0), atol=1e-6)
    assert np.allclose(scores("combine=trimmed-mean,trim=0.1"), trim_mean(members, 0.2, axis=0), atol=1e-6), (
        "one, always"
    )
    even = ensemble(f"others={FIVE.rpartition(';')[0]},align=none,combine=median", linear)(images).numpy()
    assert np.allclose(even, np.median(members[:4], 0), atol=1e-6)


@pytest.mark.parametrize("others", [FIVE, FIVE.rpartition(";")[0]])
@pytest.mark.parametrize("combine", ["mean", "median", "trimmed-mean"])
def test_gradients_are_those_of_finite_differences(linear, images, others, combine) -> None:
    x = images[:2].double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one of the members falls
        g = ensemble(f"others={others},combine={combine},{NOISE}", linear)
        leaf = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(g.surrogate(leaf, streams(x)).sum(), leaf)
    assert g.surrogate(x, streams(x)).dtype == torch.float64
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h = 1e-6
    ahead, behind = (g.surrogate(x + s * h * direction, streams(x))[0] for s in (1, -1))
    assert torch.allclose((ahead - behind) / (2 * h), (gradient * direction).sum((1, 2, 3)), rtol=1e-5)
    assert float((ahead - behind).abs().min()) > 0


def test_the_median_of_equal_scores_has_the_gradient_of_one_of_them(linear, images) -> None:
    g = ensemble("others=linear[offset=3.0,scale=1.0];" + TWIN + ",align=none,combine=median", load_metric("ranged"))
    leaf = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(g.surrogate(leaf, streams(images)).sum(), leaf)
    assert torch.allclose(gradient, linear.module.weights(images).expand_as(gradient), atol=1e-7)


def test_leaving_members_out_declares_the_gradient_of_the_mean(linear, images) -> None:
    """The view has the exact score, and following its gradient raises that, unlike noise of the same size."""
    others = "others=linear-other;linear[scale=2.0,offset=0.0],align=none"
    g, mean = ensemble(f"{others},combine=median", linear), ensemble(others, linear)
    assert mean.surrogates() == [mean]
    itself, view, *_ = g.surrogates()
    assert itself is g
    assert torch.equal(view.surrogate(images, streams(images)), g.surrogate(images, streams(images)))
    leaf = images.clone().requires_grad_(True)
    gradient, expected, own = (
        torch.autograd.grad(h.surrogate(leaf, streams(images)).sum(), leaf)[0] for h in (view, mean, g)
    )
    assert torch.allclose(gradient, expected)
    assert not torch.allclose(gradient, own)
    step = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()
    raised, moved = (g(images + 0.01 * d) - g(images) for d in (gradient.sign(), step))
    assert bool((raised > 3 * moved.abs()).all())


SUBSETS = [("median", FIVE), ("median", FIVE.rpartition(";")[0]), ("median", "linear-other;linear[scale=2.0]"),
           ("trimmed-mean", FIVE), ("trimmed-mean", FIVE.rpartition(";")[0])]  # fmt: skip


@pytest.mark.parametrize(("combine", "others"), SUBSETS)
def test_every_subset_that_decides_declares_the_gradients_of_its_low_and_high_scores(
    linear, images, combine, others
) -> None:
    """Written out: among the subset, the members that would be left if all others lay below it, or above it."""
    g = ensemble(f"others={others},align=none,combine={combine}", linear)
    leaf = images[:1].clone().requires_grad_(True)
    scores = torch.cat([load_metric(text)(leaf) for text in ["linear", *others.split(";")]])
    slopes = [torch.autograd.grad(score, leaf, retain_graph=True)[0] for score in scores]
    n, cut = len(scores), {3: 1, 4: 1, 5: 2 if combine == "median" else 1}[len(scores)]
    expected = [torch.stack(slopes).mean(0)]
    bests, worsts = [], []
    for subset in combinations(range(n), n - cut):
        order = sorted(subset, key=lambda k: float(scores[k].detach()))
        for kept, ends in ((order[: n - 2 * cut], bests), (order[cut:], worsts)):
            expected.append(torch.stack([slopes[k] for k in kept]).mean(0))
            ends.append(float(scores[kept].detach().mean()))
    deployed = float(g(images[:1]))
    assert max(bests) == pytest.approx(deployed, rel=1e-6), "no subset promises more than there is"
    assert min(worsts) == pytest.approx(deployed, rel=1e-6)
    itself, *views = g.surrogates()
    assert itself is g
    assert len(views) == len(expected)
    for view, gradient in zip(views, expected, strict=True):
        value = view.surrogate(leaf, streams(leaf))
        assert torch.equal(value, g.surrogate(leaf, streams(leaf)))
        assert torch.allclose(torch.autograd.grad(value.sum(), leaf)[0], gradient, atol=1e-7)


def test_of_many_members_the_subsets_are_as_many_and_leave_out_each_alike_often(linear) -> None:
    g = ensemble(f"others={FIVE};linear[scale=5.0];linear[scale=6.0],align=none,combine=median", linear)
    views = [view._gradient for view in g.surrogates()]
    assert len(views) == 2 + 2 * 7
    subsets = {tuple(view.members) for view in views[2:] if view}
    assert len(subsets) == 7
    assert np.array_equal(np.bincount([k for s in subsets for k in s]), np.full(7, 4))


@pytest.mark.parametrize(("direction", "sign"), [("up", 1.0), ("down", -1.0)])
def test_an_attack_on_a_majority_finds_what_the_gradients_of_median_and_mean_hide(images, direction, sign) -> None:
    """The member in the middle is flat; the one behind it can pass it, and the one ahead, three times as steep, leads
    the mean the wrong way. With the reach L of an attack and s of it used, they are at 0, s - L/2 and 6 L - 3 s."""
    x, threat = images[:1], Linf(2 / 255)
    along = float(load_metric("linear[offset=0.0]")(x))
    reach = threat.eps * float(load_metric("linear").module.weights(x).abs().sum())  # type: ignore[operator]
    behind = f"linear[offset={-sign * reach / 2 - along}]"
    ahead = f"linear[scale=-3.0,offset={sign * 6 * reach + 3 * along}]"
    g = ensemble(f"others={behind};{ahead},align=none,combine=median", load_metric("linear[scale=0.0,offset=0.0]"))
    for attack, gain in (("pgd", 0.0), ("random-noise", 0.0), ("surrogate-pgd", sign * reach / 2)):
        assert load_attack(attack)(g, x, threat, direction).gain == pytest.approx(gain, abs=0.01 * reach)
    by_mean = g.surrogates()[1]
    assert load_attack("pgd")(by_mean, x, threat, direction).gain == pytest.approx(0, abs=0.01 * reach)


def test_attacks_go_through_all_members(linear, images) -> None:
    """The mean of two linear metrics with other weights: PGD reaches its optimum, the one for the metric does not."""
    g = ensemble("others=linear-other,align=none", linear)
    threat = Linf(2 / 255)
    weights = (linear.module.weights(images) + load_metric("linear-other").module.weights(images)) / 2  # type: ignore[operator]
    optimum = threat.eps * float(weights.abs().sum())
    adaptive = load_attack("pgd")(g, images, threat)
    assert np.allclose(adaptive.gain, optimum, rtol=1e-3)
    naive = load_attack("pgd")(load_defense("none", linear), images, threat)
    assert np.all((g(naive.adversarial) - g(images)).numpy() < 0.8 * optimum)


@register_metric("linear-other")
class _Other(torch.nn.Module):
    """A linear metric with weights of its own."""

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """(3,H,W)."""
        return torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(8)) / 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return (x * self.weights(x)).sum((1, 2, 3))


def test_an_image_alone_has_the_score_that_it_has_in_a_batch() -> None:
    x = torch.stack([load_dataset("photos[subset=references]").load(i) for i in range(3)])
    metric = load_metric("tiny-iqa")
    few = "calibration=photos[subset=quick]"
    for text in ("ensemble[combine=median,", "ensemble[align=isotonic,", "random-metric[", "random-metric[m=4,"):
        g = load_defense(f"{text}{few}]", metric)
        alone = [g.estimate(x[i : i + 1], streams(x)[[i]]).score[0] for i in range(3)]
        assert np.allclose(g.estimate(x, streams(x)).score, alone, atol=1e-3)


def test_every_process_fits_the_same_maps(images, tmp_path: Path) -> None:
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from robustiqa.bench import load_metric; from robustiqa.bench.registry import registry\n"
        "from robustiqa.defenses import load_defense\n"
        "for f in sys.argv[3:]: registry.load_file(f)\n"
        "g = load_defense(sys.argv[1], load_metric('linear'))\n"
        "torch.save(g(torch.load(sys.argv[2])), sys.argv[2] + '.scores')\n"
    )
    text = f"ensemble[others=bounded;linear[scale=4.0],align=isotonic,{NOISE}]"
    torch.save(images, tmp_path / "x")
    plugins = [str(HERE / "plugins" / f) for f in ("linear.py", "tiny_bench.py")]
    subprocess.run([sys.executable, "-c", code, text, str(tmp_path / "x"), *plugins], check=True)
    assert torch.equal(torch.load(tmp_path / "x.scores"), load_defense(text, load_metric("linear"))(images))


# Calibration


def test_scores_of_a_calibration_are_kept_apart(linear, images) -> None:
    """Another data set, and another metric under the same name: neither gets the scores of the first."""
    others = "others=bounded"

    def fresh(metric: Metric, data: str) -> torch.Tensor:
        kept = dict(calibration._SCORES)
        calibration._SCORES.clear()
        scores = ensemble(f"{others},calibration={data}", metric)(images)
        calibration._SCORES.update(kept)
        return scores

    toy = Metric(type(linear.module)(5.0), linear.spec)
    cases = [(m, d) for m in (linear, toy) for d in ("noise[count=40]", "noise[count=25]")]
    found = [ensemble(f"{others},calibration={d}", m)(images) for m, d in cases]
    assert all(torch.equal(f, fresh(m, d)) for f, (m, d) in zip(found, cases, strict=True))
    assert len({tuple(f.tolist()) for f in found}) == 4


def test_a_metric_is_scored_once_a_process(linear, images, monkeypatch) -> None:
    calibration._SCORES.clear()
    scored, score = [], calibration._scores
    monkeypatch.setattr(calibration, "_scores", lambda m, *more: scored.append(m.spec) or score(m, *more))
    for text in (f"others=bounded,{NOISE}", f"others=bounded;linear[scale=2.0],align=isotonic,{NOISE}"):
        g = ensemble(text, linear)
        assert torch.equal(g(images), g(images))
    assert scored == ["linear", "bounded", "linear[scale=2.0]"]


def test_identity_names_members_settings_and_the_images_of_the_calibration(tmp_path: Path) -> None:
    def identity(text: str) -> str:
        return identity_of("defense", text)

    folder = tmp_path / "photos"
    for i in range(2):
        save_png(torch.full((3, 32, 32), 0.3 + 0.1 * i), folder / f"{i}.png")
    texts = ["ensemble", "ensemble[combine=median]", "ensemble[others=lip-iqa]", f"ensemble[{NOISE}]", "random-metric",
             "ensemble[calibration=noise[count=41]]", f"ensemble[calibration=folder[root={folder}]]"]  # fmt: skip
    found = [identity(text) for text in texts]
    assert len(set(found)) == len(texts)
    assert identity("ensemble[combine=mean,align=quantile]") == found[0]
    assert load_dataset("photos[split=dev]").content_hash in found[0]
    assert identity_of("metric", "lip-iqa") in found[0]
    save_png(torch.full((3, 32, 32), 0.9), folder / "1.png")
    _content.cache_clear()
    assert identity(texts[-1]) != found[-1], "the same string, other pixels"


@pytest.mark.parametrize(("text", "words"), [
    ("others=bounded,calibration=noise[count=19]", "has 19 images"),
    (f"others=linear-dmos,{NOISE}", r"'linear-dmos' follows 'linear' with SROCC -1.00 .* declared wrong"),
    (f"others=wave,{NOISE}", "'wave' follows 'linear' with SROCC 0.* means little"),
])  # fmt: skip
@pytest.mark.parametrize("align", ["quantile", "isotonic"])
def test_a_poor_fit_is_warned_of_and_scores_all_the_same(linear, images, text, words, align) -> None:
    g = ensemble(f"{text},align={align}", linear)
    with pytest.warns(UserWarning, match=words):
        assert bool(torch.isfinite(g(images)).all())


# Members


@pytest.mark.parametrize("name", ["ensemble", "random-metric"])
@pytest.mark.parametrize(("text", "error", "words"), [
    ("others=", BadParameter, r"\[others=\]: expected metrics as plug-in strings"),
    ("others=bounded;", BadParameter, "expected metrics"),
    ("others=bonded", UnknownName, "did you mean 'bounded'"),
    ("others=bounded[scales=1]", UnknownName, "scale"),
    ("others=bounded;bounded[offset=3.0]", BadParameter, "named twice"),
    ("others=linear", BadParameter, "besides the defended one, linear"),
    ("others=linear[scale=1.0]", BadParameter, "besides the defended one, linear"),
    ("others=bounded,align=linear", BadParameter, r"align=linear\]: expected quantile, isotonic or none"),
    ("others=bounded,calibration=noice", UnknownName, "did you mean 'noise'"),
])  # fmt: skip
def test_bad_members_are_named(linear, name, text, error, words) -> None:
    with pytest.raises(error, match=words):
        load_defense(f"{name}[{text}]", linear)


@pytest.mark.parametrize(("text", "words"), [
    ("ensemble[others=bounded,combine=mode]", "expected mean, median, trimmed-mean"),
    ("ensemble[others=bounded,trim=0.5]", "between 0 and 0.5"),
    ("ensemble[others=bounded,combine=trimmed-mean]", "both of two members"),
    ("random-metric[others=bounded,m=10001]", "expected 1 to 10000 draws"),
    ("random-metric[others=bounded,m=0]", "expected 1 to 10000 draws"),
])  # fmt: skip
def test_bad_parameters_are_named(linear, text, words) -> None:
    with pytest.raises(BadParameter, match=words):
        load_defense(text, linear)


def test_the_defended_metric_is_a_member_once_whoever_names_it(linear, images) -> None:
    with_it = ensemble(f"others=linear[offset=3.0];bounded,{NOISE}", linear)
    assert torch.equal(with_it(images), ensemble(f"others=bounded,{NOISE}", linear)(images))
    assert with_it.cost == with_it.size == 2
    own = Metric(linear.module, "my-metric")
    assert ensemble(f"others=linear;bounded,{NOISE}", own).size == 3, "one built in Python, under no registered name"


def test_members_need_their_sizes_and_packages(linear, images, monkeypatch) -> None:
    with pytest.raises(BadImage, match="'linear-64' is 40x48 px"):
        ensemble("others=linear-64,align=none", linear)(images)
    with pytest.raises(BadImage, match=r"calibration 'noise\[count=40\]' does not fit the metric 'linear-64'"):
        ensemble(f"others=linear-64,{NOISE}", linear)(torch.rand(1, 3, 64, 64))
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(Absent, match=r"robustiqa\[pyiqa\]"):
        ensemble("others=pyiqa:musiq", linear)


def test_calibrations_that_tell_nothing_are_refused(linear, images) -> None:
    with pytest.raises(BadScore, match="1 NaN or infinite of 30 scores"):
        ensemble("others=bright-nan,calibration=noise[count=30,bright=4]", linear)(images)
    with pytest.raises(BadParameter, match="no two different scores"):
        ensemble("others=bounded[scale=0.0],calibration=noise[count=30]", linear)(images)


def test_members_are_frozen(linear) -> None:
    g = load_defense(f"ensemble[others=bounded,{NOISE}]", linear).train()
    assert not any(module.training for module in g.modules())
    assert not any(p.requires_grad for p in load_defense("ensemble", load_metric("tiny-iqa")).parameters())


@pytest.mark.parametrize(("text", "flags"), [
    ("ensemble[others=bounded;linear[scale=3.0],", set()),
    ("random-metric[m=5,others=bounded;linear[scale=3.0],", set()),
    # A median ignores what is wrong with one member of three: there is nothing to be found.
    ("ensemble[combine=median,others=bounded;linear[scale=3.0],", {"planted-missed"}),
])  # fmt: skip
def test_probes_on_linear_members(linear, images, text, flags) -> None:
    assert {f.name for f in probe(load_defense(f"{text}{NOISE}]", linear), images) if f.raised} == flags


@pytest.mark.filterwarnings("ignore:metric")  # the others rightly do not follow the toy
def test_a_weakness_of_most_members_is_found_through_the_median(images) -> None:
    pattern = planted_pattern(*images.shape[2:])
    weak = Metric(_Planted(pattern, 1.0, 0.5), "linear", score_range=(0, 1))
    g = ensemble(f"others=bounded;linear-other,combine=median,{NOISE}", weak)
    g.others[1] = Metric(_Planted(pattern, 2.0, 0.1), "linear-other")
    found = load_attack("eot-pgd")(g, images, L2(0.5))
    assert bool((((found.adversarial - images) * pattern).sum((1, 2, 3)) > 0.5 / 3).all())


# A member by lot


def test_draws_are_members_equally_likely_and_from_the_streams_alone(linear, images) -> None:
    g = drawn("others=linear[offset=10.0];linear[offset=20.0],align=none", linear)
    x = images[:1].repeat(600, 1, 1, 1)
    scores = g.estimate(x, streams(x)).score - float(linear(images[:1]))
    which = np.round(scores / np.array(8.5)).astype(int)
    assert np.allclose(scores, np.array([0.0, 7.0, 17.0])[which], atol=1e-4)
    assert chisquare(np.bincount(which, minlength=3)).pvalue > 0.01
    assert np.array_equal(scores, g.estimate(x, streams(x)).score - float(linear(images[:1])))
    assert not np.array_equal(scores, g.estimate(x, streams(x, 1)).score - float(linear(images[:1])))


def test_deployed_is_the_mean_of_draws_whose_mean_is_the_ensemble(linear, images) -> None:
    text = f"others=bounded;linear[scale=3.0],{NOISE}"
    g = drawn(f"{text},m=7", linear)
    draws = g.surrogate(images, streams(images), 7)
    assert draws.shape == (7, 3)
    assert np.allclose(g.estimate(images, streams(images)).score, draws.double().mean(0), atol=1e-12)
    rng = streams(images)
    parts = torch.cat([g.surrogate(images, rng, 3), g.surrogate(images, rng, 4)])
    assert torch.allclose(draws, parts, atol=1e-6), "a stream goes on where it stopped"
    many = g.aggregate(g.surrogate(images, streams(images), 4000))
    assert torch.allclose(many, ensemble(text, linear)(images).double(), atol=0.01)


def test_members_that_were_not_drawn_do_not_run(linear, images) -> None:
    g = drawn("others=counting,align=none", linear)
    counting: Any = g.others[0].module
    x = images[:1].repeat(50, 1, 1, 1)
    chosen = (streams(x).numbers(1) >= 0.5).sum()
    g.estimate(x, streams(x))
    assert counting.seen == int(chosen)
    g.surrogate(images, streams(images), 64)
    assert counting.seen == int(chosen) + 3, "each image once, not once a draw"


def test_gradients_of_draws_are_those_of_the_members_drawn(linear, images) -> None:
    g = drawn("others=linear[scale=2.0],align=none", linear)
    leaf = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(g.surrogate(leaf, streams(images), 5).sum(), leaf)
    scales = 1 + (streams(images).numbers(5) >= 0.5).double().mean(1)
    expected = 5 * scales[:, None, None, None] * linear.module.weights(images)
    assert torch.allclose(gradient.double(), expected, atol=1e-6)


def test_intervals_are_infinite_until_every_member_was_drawn(linear, images) -> None:
    """The mean over the members is then known; Student's t of two equal draws would be a point, and wrong."""
    x = images[:1].repeat(200, 1, 1, 1)
    g = drawn("others=linear[scale=2.0],align=none,m=2", linear)
    truth = float(linear(images[:1]) + load_metric("linear[scale=2.0]")(images[:1])) / 2
    score, lo, hi = g.estimate(x, streams(x))
    equal = np.abs(score - truth) > 1e-6
    assert 50 < equal.sum() < 150
    assert np.all(np.isneginf(lo[equal]) & np.isposinf(hi[equal]))
    assert np.allclose(lo[~equal], truth, atol=1e-5)
    assert np.allclose(hi[~equal], truth, atol=1e-5)
    score, lo, hi = drawn("others=linear[scale=2.0],align=none,m=9", linear).estimate(x, streams(x))
    assert np.all((lo <= score + 1e-9) & (score <= hi + 1e-9) & (lo <= truth + 1e-5) & (truth <= hi + 1e-5))
