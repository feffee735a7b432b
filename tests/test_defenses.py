"""Defences: what is deployed is exact, and what is attacked has its values."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.bench import load_metric
from robustiqa.bench.errors import BadImage, BadParameter, BadScore, Incompatible, UnknownName
from robustiqa.bench.images import quantise, to_uint8
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams
from robustiqa.defenses import load_defense
from scipy.ndimage import gaussian_filter

DETERMINISTIC = ["none", "jpeg", "jpeg[quality=20,surrogate=identity]", "gaussian-blur", "gaussian-blur[kernel=9]",
                 "fixed-noise-median-smoothing[m=5]", "chain[steps=jpeg;gaussian-blur]",
                 "denoise", "ensemble[others=bounded]"]  # fmt: skip
PIXELS = ["diffjpeg", "webp", "resize", "upscale", "flip", "median-blur", "bilateral-blur", "unsharp",
          "color-quantization", "bit-depth", "non-local-means", "total-variation"]  # fmt: skip
DETERMINISTIC += PIXELS
MEDIANS = ["median-smoothing[n=64,m=9]", "denoised-median-smoothing[n=64,m=9]"]
RANGE = "low=-5,high=11"  # the linear metric declares none
SAMPLED = [
    *MEDIANS,
    "trimmed-mean-smoothing[n=64,m=9]",
    "l-estimator-smoothing[n=64,m=9]",
    "l-estimator-smoothing[n=64,m=9,weights=winsorised,trim=0.2]",
    "center-smoothing[n=64,m=9]",
    f"mean-smoothing[n=64,m=9,{RANGE}]",
    f"cdf-mean-smoothing[n=64,m=9,{RANGE}]",
    f"score-bins[n=64,m=9,{RANGE}]",
    f"denoised-score-bins[n=64,m=9,{RANGE}]",
]
DRAWN = ["random-noise", "random-crop[m=2]", "random-resize[noise=0.02]", "random-rotation[m=3]", "random-flip[m=5]",
         "chain[steps=random-noise;jpeg,m=2]"]  # fmt: skip
RANDOMISED = [*SAMPLED, *DRAWN, "diffusion-purification", "random-metric[others=bounded,m=9]"]


def _streams(x: torch.Tensor, seed: int = 0) -> Streams:
    return Streams.create([str(i) for i in range(len(x))], Role.EVALUATION, seed)


@pytest.mark.parametrize("text", DETERMINISTIC)
def test_surrogate_has_the_deployed_values_and_a_gradient(linear, images, text) -> None:
    g = load_defense(text, linear)
    x = images.clone().requires_grad_(True)
    scores = g.surrogate(x, _streams(images))
    assert scores.shape == (1, 3)
    assert torch.allclose(scores[0].detach(), g(images), atol=1e-5)
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    assert float(gradient.abs().mean()) > 0


@pytest.mark.parametrize("text", [*DETERMINISTIC, *RANDOMISED])
def test_score_alone_is_the_score_in_a_batch(linear, images, text) -> None:
    g = load_defense(text, linear)
    alone = torch.cat([g(image[None]) for image in images])
    assert torch.allclose(g(images), alone, atol=1e-4)
    assert torch.allclose(g(images), g(images))


@pytest.mark.parametrize("text", RANDOMISED)
def test_randomised_scores_depend_on_the_stream_and_on_nothing_else(linear, images, text) -> None:
    g = load_defense(text, linear)
    first, again, other = (g.estimate(images, _streams(images, s)).score for s in (0, 0, 1))
    assert np.array_equal(first, again)
    if "bins" not in text:  # three bins may well be the same for other draws
        assert not np.array_equal(first, other)
    assert g.randomised


def test_jpeg_is_pillows(linear, images) -> None:
    g = load_defense("jpeg[quality=35]", linear)
    for image, purified in zip(images, g.purify(images), strict=True):  # type: ignore[operator]
        buffer = io.BytesIO()
        Image.fromarray(to_uint8(image), "RGB").save(buffer, format="JPEG", quality=35, subsampling=2)
        assert np.array_equal(to_uint8(purified), np.asarray(Image.open(buffer)))


def test_blur_is_scipys(linear, images) -> None:
    g = load_defense("gaussian-blur[kernel=9,sigma=1.0]", linear)
    ours = g.purify(images)[0].numpy()  # type: ignore[operator]
    theirs = np.stack([gaussian_filter(c, 1.0, mode="mirror", radius=4) for c in images[0].numpy()])
    assert np.allclose(ours, theirs, atol=1e-5)


def test_bpda_raises_the_deployed_score_not_only_the_surrogates(linear, images) -> None:
    """JPEG has no gradient of its own; the adaptive attack moves the exact score, far more than noise does."""
    g = load_defense("jpeg[quality=50]", linear)
    adaptive = load_attack("pgd")(g, images, Linf(4 / 255))
    noise = load_attack("random-noise")(g, images, Linf(4 / 255))
    assert np.all(adaptive.gain > 5 * np.abs(noise.gain))
    assert torch.allclose(g(adaptive.adversarial), torch.as_tensor(adaptive.attacked.score, dtype=torch.float32))
    assert torch.allclose(g(quantise(adaptive.adversarial)).double(), torch.as_tensor(adaptive.attacked_8bit.score))


def test_smoothing_adds_noise_before_any_clamp(linear) -> None:
    """At a black image half of the noisy values are negative; clamping first would shift the median."""
    g = load_defense("median-smoothing[sigma=0.25,n=10,m=2001]", linear)
    black = torch.zeros(1, 3, 32, 32)
    estimate = g.estimate(black, _streams(black))
    assert estimate.lo[0] < 3.0 < estimate.hi[0]


def test_denoiser_is_called(images) -> None:
    """The published slip: "denoised" runs that never call the denoiser."""
    metric = load_metric("linear")
    g = load_defense("denoised-median-smoothing[n=64]", metric)
    plain, denoised = (
        load_defense(d, metric).certify(images, [0.05]).spread for d in ("median-smoothing[n=64]", g.spec)
    )
    assert not np.allclose(plain, denoised)
    with torch.inference_mode():
        noisy = images + 0.12 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        expected = metric(g.denoiser(noisy))  # type: ignore[operator]
        assert torch.allclose(g.base_score(noisy), expected)  # type: ignore[operator]


def test_certificate_pool_does_not_depend_on_the_batch(linear, images) -> None:
    g = load_defense("median-smoothing[n=300]", linear)
    together = g.certify(images, [0.05])
    alone = g.certify(images[1:2], [0.05])
    assert np.array_equal(together.hi[1:2], alone.hi)


def test_certification_and_evaluation_draws_are_disjoint(linear, images) -> None:
    g = load_defense("median-smoothing[n=25,m=25]", linear)
    assert not np.array_equal(g.certify(images, [0.05]).score, g.estimate(images).score)


@pytest.mark.parametrize(("text", "word"), [
    ("jpeg[quality=0]", "quality"),
    ("jpeg[surrogate=none]", "surrogate"),
    ("gaussian-blur[kernel=4]", "odd"),
    ("gaussian-blur[sigma=-1.0]", "sigma"),
    ("median-smoothing[sigma=0.0]", "sigma"),
    ("median-smoothing[n=0]", "draws"),
    ("median-smoothing[n=1000000000000]", "draws"),
    ("denoised-median-smoothing[denoiser=absent]", "denoiser"),
])  # fmt: skip
def test_bad_parameters_are_refused(linear, text, word) -> None:
    with pytest.raises((BadParameter, UnknownName), match=word):
        load_defense(text, linear)


def test_uncertified_defences_say_so(linear, images) -> None:
    with pytest.raises(Incompatible, match="no certificate"):
        load_defense("jpeg", linear).certify(images, [0.05])


@pytest.mark.parametrize(("alpha", "eps"), [(0.0, [0.1]), (1.0, [0.1]), (0.1, []), (0.1, [-1.0]), (0.1, [np.inf])])
def test_bad_certification_arguments(linear, images, alpha, eps) -> None:
    with pytest.raises(BadParameter):
        load_defense("median-smoothing", linear).certify(images, eps, alpha)


@pytest.mark.parametrize("defense", ["none", "median-smoothing[n=10,m=5]"])
def test_nan_is_an_error_never_a_score(images, defense) -> None:
    g = load_defense(defense, load_metric("bright-nan"))
    bright = images * 0 + 0.9
    with pytest.raises(BadScore, match="NaN"):
        g(bright)
    with pytest.raises(BadScore, match="NaN"):
        load_attack("pgd")(g, bright, L2(0.1))
    if g.certified_norm:
        with pytest.raises(BadScore, match="NaN"):
            g.certify(bright, [0.05])


def test_metric_without_gradient_is_refused_by_white_box_attacks_only(images) -> None:
    g = load_defense("none", load_metric("no-gradient"))
    with pytest.raises(Incompatible, match="gradient"):
        load_attack("pgd")(g, images, L2(0.1))
    assert load_attack("random-noise")(g, images, L2(0.1)).gain.shape == (3,)


def test_wrong_shapes_are_refused(linear, images) -> None:
    with pytest.raises(BadScore, match="one score each"):
        load_defense("none", load_metric("two-outputs"))(images)
    for bad in (images[:, :1], images[0], (images * 255).to(torch.uint8)):
        with pytest.raises(BadImage, match="expected"):
            linear(bad)
    with pytest.raises(BadImage, match="values in"):
        load_attack("pgd")(load_defense("none", linear), images * 2, L2(0.1))


def test_defended_metric_stays_in_eval_mode(linear) -> None:
    g = load_defense("denoised-median-smoothing", linear)
    g.train()
    assert not any(module.training for module in g.modules())
    assert not any(p.requires_grad for p in g.parameters())


def test_every_registered_defence_is_covered_here() -> None:
    # Those need metrics or weights of their own.
    elsewhere = {"lipschitz", "interval-bounds", "diffusion-denoised-median-smoothing", "dms-iqa", "dms-iqa-tight",
                 "gradient-norm-training", "adversarial-training", "noise-training"}  # fmt: skip
    covered = {text.split("[")[0] for text in [*DETERMINISTIC, *RANDOMISED]} | elsewhere
    assert covered >= {n for n in registry.names("defense") if registry.get("defense", n).origin == "built-in"}
