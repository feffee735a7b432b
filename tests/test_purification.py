"""Purifications of pixels: what is deployed, against other people's code and against formulas written out."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from kornia.filters import bilateral_blur
from PIL import Image, features
from robustiqa.bench import load_metric
from robustiqa.bench.errors import Absent, BadImage, BadParameter
from robustiqa.bench.images import to_uint8
from robustiqa.bench.registry import registry
from robustiqa.defenses import load_defense
from robustiqa.defenses.base import Purification
from robustiqa.defenses.purification.webp import LONGEST
from scipy.ndimage import gaussian_filter, median_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

SIMPLE = ["diffjpeg", "webp", "resize", "upscale", "flip", "median-blur", "bilateral-blur", "unsharp",
          "color-quantization", "bit-depth", "non-local-means", "total-variation"]  # fmt: skip


def purification(text: str, metric: str = "linear") -> Purification:
    g = load_defense(text, load_metric(metric))
    assert isinstance(g, Purification)
    return g


@pytest.fixture(scope="module")
def odd() -> torch.Tensor:
    """Two images of 65x97 with edges, texture, and pixels that are black or white."""
    torch.manual_seed(3)
    rows, columns = torch.meshgrid(torch.arange(65.0), torch.arange(97.0), indexing="ij")
    waves = torch.stack([torch.sin(rows / k) * torch.cos(columns / (k + 3)) for k in (5, 7, 11)])
    blocks = torch.rand(3, 9, 13).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :65, :97] - 0.5
    noise = torch.rand(2, 3, 65, 97) - 0.5
    return (0.5 + 0.4 * torch.stack([waves, waves.flip(2)]) + 0.6 * blocks + 0.1 * noise).clamp(0, 1)


@pytest.mark.parametrize("text", SIMPLE)
def test_output_is_an_image_of_the_declared_size(odd, text) -> None:
    g = purification(text)
    for x in (odd, odd[..., :32, :40], (odd > 0.5).float(), torch.zeros(1, 3, 40, 33), torch.ones(1, 3, 40, 33)):
        y = g.purify(x)
        assert tuple(y.shape) == (*x.shape[:2], *g.output_size(*x.shape[2:]))
        assert y.dtype == x.dtype
        assert float(y.min()) >= 0
        assert float(y.max()) <= 1


@pytest.mark.parametrize("text", SIMPLE)
def test_an_image_in_a_batch_is_treated_as_alone(odd, text) -> None:
    g = purification(text)
    assert torch.allclose(g.purify(odd)[1:], g.purify(odd[1:]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("text", SIMPLE)
def test_presets_go_from_weak_to_strong(odd, text) -> None:
    if text == "flip":
        pytest.skip("no strength")
    strength = registry.get("defense", text).meta["strength"]
    views = [purification(spec, "linear") for spec in strength.specs(text)]
    assert len(views) >= 5

    def change(y: torch.Tensor) -> float:
        full = torch.nn.functional.interpolate(y, odd.shape[2:], mode="bilinear")
        return float((full - odd).square().mean())

    changes = [change(view.purify(odd)) for view in views]
    assert changes == sorted(changes)
    assert changes[-1] > 2 * changes[0]


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_webp_is_pillows(odd, quality) -> None:
    for image, purified in zip(odd, purification(f"webp[quality={quality}]").purify(odd), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(to_uint8(image), "RGB").save(buffer, "WEBP", quality=quality)
        assert np.array_equal(to_uint8(purified), np.asarray(Image.open(buffer).convert("RGB")))


def test_webp_needs_the_codec_and_a_size_that_fits(monkeypatch) -> None:
    with pytest.raises(BadImage, match="16383"):
        purification("webp").purify(torch.zeros(1, 3, 1, LONGEST + 1))
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    with pytest.raises(Absent, match="without WebP"):
        purification("webp")


def test_diffjpeg_is_near_pillows_jpeg_and_follows_its_quality(odd) -> None:
    for quality in (20, 50, 90):
        ours, pillows = (purification(f"{name}[quality={quality}]").purify(odd) for name in ("diffjpeg", "jpeg"))
        lost, apart = ((y - z).square().mean() for y, z in ((pillows, odd), (ours, pillows)))
        assert float(apart) < 0.5 * float(lost)
    assert not torch.equal(ours, pillows)


def halving(side: int) -> torch.Tensor:
    """Antialiased bilinear weights (side/2, side) for half of an even side: 1 3 3 1 over their sum."""
    weights = torch.zeros(side // 2, side, dtype=torch.float64)
    for i in range(side // 2):
        for j, weight in zip(range(2 * i - 1, 2 * i + 3), (1.0, 3.0, 3.0, 1.0), strict=True):
            if 0 <= j < side:
                weights[i, j] = weight
    return weights / weights.sum(1, keepdim=True)


def test_resize_averages_what_becomes_one_pixel(odd) -> None:
    x = odd[..., :64, :96].double()
    expected = torch.einsum("ih,bchw,jw->bcij", halving(64), x, halving(96))
    assert torch.allclose(purification("resize").purify(x), expected, atol=1e-12)


def test_resize_is_pillows_up_to_its_rounding(odd) -> None:
    small = purification("resize[scale=0.3]").purify(odd)
    assert tuple(small.shape[2:]) == (20, 29)  # 19.5 to even, 29.1
    for image, ours in zip(odd, small, strict=True):
        channels = [
            Image.fromarray(c.numpy(), "F").resize((29, 20), Image.Resampling.BILINEAR, reducing_gap=None)
            for c in image
        ]
        assert np.allclose(ours.numpy(), np.stack([np.asarray(c) for c in channels]), atol=1e-5)


@pytest.mark.parametrize(("text", "size"), [
    ("upscale[scale=0.25]", (97, 65)), ("upscale[height=50,scale=0.25,width=80]", (80, 50)),
])  # fmt: skip
def test_upscale_enlarges_again_to_the_own_or_a_fixed_size(odd, text, size) -> None:
    small = purification("resize[scale=0.25]").purify(odd)
    for ours, image in zip(purification(text).purify(odd), small, strict=True):
        channels = [Image.fromarray(c.numpy(), "F").resize(size, Image.Resampling.BILINEAR) for c in image]
        assert np.allclose(ours.numpy(), np.stack([np.asarray(c) for c in channels]), atol=1e-5)


def test_upscale_declares_a_fixed_size() -> None:
    assert purification("upscale[height=384,width=512]").output_size(10, 20) == (384, 512)


@pytest.mark.parametrize(("axes", "index"), [
    ("both", np.s_[:, ::-1, ::-1]), ("horizontal", np.s_[:, :, ::-1]), ("vertical", np.s_[:, ::-1]),
])  # fmt: skip
def test_flip_mirrors(odd, axes, index) -> None:
    ours = purification(f"flip[axes={axes}]").purify(odd)[0].numpy()
    assert np.array_equal(ours, odd[0].numpy()[index])


@pytest.mark.parametrize("kernel", [3, 5, 7, 11])
def test_median_is_scipys(odd, kernel) -> None:
    ours = purification(f"median-blur[kernel={kernel}]").purify(odd)
    for image, purified in zip(odd.numpy(), ours.numpy(), strict=True):
        assert np.array_equal(purified, np.stack([median_filter(c, kernel, mode="mirror") for c in image]))


def test_bilateral_is_kornias_and_its_formula(odd) -> None:
    g = purification("bilateral-blur[kernel=5,sigma_color=0.2,sigma_space=1.5]")
    ours = g.purify(odd)
    assert torch.allclose(ours, bilateral_blur(odd, 5, 0.2, (1.5, 1.5)), atol=2e-6)
    y, x = 30, 51
    window = odd[0, :, y - 2 : y + 3, x - 2 : x + 3].double()
    apart = (window - odd[0, :, y, x, None, None].double()).abs().sum(0)
    steps = torch.arange(-2.0, 3.0, dtype=torch.float64).square()
    weight = torch.exp(-apart.square() / 0.08 - (steps[:, None] + steps[None]) / 4.5)
    expected = (window * weight).sum((1, 2)) / weight.sum()
    assert torch.allclose(ours[0, :, y, x].double(), expected, atol=1e-6)


def test_unsharp_adds_what_a_blur_takes(odd) -> None:
    ours = purification("unsharp[amount=1.5,kernel=7,sigma=1.2]").purify(odd)
    for image, purified in zip(odd.numpy(), ours.numpy(), strict=True):
        blurred = np.stack([gaussian_filter(c, 1.2, mode="mirror", radius=3) for c in image])
        assert np.allclose(purified, np.clip(image + 1.5 * (image - blurred), 0, 1), atol=1e-5)
    assert float((ours == 1).float().mean()) > 0.01


def test_quantisation_rounds_to_uniform_levels_that_hold_black_and_white() -> None:
    ramp = torch.linspace(0, 1, 301).expand(1, 3, 2, 301)
    for spec, levels in (("color-quantization[levels=5]", 5), ("bit-depth[bits=3]", 8), ("bit-depth[bits=1]", 2)):
        ours = purification(spec).purify(ramp)
        grid = torch.linspace(0, 1, levels)
        nearest = grid[(ramp[..., None] - grid).abs().argmin(-1)]
        middle = ((ramp * (levels - 1)) % 1 - 0.5).abs() < 1e-4  # either neighbour is as near
        assert torch.allclose(ours[~middle], nearest[~middle], atol=1e-6)
        assert len(ours.unique()) == levels
    assert torch.equal(purification("bit-depth").purify(ramp), purification("color-quantization").purify(ramp))


@pytest.mark.parametrize("sigma", [0.0, 0.04])
def test_non_local_means_are_scikit_images(odd, sigma) -> None:
    g = purification(f"non-local-means[distance=4,h=0.08,patch=3,sigma={sigma}]")
    for image, ours in zip(odd.numpy(), g.purify(odd).numpy(), strict=True):
        array = np.ascontiguousarray(image.transpose(1, 2, 0))
        theirs = denoise_nl_means(array, 3, 4, 0.08, True, sigma, channel_axis=2)
        assert np.allclose(ours, theirs.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize(("weight", "iterations"), [(0.1, 50), (0.3, 12), (0.02, 2)])
def test_total_variation_is_scikit_images(odd, weight, iterations) -> None:
    ours = purification(f"total-variation[iterations={iterations},weight={weight}]").purify(odd)
    for image, purified in zip(odd.numpy(), ours.numpy(), strict=True):
        theirs = denoise_tv_chambolle(image, weight, eps=0, max_num_iter=iterations, channel_axis=0)
        assert np.allclose(purified, np.clip(theirs, 0, 1), atol=2e-6)


@pytest.mark.parametrize(("text", "words"), [
    ("diffjpeg[quality=0]", r"diffjpeg\[quality=0\]: expected 1 to 95"),
    ("diffjpeg[surrogate=none]", "expected exact or identity"),
    ("webp[quality=101]", "expected 0 to 100"),
    ("webp[surrogate=soft]", "expected diffjpeg or identity"),
    ("resize[scale=0.0]", r"resize\[scale=0.0\]: expected a number above 0 and below 1"),
    ("resize[scale=1.0]", "below 1"),
    ("upscale[scale=1.5]", r"upscale\[scale=1.5\]"),
    ("upscale[height=384]", "two sides"),
    ("upscale[height=8193,width=5]", "two sides of 1 to 8192 px"),
    ("upscale[height=5,width=8193]", "two sides of 1 to 8192 px"),
    ("upscale[height=-1,width=-1]", "two sides"),
    ("flip[axes=diagonal]", "expected both or horizontal or vertical"),
    ("median-blur[kernel=4]", r"median-blur\[kernel=4\]: expected an odd number"),
    ("median-blur[kernel=1]", "at least 3"),
    ("bilateral-blur[kernel=2]", "odd"),
    ("bilateral-blur[sigma_color=0.0]", r"sigma_color=0.0\]: expected a number from 0.001 to 1000"),
    ("bilateral-blur[sigma_color=1e-30]", "sigma_color=1e-30"),
    ("bilateral-blur[sigma_space=-1.0]", "sigma_space"),
    ("gaussian-blur[sigma=1e-30]", r"gaussian-blur\[sigma=1e-30\]: expected a number from 0.001"),
    ("median-blur[kernel=33]", r"median-blur\[kernel=33\]: expected a number from 3 to 31"),
    ("unsharp[kernel=6]", "odd"),
    ("unsharp[sigma=0.0]", r"unsharp\[sigma=0.0\]"),
    ("unsharp[amount=0.0]", r"unsharp\[amount=0.0\]"),
    ("color-quantization[levels=1]", "expected 2 to 256"),
    ("color-quantization[levels=257]", "expected 2 to 256"),
    ("bit-depth[bits=0]", r"bit-depth\[bits=0\]: expected 1 to 8"),
    ("bit-depth[bits=9]", "expected 1 to 8"),
    ("bit-depth[surrogate=exact]", r"bit-depth\[surrogate=exact\]: expected soft or identity"),
    ("non-local-means[h=0.0]", r"h=0.0\]: expected a number from 0.001 to 1000"),
    ("non-local-means[patch=4]", "odd"),
    ("non-local-means[distance=0]", "at least 1"),
    ("non-local-means[sigma=-0.1]", "sigma"),
    ("non-local-means[sigma=1.1]", r"sigma=1.1\]: expected a number from 0 to 1"),
    ("total-variation[weight=0.0]", "from 0.001 to 1000"),
    ("total-variation[iterations=1]", "from 2 to 10000"),
    ("total-variation[iterations=10001]", "from 2 to 10000"),
])  # fmt: skip
def test_bad_parameters_are_named(text, words) -> None:
    with pytest.raises(BadParameter, match=words):
        purification(text)


@pytest.mark.parametrize(("text", "smallest"), [
    ("median-blur[kernel=7]", 4), ("bilateral-blur[kernel=7]", 4), ("unsharp[kernel=7]", 4),
    ("non-local-means[distance=4,patch=5]", 8), ("diffjpeg", 1), ("webp", 1), ("flip", 1),
    ("bit-depth", 1), ("total-variation", 1),
])  # fmt: skip
def test_smallest_images(text, smallest) -> None:
    g = purification(text)
    for size in ((smallest, smallest), (smallest, 40)):
        x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        y = g.purify_surrogate(x)
        assert tuple(y.shape[2:]) == g.output_size(*size)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert bool(torch.isfinite(gradient).all())
    if smallest > 1:
        with pytest.raises(BadImage, match=f"40x{smallest - 1} px: expected at least {smallest}x{smallest}"):
            g.purify(torch.zeros(1, 3, smallest - 1, 40))


def test_an_image_that_resize_makes_too_small_for_the_metric_is_named() -> None:
    g = purification("resize[scale=0.25]", "tiny-iqa")
    with pytest.raises(BadImage, match="metric 'tiny-iqa' is 50x25 px: expected at least 64x64"):
        g(torch.zeros(1, 3, 100, 200))


def test_a_later_step_may_enlarge_what_resize_made_too_small_for_the_metric() -> None:
    g = load_defense("chain[steps=resize[scale=0.25];upscale[height=64,width=80]]", load_metric("tiny-iqa"))
    x = torch.rand(1, 3, 100, 200, generator=torch.Generator().manual_seed(1))
    assert bool(torch.isfinite(g(x)).all())


@pytest.mark.parametrize("name", ["resize", "upscale"])
def test_an_image_of_which_no_pixel_would_be_left_is_named(name: str) -> None:
    """Sides are rounded, halves to even: 6 px at a tenth are one pixel, 5 px none."""
    g = purification(f"{name}[scale=0.1]")
    assert g.purify(torch.zeros(1, 3, 6, 40)).shape == ((1, 3, 1, 4) if name == "resize" else (1, 3, 6, 40))
    with pytest.raises(BadImage, match=rf"40x5 px after {name}\[scale=0.1\] is 4x0 px: expected at least 1x1"):
        g.purify(torch.zeros(1, 3, 5, 40))


@pytest.mark.parametrize("text", [
    "bilateral-blur[sigma_color=0.001,sigma_space=0.001]", "bilateral-blur[sigma_color=1000,sigma_space=1000]",
    "gaussian-blur[sigma=0.001]", "gaussian-blur[sigma=1000]", "unsharp[sigma=0.001,amount=1000]",
    "unsharp[sigma=1000,amount=0.001]", "non-local-means[h=0.001,sigma=1]", "non-local-means[h=1000]",
    "total-variation[weight=0.001]", "total-variation[weight=1000]",
])  # fmt: skip
def test_values_and_gradients_are_finite_at_the_ends_of_what_is_allowed(text: str) -> None:
    """Also where patches are flat, so that all distances are zero."""
    x = torch.rand(1, 3, 24, 26, generator=torch.Generator().manual_seed(1))
    x[..., :8], x[..., 8:16] = 0.0, 1.0
    x.requires_grad_(True)
    y = purification(text).purify_surrogate(x)
    (gradient,) = torch.autograd.grad((y * torch.rand_like(y)).sum(), x)
    assert bool(torch.isfinite(y).all())
    assert bool(torch.isfinite(gradient).all())
