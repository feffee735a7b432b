"""The embedded metric as shipped: shapes, independence of the batch, gradients, sensible order, clear errors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from robustiqa.bench.datasets.clive import Clive
from robustiqa.bench.distortions import DISTORTIONS, distort
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.images import from_uint8
from robustiqa.bench.measures import srocc
from robustiqa.bench.metrics.tiny_iqa import WEIGHTS, TinyIQA, tiny_iqa
from safetensors.torch import save_file
from scipy.stats import spearmanr


@pytest.fixture(scope="module")
def metric() -> TinyIQA:
    return tiny_iqa()


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [
        np.ascontiguousarray(skimage.data.astronaut()[20:276, 100:356]),
        np.ascontiguousarray(skimage.data.coffee()[60:316, 150:406]),
        np.ascontiguousarray(skimage.data.chelsea()[20:276, 100:356]),
    ]


GOLDEN = 21.302


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_the_files_are_small_and_have_a_card() -> None:
    assert WEIGHTS.stat().st_size <= 1.5e6
    card = WEIGHTS.with_suffix(".md").read_text()
    assert "robustiqa train metric" in card
    assert "CLIVE" in card
    assert "/work" not in card


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (128, 130), (321, 200)])
def test_any_size_from_64_pixels(metric: TinyIQA, size: tuple[int, int]) -> None:
    scores = metric(noise(2, 3, *size))
    assert scores.shape == (2,)
    assert torch.isfinite(scores).all()


def test_an_odd_side_is_scored_to_its_last_column(metric: TinyIQA) -> None:
    x = noise(1, 3, 65, 65).requires_grad_(True)
    (gradient,) = torch.autograd.grad(metric(x).sum(), x)
    assert gradient[..., -1].abs().sum() > 0
    assert gradient[..., -1, :].abs().sum() > 0


def test_a_score_does_not_depend_on_the_batch_or_the_memory_order(metric: TinyIQA) -> None:
    x = noise(8, 3, 96, 96)
    together = metric(x)
    alone = torch.cat([metric(x[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)
    torch.testing.assert_close(metric(x.to(memory_format=torch.channels_last)), together, rtol=0, atol=1e-3)
    assert torch.equal(metric(x), together), "deterministic"


def test_it_is_frozen_in_evaluation_mode(metric: TinyIQA) -> None:
    assert not metric.training
    assert not any(p.requires_grad for p in metric.parameters())
    assert not any(isinstance(m, torch.nn.BatchNorm2d | torch.nn.Dropout) for m in metric.modules())


def test_gradients_agree_with_finite_differences(metric: TinyIQA, photos: list[np.ndarray]) -> None:
    double = tiny_iqa().double()
    x = from_uint8(photos[0][:96, :96])[None].double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(double(x).sum(), x)
    direction = gradient / gradient.norm()
    h = 1e-4
    difference = (double(x + h * direction) - double(x - h * direction)) / (2 * h)
    assert difference.item() == pytest.approx(gradient.norm().item(), rel=0.02)
    assert (gradient != 0).double().mean() > 0.99


def test_flat_images_have_finite_scores_and_gradients(metric: TinyIQA) -> None:
    x = torch.full((1, 3, 64, 64), 0.5).requires_grad_(True)
    (gradient,) = torch.autograd.grad(metric(x).sum(), x)
    assert torch.isfinite(gradient).all()


def test_the_output_is_not_saturated(metric: TinyIQA, photos: list[np.ndarray]) -> None:
    """A 20-step attack leaves the scale of the clean score: nothing clamps it."""
    x = from_uint8(photos[0][:128, :128])[None]
    adversarial = x.clone()
    for _ in range(20):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(metric(adversarial).sum(), adversarial)
        adversarial = (x + (adversarial.detach() + gradient.sign() / 255 - x).clamp(-16 / 255, 16 / 255)).clamp(0, 1)
    assert metric(adversarial).item() > metric(x).item() + 20


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_worse_photographs_score_lower(metric: TinyIQA, photos: list[np.ndarray], kind: str) -> None:
    rng = np.random.default_rng(0)
    correlations = []
    for photo in photos:
        versions = [photo] + [distort(photo, kind, level, rng) for level in range(1, 6)]
        scores = metric(torch.stack([from_uint8(v) for v in versions])).numpy()
        correlations.append(spearmanr(scores, -np.arange(6))[0])
    assert np.mean(correlations) > 0.7, correlations


def test_the_shipped_scores_have_not_moved(metric: TinyIQA) -> None:
    """Raise the metric's version when this changes: stored results would be mixed otherwise."""
    ramp = torch.linspace(0, 1, 128)
    x = torch.stack([ramp.expand(128, 128), ramp[:, None].expand(128, 128), (ramp * ramp[:, None])])[None]
    assert metric(x).item() == pytest.approx(GOLDEN, abs=0.02)


def test_it_agrees_with_human_scores_on_images_it_never_saw(metric: TinyIQA) -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("ROBUSTIQA_DATA", beside)) / "clive"
    if not root.is_dir():
        pytest.skip("CLIVE is not here: set ROBUSTIQA_DATA")
    data = Clive(str(root), split="test", limit=100)
    scores = [metric(data.load(i)[None]).item() for i in range(len(data))]
    assert srocc(np.array(scores), np.array([item.truth for item in data.items])) > 0.6


def test_bad_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="do not exist"):
        tiny_iqa(weights=str(tmp_path / "none.safetensors"))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights")
    with pytest.raises(BadData, match="cannot be read"):
        tiny_iqa(weights=str(broken))
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(BadData, match="cannot be read"):
        tiny_iqa(weights=str(other))
    with pytest.raises(BadParameter, match="safetensors"):
        tiny_iqa(weights="weights.pth")
