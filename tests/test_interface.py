"""What a foreign network is given and what becomes of its output, against the steps written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from robustiqa.bench.errors import BadImage, BadParameter, BadScore
from robustiqa.bench.metrics.interface import Foreign, Interface, fitted
from torch import nn


class Sees(nn.Module):
    """Keeps what it was given; its score is the mean of a random projection of each image."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        w = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        return (x * w).mean((1, 2, 3)) + (x * w).square().mean((1, 2, 3))


class Returns(nn.Module):
    """A network with a given function behind it."""

    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> Any:
        return self.answer(x)


def photos(count: int = 3, height: int = 40, width: int = 56, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(height), dtype=dtype)


def given(x: torch.Tensor, **options: Any) -> torch.Tensor:
    net = Sees()
    Interface(**options).metric(net, "sees")(x)
    return net.seen[0]


def test_by_default_the_image_goes_in_as_it_is() -> None:
    x = photos()
    assert torch.equal(given(x), x)


def test_normalisation_is_exact() -> None:
    """Bit for bit what the usual code does, channel by channel."""
    x = photos()
    assert torch.equal(given(x, pixels="bytes"), x * 255)
    assert torch.equal(given(x, pixels="signed"), x * 2 - 1)
    imagenet = torch.stack([
        (x[:, 0] - 0.485) / torch.tensor(0.229),
        (x[:, 1] - 0.456) / torch.tensor(0.224),
        (x[:, 2] - 0.406) / torch.tensor(0.225),
    ], dim=1)  # fmt: skip
    assert torch.equal(given(x, mean="imagenet", std="imagenet"), imagenet)
    assert torch.equal(given(x, mean="0.5", std="0.25"), (x - 0.5) / 0.25)
    assert torch.equal(given(x, mean="0", std="2"), x / 2)
    assert torch.equal(given(x, mean="0.1;0.2;0.3", std="1")[:, 2], x[:, 2] - 0.3)
    # In this order: bytes, then the order of colours, then Caffe's means for BGR.
    caffe = given(x, pixels="bytes", colours="bgr", mean="103.939;116.779;123.68", std="1")
    for k, mean in enumerate((103.939, 116.779, 123.68)):
        assert torch.equal(caffe[:, k], x[:, 2 - k] * 255 - mean)


@pytest.mark.parametrize(("height", "width", "side"), [(40, 56, (20, 28)), (60, 33, (24, 48)), (16, 20, (50, 35))])
def test_stretching_is_pillows_antialiased_resizing(height: int, width: int, side: tuple[int, int]) -> None:
    x = photos(1, height, width)
    ours = fitted(x, side, "stretch")[0]
    for k in range(3):
        channel = Image.fromarray(x[0, k].numpy(), mode="F").resize((side[1], side[0]), Image.Resampling.BILINEAR)
        assert np.allclose(ours[k].numpy(), np.asarray(channel), atol=2e-6)


def test_crops_are_from_the_middle() -> None:
    x = photos(2, 41, 60)
    assert torch.equal(given(x, size="20x32", fit="crop"), x[:, :, 10:30, 14:46])
    with pytest.raises(BadImage, match="60x41 px is smaller than the crop of 32x48"):
        given(x, size="48x32", fit="crop")
    # The shorter side decides: 41x60 to 24x48 is scaled by .8, which gives 33x48, of which 24 rows are kept.
    assert torch.equal(given(x, size="24x48", fit="shorter"), fitted(x, (33, 48), "stretch")[:, :, 4:28])
    assert torch.equal(given(x, size="41x60"), x)


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_a_distribution_becomes_its_expectation(output: str) -> None:
    """NIMA: the sum of k p_k over the ratings 1 to 10."""
    x = photos(4)
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(2))
    p = logits.softmax(1)
    net = Returns(lambda _: p[:, :, None, None] if output == "probabilities" else logits)
    expected = [sum((k + 1) * float(p[i, k]) for k in range(10)) for i in range(4)]
    assert torch.allclose(Interface(output=output).metric(net, "n")(x), torch.tensor(expected), atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1, 1)])
