"""Randomised purifications: their draws against closed forms, geometry by hand, and attacks that average over them."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
import torch
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import Metric, load_dataset, load_metric
from robustiqa.bench.errors import BadImage, BadParameter
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams
from robustiqa.defenses import base, load_defense
from robustiqa.defenses.base import RandomPurification, mean_estimate
from robustiqa.defenses.randomised.places import place
from robustiqa.defenses.randomised.rotation import rotate
from scipy.ndimage import map_coordinates
from scipy.stats import chisquare, kstest, norm
from support import example

ALL = ["random-noise[sigma=0.05]", "random-crop[share=0.75]", "random-crop[size=32]",
       "random-resize[grow=1.25,noise=0.02]", "random-rotation", "random-flip"]  # fmt: skip


def streams(count: int, seed: int = 0) -> Streams:
    return Streams.create([str(i) for i in range(count)], Role.EVALUATION, seed)


def load(text: str, metric: Metric | None = None) -> RandomPurification:
    g = load_defense(text, metric or load_metric("linear"))
    assert isinstance(g, RandomPurification)
    return g


def many(image: torch.Tensor, count: int) -> torch.Tensor:
    """The same image again and again, each with a stream of its own."""
    return image.expand(count, *image.shape)


# What every one of them is.


@pytest.mark.parametrize("text", ALL)
def test_draws_come_from_the_streams_alone_and_an_image_alone_from_its_own(images, text) -> None:
    g = load(text)
    torch.manual_seed(1)
    first = g.draw(images, streams(3))
    torch.manual_seed(2)
    assert torch.equal(first, g.draw(images, streams(3)))
    rng = streams(3)
    several = [g.draw(images, rng) for _ in range(8)]  # a flip may well come twice
    assert torch.equal(several[0], first)
    assert not all(torch.equal(a, first) for a in several)
    for i in range(3):
        assert torch.allclose(g.draw(images[i : i + 1], streams(3)[i : i + 1]), first[i : i + 1], atol=1e-7)
    assert tuple(first.shape) == (3, 3, *g.output_size(48, 40))


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_draws_stay_in_the_box(text, level) -> None:
    out = load(text).draw(torch.full((20, 3, 37, 41), level), streams(20))
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert float((out == level).double().mean()) > 0.3, "but for padding and noise it is the same"


def test_where_rotation_rounds_above_white_its_gradient_is_whole() -> None:
    """Clamped in value, but not in gradient: each pixel's weights sum to 1."""
    x = torch.ones(20, 3, 37, 41, requires_grad=True)
    out = rotate(x, torch.arange(20.0))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert float(out.detach().max()) == 1.0
    assert float(gradient.double().sum()) == pytest.approx(x.numel(), rel=1e-5)


