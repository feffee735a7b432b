"""Chains: the composition of their steps, in value, gradient, size, draws and declarations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import Metric, load_metric
from robustiqa.bench.errors import BadImage, BadParameter, UnknownName
from robustiqa.bench.registry import identity_of
from robustiqa.bench.seeds import Role, Streams
from robustiqa.defenses import load_defense
from robustiqa.defenses.base import Transform
from robustiqa.defenses.chain import Chain

MIXED = "chain[steps=jpeg[quality=70];random-noise[sigma=0.05];random-crop;gaussian-blur]"


def streams(count: int, seed: int = 0) -> Streams:
    return Streams.create([str(i) for i in range(count)], Role.EVALUATION, seed)


def step(text: str, metric: Metric | None = None) -> Transform:
    g = load_defense(text, metric or load_metric("linear"))
    assert isinstance(g, Transform)
    return g


def test_a_chain_is_its_steps_one_after_the_other_on_the_same_streams(images) -> None:
    rng, y = streams(3), images
    for text in ("jpeg[quality=70]", "random-noise[sigma=0.05]", "random-crop", "gaussian-blur"):
        y = step(text).step(y, rng)
    g = step(MIXED)
    assert torch.equal(g.step(images, streams(3)), y)
    assert torch.equal(g.step_surrogate(images, streams(3)), y), "the surrogate's values are exact"
    assert tuple(y.shape[2:]) == g.output_size(48, 40) == (36, 30)
    assert np.allclose(g.estimate(images, streams(3)).score, g.metric(y), rtol=1e-6)


def test_the_order_counts(images) -> None:
    one, other = (
        step(f"chain[steps={s}]").step(images, streams(3)) for s in ("jpeg;gaussian-blur", "gaussian-blur;jpeg")
    )
    assert not torch.allclose(one, other, atol=1e-3)


def test_two_random_steps_have_numbers_of_their_own(images) -> None:
    """Not the same noise twice: the second step goes on in the stream where the first one stopped."""
    grey = images * 0 + 0.5
    noise = step("chain[steps=random-noise[sigma=0.05];random-noise[sigma=0.05]]").step(grey, streams(3)) - 0.5
    once = step("random-noise[sigma=0.05]").step(grey, streams(3)) - 0.5
    assert float(noise.std() / once.std()) == pytest.approx(2**0.5, rel=0.02), "2 for the same noise"


def test_what_a_chain_is_follows_from_its_steps(linear) -> None:
    still = load_defense("chain[steps=gaussian-blur;gaussian-blur[kernel=3]]", linear)
    assert (still.randomised, still.smooth, still.differentiable, still.cost) == (False, True, True, 1)  # type: ignore[attr-defined]
    drawn = load_defense(MIXED, linear)
    assert (drawn.randomised, drawn.smooth) == (True, False)  # type: ignore[attr-defined]
    assert load_defense("chain[steps=random-flip;random-crop,m=4]", linear).cost == 4


def test_a_deterministic_chain_is_exact_and_has_one_row(linear, images) -> None:
    g = load_defense("chain[steps=jpeg;gaussian-blur]", linear)
    found = g.estimate(images, streams(3))
    assert np.array_equal(found.lo, found.score)
    assert np.array_equal(found.score, g.estimate(images, streams(3, seed=1)).score)
    assert g.surrogate(images, streams(3), 5).shape == (1, 3)


def test_a_random_chain_deploys_the_mean_of_its_draws(linear, images) -> None:
    g = load_defense("chain[steps=random-crop;random-noise,m=4]", linear)
    draws = g.surrogate(images, streams(3), 4)
    assert float(draws.std(0).min()) > 0
    found = g.estimate(images, streams(3))
    assert np.allclose(found.score, draws.double().mean(0), rtol=1e-5)
    assert np.all(np.isfinite(found.hi - found.lo))
    alone = torch.cat([g.surrogate(images[i : i + 1], streams(3)[i : i + 1], 4) for i in range(3)], dim=1)
    assert torch.allclose(alone, draws, atol=1e-5)


def test_gradient_of_smooth_steps_is_that_of_finite_differences() -> None:
    g = load_defense("chain[steps=gaussian-blur;random-rotation;random-crop]", load_metric("bounded").double())
    x = 0.2 + 0.6 * torch.rand(2, 3, 40, 44, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(g.surrogate(x, streams(2), 3).sum(), x)
    d = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (g.surrogate(x + s * 1e-5 * d, streams(2), 3).sum() for s in (1, -1))
    assert float((ahead - behind) / 2e-5) == pytest.approx(float((gradient * d).sum()), rel=2e-3)


def test_following_the_surrogate_raises_the_deployed_score(linear, images) -> None:
    """Through two steps without a gradient of their own, and through a random one between them."""
    for text in ("chain[steps=jpeg;gaussian-blur;jpeg[quality=80]]", "chain[steps=jpeg;random-noise;jpeg,m=8]"):
        g = load_defense(text, linear)
        adaptive, noise = (
            load_attack(a)(g, images, Linf(4 / 255)).gain for a in ("eot-pgd[steps=4,draws=2]", "random-noise")
        )
        assert np.all(adaptive > 3 * np.abs(noise))


def test_surrogates_are_a_few_views_of_one_score(linear, images) -> None:
    """Two steps with two gradients each: both firsts, then both alternatives, not four combinations."""
    g = load_defense("chain[steps=jpeg;gaussian-blur;jpeg[quality=80]]", linear)
    views = g.surrogates()
    assert views[0] is g
    assert len(views) == 2
    x = images.clone().requires_grad_(True)
    slopes = []
    for view in views:
        assert view.spec == g.spec
        scores = view.surrogate(x, streams(3))
        assert torch.allclose(scores[0], g(images), atol=1e-5)
        slopes.append(torch.autograd.grad(scores.sum(), x)[0])
    # With the gradients of the identity on either side, only the blur's is left.
    (blurs,) = torch.autograd.grad(load_defense("gaussian-blur", linear).surrogate(x, streams(3)).sum(), x)
    assert torch.allclose(slopes[1], blurs, atol=1e-6)
    assert not torch.allclose(slopes[0], blurs, atol=1e-4)
    assert load_defense("chain[steps=gaussian-blur;random-flip]", linear).surrogates()[1:] == []
    drawn = load_defense("chain[steps=random-noise;jpeg,m=4]", linear).surrogates()
    assert [(view.cost, view.randomised) for view in drawn] == [(4, True)] * 2


def test_nested_chains_are_the_same_steps(linear, images) -> None:
    flat = step("chain[steps=random-noise;jpeg;gaussian-blur]", linear)
    nested = step("chain[steps=chain[steps=random-noise;chain[steps=jpeg]];gaussian-blur]", linear)
    assert torch.equal(nested.step(images, streams(3)), flat.step(images, streams(3)))
    assert len(nested.surrogates()) == len(flat.surrogates()) == 2
    assert nested.spec == "chain[steps=chain[steps=random-noise;chain[steps=jpeg]];gaussian-blur]"


def test_what_a_step_is_counts_in_the_chains_identity() -> None:
    known = {identity_of("defense", f"chain[steps={s}]") for s in ("jpeg", "jpeg[quality=70]", "jpeg;random-flip")}
    assert len(known) == 3
    assert all("jpeg-v1" in text for text in known)


def test_a_long_chain_has_an_identity() -> None:
    """Its steps are no file's name, and longer than one may be."""
    steps = ";".join(["gaussian-blur[kernel=5,sigma=1.25]"] * 12)
    assert len(steps) > 255
    assert identity_of("defense", f"chain[steps={steps}]").count("gaussian-blur-v1[kernel=5,sigma=1.25]") == 12
    assert identity_of("defense", f"chain[steps=chain[steps={steps}];jpeg]").count("gaussian-blur-v1") == 12