def test_one_score_an_image_in_any_shape(shape: tuple[int, ...]) -> None:
    values = torch.tensor([3.0, 1.0, 2.0])
    assert torch.equal(Interface().metric(Returns(lambda _: values.reshape(shape)), "n")(photos()), values)


def unfit() -> torch.Tensor:
    raise AssertionError("expected 224x224")


@pytest.mark.parametrize(("answer", "options", "error", "words"), [
    (lambda x: x.mean(), {}, BadScore, r"returned \(1,\) for 3 images: expected one score each"),
    (lambda x: torch.zeros(3, 10), {}, BadScore, r"returned \(3, 10\) .* output=probabilities"),
    (lambda x: torch.zeros(1, 3), {}, BadScore, r"returned \(1, 3\) for 3 images"),
    (lambda x: torch.zeros(3), {"output": "logits"}, BadScore, r"expected \(images, ratings\)"),
    (lambda x: torch.full((3, 4), 0.3), {"output": "probabilities"}, BadScore, "sum 1.2.: is it output=logits"),
    (lambda x: torch.tensor([[1.5, -0.5]] * 3), {"output": "probabilities"}, BadScore, "no probabilities"),
    (lambda x: {"score": x.mean((1, 2, 3))}, {}, BadScore, "returned a dict: expected one tensor"),
    (lambda x: torch.zeros(3, dtype=torch.complex64), {}, BadScore, "complex numbers"),
    (lambda x: torch.zeros(3, 5) @ torch.zeros(6), {}, BadImage, "fails on an input of shape .* give size="),
    (lambda x: unfit(), {}, BadImage, r"fails on an input of shape .* \(expected 224x224\): .* give size="),
])  # fmt: skip
def test_what_is_no_score_is_said(answer: Callable, options: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Interface(**options).metric(Returns(answer), "n")(photos())


@pytest.mark.parametrize("options", [{}, {"size": "40x56"}, {"size": "32", "fit": "crop"}, {"single": True}])
def test_a_network_that_writes_into_its_input_does_not_reach_the_image(options: dict[str, Any]) -> None:
    """Normalising in place is common; the image would be another one for everything that comes after."""
    x = photos()
    before = x.clone()
    metric = Interface(**options).metric(Returns(lambda x: x.sub_(0.5).square().mean((1, 2, 3))), "n")
    kept = Interface(**options).metric(Returns(lambda x: (x - 0.5).square().mean((1, 2, 3))), "n")
    assert torch.equal(metric(x), kept(x))
    assert torch.equal(x, before)
    assert torch.autograd.grad(metric(x.requires_grad_(True)).sum(), x)[0].abs().max() > 0


def test_a_network_that_draws_random_numbers_is_refused() -> None:
    """No result of it could be repeated: at the first call, and not looked for again afterwards."""
    drops = Returns(lambda x: nn.functional.dropout(x, 0.5, training=True).mean((1, 2, 3)))
    with pytest.raises(BadScore, match=r"two scores for one image \(.* net\.eval"):
        Interface().metric(drops, "n")(photos(1))
    second = Returns(lambda x: x.mean((1, 2, 3)) + torch.tensor([0.0, 1.0, 0.0]) * torch.rand(1))
    with pytest.raises(BadScore, match="two scores for one image"):
        Interface().metric(second, "n")(photos())
    sees = Sees()
    metric = Interface().metric(sees, "n")
    for _ in range(3):
        metric(photos())
    assert len(sees.seen) == 4
    nan = Interface().metric(Returns(lambda x: x.mean((1, 2, 3)) * torch.nan), "n")
    assert bool(nan(photos()).isnan().all())  # whose error is another one


def test_whole_numbers_become_scores_that_can_be_computed_with() -> None:
    x = photos()
    found = Interface().metric(Returns(lambda x: (x.mean((1, 2, 3)) * 255).int()), "n")(x)
    assert torch.equal(found, (x.mean((1, 2, 3)) * 255).floor())
    assert found.dtype == x.dtype


def test_a_full_memory_is_no_fault_of_the_image() -> None:
    def full(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Interface().metric(Returns(full), "n")(photos())


def test_single_gives_one_image_at_a_time() -> None:
    x = photos(3)
    fixed = Returns(lambda x: x.reshape(1, -1).sum(1))  # traced with a batch of 1
    assert torch.allclose(Interface(single=True).metric(fixed, "n")(x), x.sum((1, 2, 3)), rtol=1e-5)
    with pytest.raises(BadScore, match="single=true"):
        Interface().metric(fixed, "n")(x)


ALL = [
    {},
    {"pixels": "bytes", "colours": "bgr", "mean": "100;110;120", "std": "50"},
    {"pixels": "signed", "size": "24x30", "fit": "stretch"},
    {"mean": "imagenet", "std": "imagenet", "size": "24", "fit": "shorter"},
    {"size": "24", "fit": "crop", "single": True},
]


@pytest.mark.parametrize("options", ALL)
def test_gradients_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    metric = Interface(**options).metric(Sees(), "n")
    x = photos(2, dtype=torch.float64).requires_grad_(True)
    (gradient,) = torch.autograd.grad(metric(x).sum(), x)
    d = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        slope = (metric(x + 1e-6 * d) - metric(x - 1e-6 * d)) / 2e-6
    assert torch.allclose((gradient * d).sum((1, 2, 3)), slope, rtol=1e-5, atol=1e-9)
    assert float(slope.abs().min()) > 0


@pytest.mark.parametrize("options", ALL)
def test_an_image_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    metric, x = Interface(**options).metric(Sees(), "n"), photos(4)
    assert torch.equal(metric(x), metric(x))
    assert torch.allclose(metric(x), torch.cat([metric(x[i : i + 1]) for i in range(4)]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("options", "words"), [
    ({"pixels": "byte"}, "pixels=byte: expected unit, signed, bytes"),
    ({"colours": "rbg"}, "colours=rbg: expected rgb, bgr"),
    ({"fit": "pad"}, "fit=pad: expected stretch, crop, shorter"),
    ({"output": "mean"}, "output=mean: expected score, probabilities, logits"),
    ({"low": 0.0}, "both ends"),
    ({"min_size": 0}, "min_size=0"),
    ({"size": "224x"}, "size=224x: expected pixels"),
    ({"size": "0"}, "size=0: expected pixels"),
    ({"size": "1x2x3"}, "size=1x2x3: expected"),
    ({"mean": "a"}, "mean=a: expected one number"),
    ({"mean": "1;2"}, "mean=1;2: expected one number, or three"),
    ({"mean": "inf"}, "mean=inf: expected"),
    ({"std": "0.5;0;0.5"}, "expected numbers above 0"),
    ({"std": "-1"}, "expected numbers above 0"),
    ({"mean": "imagenet", "pixels": "bytes"}, "of RGB pixels in"),
    ({"mean": "imagenet"}, "mean=imagenet without std: give both; std=1 divides by nothing"),
    ({"std": "0.5"}, "std=0.5 without mean: give both; mean=0 subtracts nothing"),
    ({"std": "imagenet", "colours": "bgr"}, "of RGB pixels in"),
    ({"low": 3.0, "high": 1.0}, "low < high"),
    ({"bounded": True}, "bounded without a score_range"),
])  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadParameter, match=words):
        Interface(**options).metric(Sees(), "n")


def test_declarations_reach_the_metric() -> None:
    metric = Interface(lower_better=True, low=1.0, high=5.0, bounded=True, min_size=30).metric(Sees(), "n")
    assert (metric.lower_better, metric.score_range, metric.bounded) == (True, (1.0, 5.0), True)
    assert isinstance(metric.module, Foreign)
    with pytest.raises(BadImage, match="at least 30x30"):
        metric(photos(1, 29, 40))