@pytest.mark.parametrize("text", ALL)
def test_surrogate_has_the_deployed_values_and_finite_differences_of_common_draws(text) -> None:
    g = load(text, load_metric("bounded").double())
    x = 0.2 + 0.6 * torch.rand(2, 3, 40, 44, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x.requires_grad_(True)
    scores = g.surrogate(x, streams(2), 3)
    rng = streams(2)
    assert torch.equal(scores, torch.cat([g.metric(g.draw(x, rng))[None] for _ in range(3)]))
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    for seed in range(3):
        d = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (g.surrogate(x + s * 1e-5 * d, streams(2), 3).sum() for s in (1, -1))
        assert float((ahead - behind) / 2e-5) == pytest.approx(float((gradient * d).sum()), rel=2e-3)


@pytest.mark.parametrize("text", ["random-noise", "random-crop", "random-rotation"])
def test_a_fresh_deployed_score_differs_and_more_draws_make_it_steadier(images, text) -> None:
    x = images[:1].expand(60, -1, -1, -1)
    name = text.split("[")[0]
    one, nine = (load_defense(f"{name}[m={m}]", load_metric("linear")).estimate(x, streams(60)).score for m in (1, 9))
    assert len(np.unique(one)) > 40, "of 60; a crop has 143 places"
    assert 2.0 < one.std() / nine.std() < 4.5, "3 for independent draws"


# The draws themselves.


def test_noise_is_gaussian_of_that_deviation_and_clamped() -> None:
    grey = torch.full((2, 3, 64, 64), 0.5)
    noise = (load("random-noise[sigma=0.1]").draw(grey, streams(2)) - grey).flatten().numpy()
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert kstest(noise, norm(0, 0.1).cdf).pvalue > 0.01
    black = load("random-noise[sigma=0.1]").draw(0 * grey, streams(2))
    assert float((black == 0).double().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(black.mean()) == pytest.approx(0.1 / math.sqrt(2 * math.pi), rel=0.03), "half a normal's mean"


def test_every_place_of_a_crop_is_alike_likely() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    image = torch.stack((rows, columns, rows)) / 10
    crops = load("random-crop[share=0.5]").draw(many(image, 2000), streams(2000))
    assert crops.shape == (2000, 3, 4, 3)
    top, left = (crops[:, channel, 0, 0].mul(10).round().int() for channel in (0, 1))
    counts = torch.bincount(top * 4 + left, minlength=20).numpy()  # 5 tops, 4 lefts
    assert len(counts) == 20
    assert chisquare(counts).pvalue > 0.01
    for crop, row, column in zip(crops[:50], top, left, strict=False):
        assert torch.equal(crop, image[:, row : row + 4, column : column + 3])


def test_the_last_place_is_reached_and_never_passed() -> None:
    assert [place(u, 3, 5) for u in (0.0, 0.34, 0.67, 1 - 2**-53)] == [0, 1, 2, 2]
    assert place(0.9, 4, 4) == 0


def test_a_crop_of_all_is_the_image_and_one_in_pixels_is_square(images) -> None:
    assert torch.equal(load("random-crop[share=1]").draw(images, streams(3)), images)
    assert load("random-crop").output_size(500, 333) == (375, 250)
    assert load("random-crop[size=128]").output_size(500, 333) == (128, 128)
    assert torch.equal(load("random-crop[size=40]").draw(images[..., :40, :], streams(3)), images[..., :40, :])


def test_an_image_smaller_than_its_crop_is_named(images) -> None:
    g = load("random-crop[size=41]")
    for bad in (lambda: g(images), lambda: g.surrogate(images, streams(3)), lambda: g.draw(images, streams(3))):
        with pytest.raises(BadImage, match=r"size=41\] is 40x48 px: expected at least 41x41"):
            bad()
    with pytest.raises(BadImage, match="linear-64"):
        load("random-crop", load_metric("linear-64"))(torch.full((1, 3, 80, 80), 0.5))


def test_the_image_lies_whole_somewhere_in_the_padded_one(images) -> None:
    """Without padding black borders would be content: the copy is found again at the smallest size."""
    x = images.clamp_min(0.1).repeat(40, 1, 1, 1)
    out = load("random-resize[grow=1.25]").draw(x, streams(120))
    height, width = x.shape[2:]
    assert out.shape == (len(x), 3, round(1.25 * height), round(1.25 * width))
    factors, places = [], []
    for copy in out:
        rows, columns = torch.where(copy.sum(0) > 0)
        h, w = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert height <= h <= out.shape[2]
        assert abs(h / height - w / width) <= 1 / min(height, width), "both sides by one factor"
        assert copy[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].min() >= 0.1 - 1e-6
        factors.append(h / height)
        places.append(int(rows.min()) / max(1, out.shape[2] - h))
    assert kstest(factors, "uniform", (1, 0.25)).pvalue > 0.01
    assert np.mean(places) == pytest.approx(0.5, abs=0.1)


def test_resizing_without_growth_and_noise_is_the_metric_itself(linear, images) -> None:
    assert torch.allclose(load("random-resize[grow=1]", linear)(images), linear(images), atol=1e-5)


def test_rotation_by_nothing_is_the_image_and_by_a_right_angle_rot90(images) -> None:
    square = images[..., :40, :]
    assert torch.allclose(rotate(images, torch.zeros(3)), images, atol=2e-5)
    assert torch.allclose(rotate(square, torch.full((3,), 90.0)), square.rot90(1, (2, 3)), atol=2e-5)
    assert torch.allclose(rotate(images, torch.full((3,), 180.0)), images.flip((2, 3)), atol=2e-5)


def test_rotation_is_scipys_with_mirrored_corners(images) -> None:
    degrees = torch.tensor([15.0, -40.0, 7.5])
    ours = rotate(images, degrees)
    height, width = images.shape[2:]
    v, u = np.mgrid[:height, :width].astype(float)
    v, u = v - (height - 1) / 2, u - (width - 1) / 2
    for image, turned, angle in zip(images.numpy(), ours.numpy(), np.deg2rad(degrees.numpy()), strict=True):
        # Anticlockwise as seen, rows pointing down: a pixel comes from where the clockwise turn takes it.
        from_v, from_u = np.sin(angle) * u + np.cos(angle) * v, np.cos(angle) * u - np.sin(angle) * v
        where = [from_v + (height - 1) / 2, from_u + (width - 1) / 2]
        theirs = np.stack([map_coordinates(c, where, order=1, mode="reflect") for c in image])
        assert np.abs(turned - theirs).max() < 1e-4


def test_a_disc_at_the_centre_stays_where_it_is() -> None:
    v, u = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(51.0) - 25, indexing="ij")
    disc = torch.exp(-(v.square() + u.square()) / 50).expand(1, 3, -1, -1)
    turned = rotate(disc.expand(12, -1, -1, -1), torch.arange(12) * 30.0)
    inside = v.square() + u.square() < 19**2  # what is mirrored into the corners is another matter
    assert float((turned - disc)[..., inside].abs().max()) < 0.01, "linear interpolation of a curvature of 1/25"


def test_angles_are_uniform() -> None:
    """Read from where the draw puts one bright spot."""
    v, u = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    spot = torch.exp(-(v.square() + (u - 10).square()) / 4).expand(3, -1, -1)
    out = load("random-rotation[degrees=50]").draw(many(spot, 500), streams(500))[:, 0]
    up, right = -(out * v).sum((1, 2)), (out * u).sum((1, 2))
    angles = torch.rad2deg(torch.atan2(up, right)).numpy()
    assert np.abs(angles).max() < 50.5
    assert kstest(angles, "uniform", (-50, 100)).pvalue > 0.01


def test_flips_are_four_images_alike_likely(images) -> None:
    known = [images[0].flip(axes) for axes in ([], [1], [2], [1, 2])]
    out = load("random-flip").draw(many(images[0], 800), streams(800))
    counts = [sum(torch.equal(o, k) for o in out) for k in known]
    assert sum(counts) == 800
    assert chisquare(counts).pvalue > 0.01


# The deployed score.


def test_the_interval_of_flips_is_infinite_until_all_four_were_drawn_and_then_certain(images) -> None:
    metric = load_metric("linear")
    versions = torch.cat([metric(images[:1].flip(axes)) for axes in ([], [2], [3], [2, 3])]).double()
    assert float(versions.std()) > 0.05
    truth = float(versions.mean())
    for m, share in ((2, 0.0), (3, 0.0), (8, 0.623), (16, 0.960)):
        found = load(f"random-flip[m={m}]", metric).estimate(many(images[0], 1000), streams(1000))
        known = np.isfinite(found.lo)
        assert known.mean() == pytest.approx(share, abs=0.05)
        assert np.array_equal(known, np.isfinite(found.hi))
        assert np.all((found.lo <= truth + 1e-5) & (truth - 1e-5 <= found.hi))
        assert np.all((found.lo <= found.score) & (found.score <= found.hi))
        ends = np.sort(np.stack([found.score[known], np.full(known.sum(), truth)]), axis=0)
        assert np.allclose([found.lo[known], found.hi[known]], ends, atol=1e-5), "no wider than need be"


def test_a_flip_that_came_up_before_is_not_scored_again(images) -> None:
    metric = load_metric("counting")
    counting = metric.module
    for m, seen in ((1, 1), (200, 4)):
        counting.seen = 0  # type: ignore[assignment]
        g = load(f"random-flip[m={m}]", metric)
        g.estimate(images, streams(3))
        assert counting.seen == 3 * seen
        assert np.allclose(g.estimate(images, streams(3)).score, g.surrogate(images, streams(3), m).double().mean(0))


def test_the_interval_of_a_deployed_score_holds_as_often_as_it_says(images) -> None:
    """The linear metric under noise draws exactly normal scores: mean <w,x>, deviation sigma |w|."""
    metric = load_metric("linear")
    x = images[0, :, :16, :16]
    truth = float(metric(x[None])[0])
    g = load("random-noise[sigma=0.02,m=8]", metric)
    found = g.estimate(many(x, 6000), streams(6000))
    wanted = 0.02 * float(metric.module.weights(x[None]).norm())  # type: ignore[operator]
    assert found.score.std() == pytest.approx(wanted / math.sqrt(8), rel=0.03)
    missed = int(((found.lo > truth) | (found.hi < truth)).sum())
    assert missed <= 16, "6 expected of 6000; more than 16 has probability 2e-4"
    normal = torch.randn(8, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sure = mean_estimate(normal)
    assert int(((sure.lo > 0) | (sure.hi < 0)).sum()) == pytest.approx(200, abs=45), "three deviations of 14"


def test_a_single_draw_has_no_interval(images) -> None:
    found = load("random-noise").estimate(images, streams(3))
    assert np.isinf(found.lo).all()
    assert np.isinf(found.hi).all()


@pytest.mark.parametrize("text", ["random-noise[m=20]", "random-crop[m=20]", "random-rotation[m=20]"])
def test_draws_scored_together_are_those_scored_one_by_one(text) -> None:
    """Whatever the chunk: the limit on pixels decides how many draws one call of the metric gets."""
    g = load(text, load_metric("tiny-iqa"))
    x = torch.rand(2, 3, 88, 96, generator=torch.Generator().manual_seed(0))
    rng = streams(2)
    with torch.inference_mode():
        slow = torch.stack([g.metric(g.draw(x, rng)) for _ in range(20)]).double().mean(0)
    calls: list[int] = []
    g.metric.register_forward_pre_hook(lambda _, seen: calls.append(len(seen[0])))
    side = math.prod(g.output_size(88, 96))
    for limit, expected in ((1, [2] * 20), (14 * side, [14, 14, 12]), (10**9, [40])):
        calls.clear()
        with mock.patch.object(base, "MAX_PIXELS", limit):
            found = g.estimate(x, streams(2)).score
        assert calls == expected
        assert np.allclose(found, slow, atol=1e-5 * g.metric.span)


def test_averaging_over_draws_gains_more_than_ignoring_them() -> None:
    """Naive: what works on the undefended metric, and one draw a step; adaptive: eight draws a step."""
    data = load_dataset("photos[size=128,subset=references]")
    x = torch.stack([data.load(i)[:, 30:94, 30:94] for i in range(5)])
    g = load("random-resize[noise=0.05,m=32]", load_metric("tiny-iqa"))
    naive, single, adaptive = (
        load_attack(attack)(g, x, Linf(2 / 255)).gain.mean() for attack in ("transfer", "pgd", "eot-pgd")
    )
    assert adaptive > 1.1 * single > 0
    assert adaptive > 1.5 * naive > 0


@pytest.mark.parametrize("text", ["random-crop[share=0.9,m=8]", "random-rotation[m=8]", "random-flip[m=8]"])
def test_following_the_draws_gradients_raises_the_deployed_score(text) -> None:
    data = load_dataset("photos[size=128,subset=references]")
    x = torch.stack([data.load(i)[:, 24:104, 24:104] for i in range(2)])
    g = load(text, load_metric("tiny-iqa"))
    adaptive, noise = (load_attack(a)(g, x, Linf(4 / 255)).gain for a in ("eot-pgd", "random-noise"))
    assert np.all(adaptive > 5)
    assert np.all(adaptive > 10 + noise), "in points of 100; noise lowers the score"


def test_the_measured_spread_is_that_of_the_draws(images) -> None:
    """The linear metric under noise: deviation sigma |w|, and a third of it for nine draws."""
    metric = load_metric("linear")
    wanted = 0.05 * float(metric.module.weights(images).norm())  # type: ignore[operator]
    for m in (1, 9):
        scores = example("measure_randomness").evaluations(load(f"random-noise[sigma=0.05,m={m}]", metric), images, 100)
        mean, deviation, _ = example("measure_randomness").spread(scores)
        assert mean == pytest.approx(float(metric(images).mean()), abs=wanted / 2)
        assert deviation == pytest.approx(wanted / m**0.5, rel=0.12)
    agree, swap = np.array([[1.0, 2, 3, 4], [2.0, 3, 4, 5]]), np.array([[1.0, 2, 3, 4], [4.0, 3, 2, 1]])
    assert example("measure_randomness").spread(agree) == pytest.approx((3.0, 0.5**0.5, 1.0))
    assert example("measure_randomness").spread(swap)[2] == pytest.approx(-1.0)


@pytest.mark.parametrize(("text", "words"), [
    ("random-noise[sigma=0]", r"random-noise\[sigma=0.0\]: expected a number in \(0, 1\]"),
    ("random-noise[sigma=1.5]", r"sigma=1.5\]: expected"),
    ("random-noise[m=0]", "m=0: expected 1 to 10000 draws"),
    ("random-flip[m=10001]", "m=10001: expected 1 to 10000"),
    ("random-crop[share=0]", r"share=0.0\]: expected a number in \(0, 1\]"),
    ("random-crop[share=1.01]", "share=1.01"),
    ("random-crop[size=0]", "at least 1 px"),
    ("random-crop[share=0.5,size=64]", "expected a share, or a size"),
    ("random-resize[grow=0.5]", r"grow=0.5\]: expected a number in \[1, 2\]"),
    ("random-resize[grow=2.1]", "grow=2.1"),
    ("random-resize[noise=-0.1]", r"noise=-0.1\]: expected a number in \[0, 1\]"),
    ("random-rotation[degrees=0]", r"degrees=0.0\]: expected a number in \(0, 180\]"),
    ("random-rotation[degrees=181]", "degrees=181"),
])  # fmt: skip
def test_impossible_settings_are_named(linear, text, words) -> None:
    with pytest.raises(BadParameter, match=words):
        load_defense(text, linear)


def test_presets_can_be_loaded(linear) -> None:
    for name in ("random-noise", "random-crop", "random-resize", "random-rotation"):
        strength = registry.get("defense", name).meta["strength"]
        assert len([load_defense(text, linear) for text in strength.specs(name)]) >= 4
