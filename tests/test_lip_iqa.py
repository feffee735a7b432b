"""`lip-iqa`: no search exceeds its constant, which is computed from the weights at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from robustiqa.bench.datasets.clive import Clive
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.images import from_uint8
from robustiqa.bench.lipschitz import conv_norm_bound, linear_norm_bound, relu_head_bound
from robustiqa.bench.measures import srocc
from robustiqa.bench.metrics.lip_iqa import LipIQA, lip_iqa
from robustiqa.bench.metrics.loading import FOLDER
from robustiqa.bench.training.trainees import LipTrainee
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

WEIGHTS = FOLDER / "lip-iqa.safetensors"
GOLDEN = 78.629


@pytest.fixture
def metric() -> LipIQA:
    return lip_iqa()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def photos(size: int) -> torch.Tensor:
    pictures = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
    return torch.stack([from_uint8(np.ascontiguousarray(p[40 : 40 + size, 150 : 150 + size])) for p in pictures])


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


def measured_norm(weight: torch.Tensor, size: int = 24, steps: int = 200) -> float:
    """Norm of the zero-padded convolution on a small image by power iteration: never above the true one."""
    kernel, pad = weight.detach().double(), weight.shape[-1] // 2
    x = noise(1, kernel.shape[1], size, size, seed=1).double() - 0.5
    for _ in range(steps):
        x = F.conv_transpose2d(F.conv2d(x / x.norm(), kernel, padding=pad), kernel, padding=pad)
    return float(x.norm()) ** 0.5


def steepest(metric: nn.Module, x: torch.Tensor, eps: float, steps: int = 25) -> torch.Tensor:
    """Largest |g(x')-g(x)| / |x'-x| that a search finds on its path, (B,), from both signs; x' may leave the box."""
    start, best = metric(x).detach(), torch.zeros(len(x))
    for sign in (1.0, -1.0):
        delta = 1e-3 * eps * F.normalize(noise(*x.shape, seed=2).flatten(1) - 0.5).view_as(x)
        for _ in range(steps):
            delta.requires_grad_(True)
            (gradient,) = torch.autograd.grad(sign * metric(x + delta).sum(), delta)
            step = F.normalize(gradient.flatten(1)).view_as(x)
            moved = delta.detach() + 0.2 * eps * step
            delta = moved * (eps / moved.flatten(1).norm(dim=1)).clamp(max=1.0)[:, None, None, None]
            with torch.no_grad():
                ratio = (metric(x + delta) - start).abs() / delta.flatten(1).norm(dim=1)
            best = torch.maximum(best, ratio)
            best = torch.maximum(best, gradient.flatten(1).norm(dim=1))
    return best


def test_the_files_are_small_and_have_a_card() -> None:
    assert WEIGHTS.stat().st_size <= 1e6
    card = WEIGHTS.with_suffix(".md").read_text()
    assert "robustiqa train certified-metric" in card
    assert "/work" not in card


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (128, 130), (321, 200)])
def test_any_size_from_64_pixels(metric: LipIQA, size: tuple[int, int]) -> None:
    scores = metric(noise(2, 3, *size))
    assert scores.shape == (2,)
    assert torch.isfinite(scores).all()
    height, width = (side // 8 * 8 for side in size)
    assert metric.lipschitz(*size) == metric.lipschitz(height, width), "the rest is cut off"


def test_a_score_does_not_depend_on_the_batch(metric: LipIQA) -> None:
    x = noise(4, 3, 96, 96)
    torch.testing.assert_close(metric(x), torch.cat([metric(x[i : i + 1]) for i in range(4)]), rtol=0, atol=1e-2)


def test_flat_images_have_finite_scores_and_gradients(metric: LipIQA) -> None:
    x = torch.full((1, 3, 64, 64), 0.5).requires_grad_(True)
    (gradient,) = torch.autograd.grad(metric(x).sum(), x)
    assert torch.isfinite(gradient).all()


def test_the_exported_network_is_the_trained_one() -> None:
    state = torch.get_rng_state()
    trainee = LipTrainee(seed=3)
    assert torch.equal(torch.get_rng_state(), state), "the package's initialisation leaves the global generator alone"
    for seed in range(3):
        trainee.train()(noise(8, 3, 64, 64, seed=seed))
    x = noise(4, 3, 72, 88, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(trainee.exported()(x), trainee.eval()(x), rtol=1e-4, atol=1e-2)


def test_the_norm_bound_is_above_the_measured_norm_and_tight_for_orthogonal_layers(metric: LipIQA) -> None:
    for conv in convolutions(metric):
        assert conv.padding_mode == "zeros"
        assert conv.stride == (1, 1)
        measured, bound = measured_norm(conv.weight), conv_norm_bound(conv.weight)
        assert measured <= bound <= 1.1 * measured, conv
    for seed, shape in enumerate([(8, 5, 3, 3), (4, 9, 5, 5), (6, 6, 1, 1)]):
        weight = noise(*shape, seed=seed) - 0.4
        assert measured_norm(weight) <= conv_norm_bound(weight)
        assert conv_norm_bound(3.0 * weight) == pytest.approx(3.0 * conv_norm_bound(weight))
    blur = torch.full((1, 1, 3, 3), 1 / 9)
    assert conv_norm_bound(blur) == pytest.approx(1.0, rel=1e-6), "exact: the gain of a box filter at frequency 0"


def test_the_bounds_of_linear_layers() -> None:
    first, last = noise(7, 5, seed=1) - 0.5, noise(1, 7, seed=2) - 0.5
    assert linear_norm_bound(first) == pytest.approx(float(torch.linalg.svdvals(first)[0]), rel=1e-6)
    pairs = 4 * noise(2, 2000, 5, seed=3) - 2
    out = [F.relu(p @ first.T) @ last.T for p in pairs]
    steepest_pair = float(((out[0] - out[1]).abs().squeeze(1) / (pairs[0] - pairs[1]).norm(dim=1)).max())
    assert steepest_pair <= relu_head_bound(first, last) <= linear_norm_bound(first) * linear_norm_bound(last)
    assert relu_head_bound(torch.eye(4), torch.ones(1, 4)) == pytest.approx(2.0), "exact: the sum of four numbers"


@pytest.mark.parametrize("size", [(64, 64), (70, 91)])
def test_no_search_exceeds_the_constant(metric: LipIQA, size: tuple[int, int]) -> None:
    constant = metric.lipschitz(*size)
    grey = torch.full((1, 3, *size), 0.5)
    images = torch.cat([photos(128)[..., : size[0], : size[1]], noise(2, 3, *size), grey, 0.1 * noise(1, 3, *size)])
    found = torch.stack([steepest(metric, images, eps) for eps in (0.02, 0.5, 5.0)])
    # Differences of float32 scores over very short steps carry rounding.
    assert float(found.max()) <= constant * 1.001
    assert float(found.max()) > 0.05 * constant, "the constant is not vacuous"


def test_the_constant_follows_the_weights_and_the_size(metric: LipIQA) -> None:
    before = metric.lipschitz(128, 128)
    assert metric.lipschitz(64, 64) == pytest.approx(2 * before)
    assert metric.lipschitz(256, 64) == pytest.approx(before)
    for layer in (convolutions(metric)[0], metric.hidden, metric.out):
        with torch.no_grad():
            layer.weight.mul_(1.1)
        after = metric.lipschitz(128, 128)
        assert after == pytest.approx(1.1 * before, rel=1e-6)
        before = after
    with torch.no_grad():
        convolutions(metric)[-1].weight.mul_(1.1)
    assert before < metric.lipschitz(128, 128) < 1.1 * before, "only one of three scales passes through the last one"
    with pytest.raises(BadParameter, match="at least 8"):
        metric.lipschitz(64, 7)


def test_untrained_weights_have_a_constant_too() -> None:
    net = LipIQA()
    with torch.no_grad():
        for i, conv in enumerate(convolutions(net)):
            conv.weight.copy_(noise(*conv.weight.shape, seed=i) - 0.5)
    assert float(steepest(net, photos(64), 0.5, steps=5).max()) <= net.lipschitz(64, 64)


def test_the_shipped_scores_have_not_moved(metric: LipIQA) -> None:
    """Raise the metric's version when this changes: stored results would be mixed otherwise."""
    ramp = torch.linspace(0, 1, 128)
    x = torch.stack([ramp.expand(128, 128), ramp[:, None].expand(128, 128), (ramp * ramp[:, None])])[None]
    assert metric(x).item() == pytest.approx(GOLDEN, abs=0.02)


def test_it_agrees_with_human_scores_on_images_it_never_saw(metric: LipIQA, data_root: Path) -> None:
    data = Clive(str(data_root / "clive"), split="test", limit=60)
    scores = [metric(data.load(i)[None]).item() for i in range(len(data))]
    assert srocc(np.array(scores), np.array([item.truth for item in data.items])) > 0.4


def test_bad_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"do not exist.*certified-metric --net lip-iqa"):
        lip_iqa(weights=str(tmp_path / "none.safetensors"))
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(BadData, match="cannot be read as lip-iqa"):
        lip_iqa(weights=str(other))
    other.write_bytes(b"not weights")
    with pytest.raises(BadData, match="cannot be read as lip-iqa"):
        lip_iqa(weights=str(other))
