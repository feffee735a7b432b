"""`ibp-iqa` and the intervals it is certified with: sound for every layer and every attack, exact where it can be."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from robustiqa.bench.errors import BadData, BadParameter, Incompatible
from robustiqa.bench.images import from_uint8
from robustiqa.bench.intervals import propagate
from robustiqa.bench.metrics.ibp_iqa import IbpIQA, ibp_iqa
from robustiqa.bench.metrics.loading import FOLDER
from robustiqa.bench.training.trainees import IbpTrainee
from safetensors.torch import save_file
from torch import nn

WEIGHTS = FOLDER / "ibp-iqa.safetensors"
GOLDEN = 45.949


@pytest.fixture(scope="module")
def metric() -> IbpIQA:
    return ibp_iqa()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Three photographs, noise, and a flat image, 96x96."""
    pictures = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
    crops = [from_uint8(np.ascontiguousarray(p[40:136, 150:246])) for p in pictures]
    return torch.stack([*crops, noise(3, 96, 96), torch.full((3, 96, 96), 0.5)])


def every_kind(seed: int) -> nn.Sequential:
    """A network with each layer that has a rule, with random weights, for images of 3x33x29."""
    net = nn.Sequential(
        nn.Identity(),
        nn.Conv2d(3, 8, 5, stride=2, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=4, dilation=2, bias=False), nn.ReLU(), nn.AvgPool2d((2, 1))),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Flatten(),
        nn.Linear(48, 6),
        nn.ReLU(),
        nn.Linear(6, 2),
    )
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(noise(*parameter.shape, seed=100 * seed + i) - 0.5)
    return net.requires_grad_(False)


def worst_cases(net: nn.Module, x: torch.Tensor, eps: float) -> list[torch.Tensor]:
    """Points of the l_inf ball: uniform, corners, and where sign-gradient steps up and down end."""
    found = [x + eps * (2 * noise(*x.shape, seed=s) - 1) for s in range(4)]
    found += [x + eps * (2 * noise(*x.shape, seed=s) - 1).sign() for s in range(4, 8)]
    for sign in (1.0, -1.0):
        point = x.clone()
        for _ in range(10):
            point.requires_grad_(True)
            (gradient,) = torch.autograd.grad(net(point).sum(), point)
            point = x + (point.detach() + sign * 0.3 * eps * gradient.sign() - x).clamp(-eps, eps)
            found.append(point)
    return found


def test_the_files_are_small_and_have_a_card() -> None:
    assert WEIGHTS.stat().st_size <= 1e6
    card = WEIGHTS.with_suffix(".md").read_text()
    assert "robustiqa train certified-metric --data-root DATA_ROOT" in card
    assert "--net ibp-iqa" in card
    assert "/work" not in card


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (128, 130), (321, 200)])
def test_any_size_from_64_pixels(metric: IbpIQA, size: tuple[int, int]) -> None:
    x = noise(2, 3, *size)
    scores = metric(x)
    assert scores.shape == (2,)
    lo, hi = propagate(metric.layers, x - 1e-3, x + 1e-3)
    assert (lo.squeeze(1) < scores).all()
    assert (scores < hi.squeeze(1)).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.05, 1.0])
def test_no_point_of_the_box_leaves_the_interval_of_any_layer(seed: int, eps: float) -> None:
    net, x = every_kind(seed), noise(4, 3, 33, 29, seed=seed) - 0.3
    lo, hi = propagate(net, x - eps, x + eps)
    for point in worst_cases(net, x, eps):
        assert (lo <= net(point)).all()
        assert (net(point) <= hi).all()


@pytest.mark.parametrize("grey", [0.25, 1.0, 4.0])
def test_no_attack_leaves_the_interval_of_the_metric(metric: IbpIQA, images: torch.Tensor, grey: float) -> None:
    lo, hi = propagate(metric.layers, images - grey / 255, images + grey / 255)
    reached = torch.stack([metric(point) for point in worst_cases(metric, images, grey / 255)]).detach()
    assert (lo.squeeze(1) <= reached).all()
    assert (reached <= hi.squeeze(1)).all()
    if grey <= 1.0:  # far beyond the radius of the training the intervals say nothing
        share = (reached.amax(0) - reached.amin(0)) / (hi - lo).squeeze(1)
        assert float(share.max()) > 0.1


