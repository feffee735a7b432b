"""Aligned scores: the fit against known curves and scipy, order and gradients kept, bounds that go through the map."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import Dataset, Item, Metric, load_metric, register_dataset
from robustiqa.bench.align import STEEPEST, LogisticMap, logistic_map
from robustiqa.bench.errors import BadData, BadParameter, UnknownName
from robustiqa.bench.images import save_png
from robustiqa.bench.measures import plcc, srocc
from robustiqa.bench.metrics.aligned import Aligned
from robustiqa.bench.registry import _content, identity_of
from robustiqa.defenses import load_defense
from scipy.stats import rankdata

MAPS = ["logistic", "isotonic", "quantile"]


@functools.cache
def _along() -> torch.Tensor:
    """(3,32,32): what the linear metric weighs pixels by."""
    return load_metric("linear").module.weights(torch.zeros(1, 3, 32, 32))  # type: ignore[operator]


@register_dataset("graded")
class Graded(Dataset):
    """Images along the linear metric's weights, with some noise; the opinion is a curve of how far, with some noise."""

    def __init__(self, count: int = 60, truth: str = "all", sign: float = 1.0) -> None:
        self.truth_name = None if truth == "none" else "MOS"
        rng = np.random.default_rng(0)
        levels = np.linspace(-1.0, 1.0, count)
        opinion = 20 + 60 / (1 + np.exp(-sign * levels / 0.25)) + rng.normal(0, 2, count)
        if truth == "constant":
            opinion = np.full(count, 3.0)
        given = {"none": 0, "some": count // 2}.get(truth, count)
        self.levels = levels
        self.items = [Item(f"{i}", f"{i}", float(opinion[i]) if i < given else None) for i in range(count)]

    def load(self, index: int) -> torch.Tensor:
        noise = torch.rand((3, 32, 32), generator=torch.Generator().manual_seed(index))
        return (0.5 + 10 * self.levels[index] * _along() + 0.2 * (noise - 0.5)).clamp(0, 1)


def aligned(metric: str = "linear", kind: str = "logistic", data: str = "graded") -> Metric:
    return load_metric(f"aligned[metric={metric},calibration={data},map={kind}]")


def mapping(metric: Metric, scores: torch.Tensor) -> torch.Tensor:
    assert isinstance(metric.module, Aligned)
    return metric.module.map(metric.module.inner.sign * scores)


def qualities(metric: str, data: Graded) -> np.ndarray:
    inner = load_metric(metric)
    return np.array([inner.sign * float(inner(data.load(i)[None])) for i in range(len(data))])


# The logistic map


def test_a_curve_of_the_family_is_found_again() -> None:
    """Scores that lie on such a curve, whose linear term has the least slope: nothing is left over."""
    member = np.linspace(-3, 5, 200)
    target = curve = 10 + 50 / (1 + np.exp(-(member - 1.5) / 0.7))
    slope = 0.0
    for _ in range(50):  # the least slope is relative to the target's spread, which the slope itself changes
        slope = target.std() / member.std() / STEEPEST
        target = curve + slope * (member - 1.5)
    f = logistic_map(member, target)
    assert f(torch.from_numpy(member)).numpy() == pytest.approx(target, abs=1e-3)
    assert (f.low, f.height, f.centre, f.width) == pytest.approx((10, 50, 1.5, 0.7), rel=1e-3)
    assert f.slope == pytest.approx(slope)


@pytest.mark.parametrize("seed", range(6))
def test_the_curve_rises_everywhere_and_is_never_flat(seed: int) -> None:
    """Also far beyond the calibration, for a step, for few values, and for what falls where the opinion rises."""
    rng = np.random.default_rng(seed)
    member = rng.normal(0, 3, 50)
    target = [member, -member, np.sign(member), np.round(member), np.exp(member), rng.normal(0, 1, 50)][seed] * 10 + 50
    f = logistic_map(member, target)
    usual = target.std() / member.std()
    q = torch.linspace(-1e4, 1e4, 200_001, dtype=torch.float64)
    slopes = f(q).diff() / q.diff()
    assert float(slopes.min()) >= usual / STEEPEST * (1 - 1e-6)
    assert float(slopes.max()) <= usual * STEEPEST * (1 + 1e-6)
    for end in (-1e30, 1e30):
        assert bool(torch.isfinite(f(torch.tensor([end], dtype=torch.float64))).all())


def test_the_curve_is_the_formula() -> None:
    f = LogisticMap(low=2.0, height=5.0, centre=1.0, width=0.5, slope=0.25)
    q = np.array([-1.0, 1.0, 3.0])
    expected = 2 + 5 / (1 + np.exp(-(q - 1) / 0.5)) + 0.25 * (q - 1)
    assert f(torch.from_numpy(q)).numpy() == pytest.approx(expected, rel=1e-12)
    assert f(torch.ones(2)).dtype == torch.float32


def test_the_fit_is_no_worse_than_the_best_line() -> None:
    """Of slopes that are allowed; so its PLCC cannot fall far below that of the raw scores."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        member = rng.normal(0, 1, 80)
        target = member + rng.normal(0, 1, 80)
        f = logistic_map(member, target)
        error = np.square(f(torch.from_numpy(member)).numpy() - target).mean()
        slope, offset = np.polyfit(member, target, 1)
        assert error <= np.square(slope * member + offset - target).mean() * 1.01


# The metric


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("metric", ["linear", "linear-dmos[scale=-3.0]"])  # the latter's smaller scores are better
def test_the_order_stays_and_the_scale_is_that_of_the_opinion(kind: str, metric: str) -> None:
    data = Graded()
    truth = np.array([item.truth for item in data.items], dtype=float)
    m = aligned(metric, kind)
    raw = qualities(metric, data)
    ours = np.array([float(m(data.load(i)[None])) for i in range(len(data))])
    assert not m.lower_better
    assert srocc(ours, truth) == srocc(raw, truth) > 0.9
    assert plcc(ours, truth) > plcc(raw, truth)
    assert np.abs(ours - truth).mean() < 4
    assert m.score_range == (truth.min(), truth.max())


def test_without_opinions_the_scale_is_the_share_of_images_below() -> None:
    data = Graded(truth="none")
    m = aligned(kind="isotonic", data="graded[truth=none]")
    shares = 100 * (rankdata(qualities("linear", data)) - 0.5) / len(data)
    ours = [float(m(data.load(i)[None])) for i in range(len(data))]
    assert np.abs(ours - shares).max() < 4, "but for slopes that are bounded"
    assert srocc(np.array(ours), shares) == 1.0
    assert m.score_range == (0.0, 100.0)


@pytest.mark.parametrize("kind", MAPS)
def test_gradients_are_those_of_finite_differences(kind: str, images: torch.Tensor) -> None:
    m = aligned("linear-dmos[scale=-1.0]", kind)
    x = images.double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(m(x).sum(), x)
    d = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        slope = (m(x + 1e-7 * d) - m(x - 1e-7 * d)) / 2e-7
    assert torch.allclose((gradient * d).sum((1, 2, 3)), slope, rtol=1e-4)
    assert float(slope.abs().min()) > 0


def test_images_do_not_depend_on_their_batch(images: torch.Tensor) -> None:
    m = aligned()
    assert torch.allclose(m(images), torch.cat([m(x[None]) for x in images]), atol=1e-5)
    assert torch.equal(m(images), aligned()(images)), "fitted anew"


@pytest.mark.parametrize("kind", MAPS)
def test_bounds_of_a_median_are_the_mapped_bounds(kind: str, images: torch.Tensor) -> None:
    """Order statistics commute with what rises: population and deployed bounds, and the deployed score itself."""
    m, raw = aligned(kind=kind), load_metric("linear")
    text = "median-smoothing[n=100,m=11,sigma=0.1]"
    ours, theirs = (load_defense(text, metric).certify(images, [0.05, 0.1], seed=3) for metric in (m, raw))
    assert theirs.deployed is not None
    assert ours.deployed is not None
    for a, b in ((ours, theirs), (ours.deployed, theirs.deployed)):
        for ends, expected in ((a.lo, b.lo), (a.hi, b.hi)):
            assert ends == pytest.approx(mapping(m, torch.from_numpy(np.ascontiguousarray(expected))).numpy(), abs=2e-4)
    scores = [load_defense(text, metric)(images) for metric in (m, raw)]
    assert torch.allclose(scores[0], mapping(m, scores[1]), atol=2e-4)


def test_a_mean_does_not_commute(images: torch.Tensor) -> None:
    """The mean smoothing of the aligned metric is another score than the mapped mean, and certified as such."""
    text = "mean-smoothing[n=300,m=300,sigma=0.3,low=-10,high=110]"
    m = aligned()
    raw = load_metric("linear")
    mean = load_defense(text, m)(images)
    mapped = mapping(m, load_defense(text, raw)(images))
    assert float((mean - mapped).abs().min()) > 0.1
    found = load_defense(text, m).certify(images, [0.05])
    assert (found.lo[:, 0] <= mean.numpy()).all()
    assert (mean.numpy() <= found.hi[:, 0]).all()


def test_a_bounded_metric_stays_bounded() -> None:
    m = load_metric("aligned[metric=bounded[scale=40.0],calibration=graded]")
    assert m.bounded
    assert m.score_range is not None
    low, high = m.score_range
    ends = mapping(m, torch.tensor([0.0, 1.0]))
    assert low < float(ends[0]) < float(ends[1]) < high
    assert (low, high) == pytest.approx(ends.tolist(), rel=1e-6)
    extreme = m(torch.stack([torch.zeros(3, 40, 40), torch.ones(3, 40, 40)]))
    assert bool(((extreme >= low) & (extreme <= high)).all())


def test_an_attack_gains_what_the_map_makes_of_its_gain(images: torch.Tensor) -> None:
    m, raw = aligned(), load_metric("linear")
    ours, theirs = (
        load_attack("pgd[steps=4]")(load_defense("none", metric), images, Linf(4 / 255)) for metric in (m, raw)
    )
    assert torch.equal(ours.adversarial, theirs.adversarial)
    expected = mapping(m, torch.from_numpy(theirs.attacked.score)) - mapping(m, torch.from_numpy(theirs.clean.score))
    assert ours.gain == pytest.approx(expected.numpy(), abs=1e-3)


@pytest.mark.parametrize(("text", "error", "words"), [
    ("metric=linear,calibration=graded,map=linear", BadParameter, "map=linear.: expected logistic, quantile, isotonic"),
    ("metric=liner,calibration=graded", UnknownName, "did you mean 'linear'"),
    ("metric=linear,calibration=grated", UnknownName, "did you mean 'graded'"),
    ("metric=linear", BadParameter, "needs the parameter 'calibration'"),
    ("metric=linear,calibration=graded[truth=some]", BadData, "scores for 30 of 60 images"),
    ("metric=linear,calibration=graded[truth=constant]", BadParameter, "one score for all images"),
])  # fmt: skip
def test_what_cannot_be_aligned_is_refused(text: str, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        load_metric(f"aligned[{text}]")


def test_a_metric_without_two_scores_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(BadParameter, match="no two different scores"):
        aligned("linear[scale=0.0]")(images)


def test_a_poor_fit_is_warned_of(images: torch.Tensor) -> None:
    with pytest.warns(UserWarning, match="follows the MOS with SROCC -0.* declared wrong"):
        aligned(data="graded[sign=-1.0]")(images)
    with pytest.warns(UserWarning, match="has 12 images"):
        aligned(data="graded[count=12]")(images)


def test_identity_names_metric_data_and_map(tmp_path: Path) -> None:
    texts = [
        "aligned[metric=linear,calibration=graded]",
        "aligned[metric=linear,calibration=graded,map=isotonic]",
        "aligned[metric=linear[scale=2.0],calibration=graded]",
        "aligned[metric=linear,calibration=graded[count=50]]",
    ]
    assert len({identity_of("metric", text) for text in texts}) == len(texts)
    assert identity_of("metric", texts[0]) == identity_of("metric", texts[0].replace("]", ",map=logistic]"))
    found = []
    for level in (0.3, 0.7):  # the same string, other pixels
        save_png(torch.full((3, 32, 32), level), tmp_path / "a.png")
        _content.cache_clear()
        found.append(identity_of("metric", f"aligned[metric=linear,calibration=folder[root={tmp_path}]]"))
    assert found[0] != found[1]