def test_a_parameter_too_long_for_a_path_is_no_file() -> None:
    with pytest.raises(UnknownName):
        identity_of("defense", f"denoise[denoiser={'x' * 5000}]")
    assert "x" * 5000 in identity_of("dataset", f"folder[root={'x' * 5000}]")


def test_a_chains_networks_move_with_it(linear) -> None:
    """Steps are modules of the chain, also those of views."""
    g = load_defense("chain[steps=jpeg;random-noise]", linear)
    assert isinstance(g, Chain)
    assert set(g.steps) <= set(g.modules())


@pytest.mark.parametrize(("text", "error", "words"), [
    ("chain[steps=]", BadParameter, "with ; between them"),
    ("chain[steps=jpeg;;gaussian-blur]", BadParameter, "with ; between them"),
    ("chain[steps=jpeg;]", BadParameter, "with ; between them"),
    ("chain[steps=jpg]", UnknownName, "did you mean 'jpeg'"),
    ("chain[steps=jpeg[qualitty=3]]", UnknownName, "qualitty"),
    ("chain[steps=jpeg[quality=0]]", BadParameter, r"jpeg\[quality=0\]"),
    ("chain[steps=jpeg;median-smoothing]", BadParameter, "median-smoothing.* only gives a score"),
    ("chain[steps=jpeg;random-noise[m=4]]", BadParameter, r"give the draws to the chain: chain\[steps=...,m=4\]"),
    ("chain[steps=jpeg,m=2]", BadParameter, r"chain\[m=2\]: expected 1 where no step is random"),
    ("chain[steps=random-noise,m=10001]", BadParameter, r"chain\[m=10001\]: expected 1 to 10000 draws"),
    ("chain[steps=random-noise,m=0]", BadParameter, r"chain\[m=0\]"),
])  # fmt: skip
def test_impossible_chains_are_named(linear, text, error, words) -> None:
    with pytest.raises(error, match=words):
        load_defense(text, linear)


def test_a_step_that_gets_too_small_an_image_is_named(images) -> None:
    g = load_defense("chain[steps=random-crop[share=0.25];gaussian-blur[kernel=31]]", load_metric("linear"))
    with pytest.raises(BadImage, match=r"step 2 of a chain, 'gaussian-blur\[kernel=31\]': .* is 10x12 px"):
        g(images)
    small = load_defense("chain[steps=gaussian-blur;random-crop]", load_metric("linear-64"))
    with pytest.raises(BadImage, match="metric 'linear-64' is 52x60 px: expected at least 64x64"):
        small(torch.full((1, 3, 80, 70), 0.5))
    with pytest.raises(BadImage, match=r"step 1 of a chain, 'random-crop\[size=64\]'"):
        load_defense("chain[steps=random-crop[size=64]]", load_metric("linear"))(images)