def test_a_linear_chain_is_exact() -> None:
    first, last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 1)
    with torch.no_grad():
        first.weight.copy_(noise(4, 3, 3, 3, seed=1))
        last.weight.copy_(noise(1, 64, seed=2))  # positive weights: no layer's box is wider than the truth
    chain = nn.Sequential(first, nn.AvgPool2d(2), nn.Flatten(), last).double()
    x = noise(1, 3, 8, 8, seed=3).double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(chain(x).sum(), x)
    lo, hi = propagate(chain, x - 0.1, x + 0.1)
    assert ((hi - lo) / 2).item() == pytest.approx(0.1 * gradient.abs().sum().item(), rel=1e-9)
    mixed = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).double()
    (gradient,) = torch.autograd.grad(mixed(x).sum(), x)
    lo, hi = propagate(mixed, x - 0.1, x + 0.1)
    assert ((hi - lo) / 2).item() == pytest.approx(0.1 * gradient.abs().sum().item(), rel=1e-9)


def test_a_box_of_one_point_gives_the_score(metric: IbpIQA, images: torch.Tensor) -> None:
    lo, hi = (end.squeeze(1) for end in propagate(metric.layers, images, images))
    assert (lo <= metric(images)).all()
    assert (metric(images) <= hi).all()
    assert float((hi - lo).max()) < 0.5, "points; what float32 sums can lose in the worst case"
    exact = ibp_iqa().double()
    lo, hi = (end.squeeze(1) for end in propagate(exact.layers, images.double(), images.double()))
    torch.testing.assert_close(lo, exact(images.double()), rtol=0, atol=1e-8)
    torch.testing.assert_close(hi, lo, rtol=0, atol=1e-8)
    lo, hi = propagate(metric.layers, images, images, rounding=False)
    assert torch.equal(lo, hi)


def test_wider_boxes_have_wider_intervals(metric: IbpIQA, images: torch.Tensor) -> None:
    ends = [propagate(metric.layers, images - eps, images + eps) for eps in (0.0, 0.001, 0.004, 0.02)]
    for (lo, hi), (wider_lo, wider_hi) in itertools.pairwise(ends):
        assert (wider_lo < lo).all()
        assert (hi < wider_hi).all()


def test_the_width_has_a_gradient_to_every_weight() -> None:
    net, x = every_kind(0).requires_grad_(True), noise(2, 3, 33, 29)
    lo, hi = propagate(net, x - 0.01, x + 0.01, rounding=False)
    (hi - lo).sum().backward()
    weights = [p.grad for p in net.parameters() if p.ndim > 1]
    assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() > 0 for g in weights)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(2, return_indices=True),
        nn.Sigmoid(),
    ],
)
def test_a_layer_without_a_rule_is_named(layer: nn.Module) -> None:
    x = noise(1, 3, 8, 8)
    with pytest.raises(Incompatible, match=type(layer).__name__):
        propagate(nn.Sequential(nn.ReLU(), nn.Sequential(layer)), x, x)


def test_the_exported_network_is_the_trained_one() -> None:
    trainee = IbpTrainee(seed=3)
    for seed in range(3):
        trainee.train()(noise(8, 3, 64, 64, seed=seed))
    x = noise(4, 3, 72, 88, seed=9)
    plain = trainee.eval().exported()
    with torch.no_grad():
        torch.testing.assert_close(plain(x), trainee(x), rtol=1e-4, atol=1e-2)
    assert all(isinstance(m, nn.Conv2d | nn.ReLU | nn.AdaptiveAvgPool2d | nn.Flatten | nn.Linear) for m in plain.layers)


def test_the_shipped_scores_have_not_moved(metric: IbpIQA) -> None:
    """Raise the metric's version when this changes: stored results would be mixed otherwise."""
    ramp = torch.linspace(0, 1, 128)
    x = torch.stack([ramp.expand(128, 128), ramp[:, None].expand(128, 128), (ramp * ramp[:, None])])[None]
    assert metric(x).item() == pytest.approx(GOLDEN, abs=0.02)


def test_bad_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"do not exist.*certified-metric --net ibp-iqa"):
        ibp_iqa(weights=str(tmp_path / "none.safetensors"))
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(BadData, match="cannot be read as ibp-iqa"):
        ibp_iqa(weights=str(other))
    with pytest.raises(BadParameter, match="safetensors"):
        ibp_iqa(weights="weights.pth")
