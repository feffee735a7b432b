"""Attacks that follow the content of the image, or pay for what can be seen; minimal budgets; fixed draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.content import edges
from robustiqa.attacks.perceptual import busyness, luma, masked, ssim
from robustiqa.attacks.projection import project, unit
from robustiqa.attacks.rendered import ColourCurve, StAdv
from robustiqa.bench import Threat, load_dataset, load_metric
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.images import compare
from robustiqa.bench.objective import Objective
from robustiqa.bench.seeds import image_key
from robustiqa.defenses import load_defense
from scipy import ndimage
from skimage.metrics import structural_similarity
from support import optimum
from torch.nn import functional as F

RANDOMISED = "median-smoothing[n=200,m=7]"
PERCEPTUAL = ["zhang-ssim[steps=10]", "ssah", "ioi"]


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    data = load_dataset("photos[size=128,subset=quick]")
    return torch.stack([data.load(i)[:, 30:94, 30:94] for i in range(0, 10, 2)])


@pytest.mark.parametrize(
    "attack", ["korhonen-you", "madc", "stadv[steps=5]", "colour-curve[steps=5]", "minimal-eps", *PERCEPTUAL]
)
@pytest.mark.parametrize("threat", [L2(0.5), Linf(4 / 255)], ids=str)
@pytest.mark.parametrize("defense", ["none", RANDOMISED])
def test_they_keep_the_budget_and_gain(linear, images, attack, threat, defense) -> None:
    result = load_attack(attack)(load_defense(defense, linear), images, threat)
    used = result.l2 if threat.norm == "l2" else result.linf
    assert np.all(used <= threat.eps)
    assert np.all(result.gain > 0)


def test_orthogonal_steps_reach_the_optimum(linear, images) -> None:
    for threat in (L2(0.5), Linf(4 / 255)):
        result = load_attack("madc")(load_defense("none", linear), images, threat)
        assert np.all(result.gain >= 0.97 * optimum(linear, images, threat))


def test_edge_weighted_steps_move_what_their_weights_allow(linear, images) -> None:
    """In linf a value with weight m is moved by min(1, 2.5 m) eps along the sign of a constant gradient."""
    result = load_attack("korhonen-you")(load_defense("none", linear), images, Linf(4 / 255))
    w = linear.module.weights(images).abs().double()
    best = 4 / 255 * ((2.5 * edges(images)).clamp_max(1.0) * w).sum((1, 2, 3))
    assert np.allclose(result.gain, best.numpy(), rtol=1e-3)


def test_edge_weights_are_those_of_scipy() -> None:
    image = load_dataset("photos[size=128,subset=quick]").load(0)
    luma = (image.numpy() * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    squared = ndimage.sobel(luma, 0, mode="nearest") ** 2 + ndimage.sobel(luma, 1, mode="nearest") ** 2
    dilated = ndimage.maximum_filter(squared, 3)
    assert np.allclose(edges(image[None])[0, 0].numpy(), dilated / dilated.max(), atol=1e-4)
    assert torch.equal(edges(torch.full((1, 3, 8, 8), 0.4)), torch.ones(1, 1, 8, 8))


def test_a_flow_of_one_pixel_is_a_shift(images) -> None:
    attack, flow = StAdv(), torch.zeros_like(images[:, :2])
    assert torch.allclose(attack.render(images, flow), images, atol=1e-5)
    flow[:, 0] = 1.0
    moved = attack.render(images, flow)
    assert torch.allclose(moved[..., :-1], images[..., 1:], atol=1e-5)
    assert torch.allclose(moved[..., -1], images[..., -1], atol=1e-5)
    assert float(attack.penalty(flow)[0]) < 1e-5, "a shift is as smooth as no flow"


def test_colour_curves_rise_from_0_to_1() -> None:
    ramp = torch.linspace(0, 1, 256).view(1, 1, 1, 256).expand(1, 3, 4, 256)
    attack = ColourCurve(pieces=8)
    assert torch.allclose(attack.render(ramp, attack.start(ramp)), ramp, atol=1e-6)
    parameters = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1))
    curve = attack.render(ramp, parameters)[0, 1, 0]
    assert (curve[0], curve[-1]) == (0, pytest.approx(1.0, abs=1e-5))
    assert bool((curve.diff() > 0).all())
    slopes = parameters[0, 1].exp().numpy()
    knots = np.concatenate([[0], np.cumsum(slopes) / slopes.sum()])
    assert np.allclose(curve.numpy(), np.interp(ramp[0, 0, 0].numpy(), np.linspace(0, 1, 9), knots), atol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_smallest_budget_for_a_target_is_that_of_the_linear_metric(linear, images, norm) -> None:
    w = linear.module.weights(images).double()
    slope = float(w.norm() if norm == "l2" else w.abs().sum())
    limit = 2.0 / slope
    result = load_attack("minimal-eps[target=0.7,rounds=10]")(load_defense("none", linear), images, Threat(norm, limit))
    used = result.l2 if norm == "l2" else result.linf
    assert np.allclose(used, 0.7 / slope, rtol=0.01)
    assert np.all(result.gain >= 0.7 - 1e-3)


def test_a_target_out_of_reach_gives_the_largest_move(linear, images) -> None:
    result = load_attack("minimal-eps[target=5]")(load_defense("none", linear), images, L2(0.2))
    assert np.all(result.gain >= 0.99 * optimum(linear, images, L2(0.2)))


def test_fixed_draws_are_overfitted_and_fresh_ones_are_not() -> None:
    """Against one fixed draw the ascent gains on that draw what fresh draws do not show."""
    metric, x = load_metric("tiny-iqa"), load_dataset("photos[size=128,subset=quick]").load(0)[None, :, :64, :64]
    g = load_defense("median-smoothing[sigma=0.12,n=50,m=31]", metric)
    objective = Objective(g, [image_key(x[0])], salt="known")
    z = x
    for _ in range(10):
        value, gradient = objective.gradient(z, 1, fixed=True)
        z = project(z + 0.2 * unit(gradient, "l2"), x, L2(0.5))
    first, _ = objective.gradient(x, 1, fixed=True)
    value, _ = objective.gradient(z, 1, fixed=True)
    seen = float(value - first)
    fresh = float(objective.select(z, 200) - objective.select(x, 200))
    assert seen > 3 * abs(fresh)


# --- paying for what can be seen


def test_similarity_is_that_of_scikit_image(photographs) -> None:
    noisy = (photographs + 0.05 * torch.randn(photographs.shape, generator=torch.Generator().manual_seed(2))).clamp(
        0, 1
    )
    a, b = luma(photographs), luma(noisy)
    for i in range(len(a)):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        full: Any = structural_similarity(a[i, 0].numpy(), b[i, 0].numpy(), full=True, **options)[1]
        assert float(ssim(a, b)[i]) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-4)
    assert torch.allclose(ssim(a, a), torch.ones(5))
    assert ssim(a[..., :4, :6], b[..., :4, :6]).shape == (5,)


@pytest.mark.parametrize("attack", ["zhang-ssim[steps=20,weight={}]", "ssah[weight={}]"])
def test_a_penalty_buys_similarity_for_gain(photographs, attack) -> None:
    """Without a penalty it is PGD; with a large one less is gained and less is seen."""
    g = load_defense("none", load_metric("tiny-iqa"))
    free, dear = (load_attack(attack.format(w))(g, photographs, L2(0.5)) for w in (0, 1000))
    plain = load_attack("pgd[steps=20]")(g, photographs, L2(0.5))
    assert np.allclose(free.gain, plain.gain, rtol=1e-4)
    assert dear.gain.mean() < 0.9 * free.gain.mean()
    if attack.startswith("zhang"):
        assert dear.ssim.mean() > free.ssim.mean()
    else:
        low = [torch.nn.functional.avg_pool2d(r.adversarial - photographs, 2).square().sum() for r in (free, dear)]
        assert low[1] < low[0]


def test_ioi_changes_no_strong_frequency_where_the_map_is_even() -> None:
    """On a chessboard the map is 1, and only the frequency mask is left: the strongest coefficients do not move."""
    board = torch.from_numpy(np.indices((32, 32)).sum(0) % 2).float() * 0.5 + 0.25
    board = F.pad(board[None, None], (1, 1, 1, 1), mode="circular")[..., :32, :32].expand(1, 3, 32, 32)
    inner = busyness(board)[..., 1:-1, 1:-1]
    assert torch.allclose(inner, torch.ones_like(inner), atol=1e-3)
    delta = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    left = masked(delta, x, 0.07) / busyness(x)
    top = torch.fft.fft2(x).abs().flatten(2).topk(round(0.07 * 1024), dim=2).indices
    moved = [torch.fft.fft2(v).abs().flatten(2).gather(2, top).max() for v in (left, delta)]
    assert float(moved[0]) < 1e-3 * float(moved[1])
    g = load_defense("none", load_metric("linear"))
    free, kept = (load_attack(f"ioi[keep={k}]")(g, x, Linf(4 / 255)).adversarial - x for k in (0, 0.07))
    ends = [torch.fft.fft2(v / busyness(x)).abs().flatten(2).gather(2, top).max() for v in (kept, free)]
    assert float(ends[0]) < 0.2 * float(ends[1]), "but for clipping at the box"


def test_busy_regions_are_those_of_scipy(photographs) -> None:
    grey = luma(photographs)[0, 0].numpy().astype(np.float64)
    mean = ndimage.uniform_filter(grey, 3, mode="nearest")
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(grey**2, 3, mode="nearest") - mean**2, 0))
    deviation[deviation < 0.01] = 0
    expected = np.sqrt(deviation / deviation.max())
    found = busyness(photographs)[0, 0].numpy()
    assert np.mean(np.abs(found - expected) < 1e-3) > 0.99, "but for values at the threshold"


def test_ioi_is_less_visible_than_a_step_of_the_same_size(photographs) -> None:
    g = load_defense("none", load_metric("tiny-iqa"))
    masked_step, step = (load_attack(a)(g, photographs, Linf(8 / 255)) for a in ("ioi", "fgsm"))
    assert np.all(masked_step.ssim > step.ssim)
    assert masked_step.gain.mean() > 0
    assert compare(photographs[0], masked_step.adversarial[0]).linf <= 8 / 255


@pytest.mark.parametrize("text", [
    "zhang-ssim[weight=-1]", "ssah[draws=0]", "ioi[keep=1]", "minimal-eps[target=0]", "stadv[rate=0]",
    "stadv[smooth=-1]", "colour-curve[pieces=1]", "madc[steps=0]",
])  # fmt: skip
def test_impossible_settings_are_named(text) -> None:
    with pytest.raises(BadParameter, match="expected"):
        load_attack(text)
