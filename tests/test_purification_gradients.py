"""Gradients of the purifications of pixels: exact where they say so, and else of use to an attack."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from robustiqa.bench import load_dataset, load_metric
from robustiqa.defenses import load_defense
from robustiqa.defenses.base import Purification
from robustiqa.defenses.purification.gradients import into_box
from robustiqa.defenses.purification.non_local import NonLocalMeans
from robustiqa.defenses.purification.quantisation import soft_round

EXACT = ["resize", "upscale", "upscale[height=70,width=50]", "flip", "gaussian-blur", "median-blur",
         "median-blur[kernel=5]", "bilateral-blur", "unsharp", "non-local-means[distance=3,patch=3]",
         "total-variation[iterations=25]"]  # fmt: skip
SEVERAL = {
    "jpeg": ["diffjpeg", "identity"],
    "diffjpeg": ["exact", "identity"],
    "webp": ["diffjpeg", "identity"],
    "median-blur": ["exact", "gaussian"],
    "color-quantization": ["soft", "identity"],
    "bit-depth": ["soft", "identity"],
    "non-local-means[distance=3]": ["exact", "gaussian"],
    "total-variation": ["exact", "identity"],
}


def purification(text: str, metric: str = "linear") -> Purification:
    g = load_defense(text, load_metric(metric))
    assert isinstance(g, Purification)
    return g


def slopes(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, step: float) -> tuple[float, float]:
    """Derivative of f along its own gradient at x: by that gradient, and by a central difference."""
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(f(leaf), leaf)
    unit = gradient / gradient.norm()
    with torch.no_grad():
        return float(gradient.norm()), float((f(x + step * unit) - f(x - step * unit)) / (2 * step))


@pytest.mark.parametrize("text", EXACT)
def test_exact_gradients_are_those_of_central_differences(images, text) -> None:
    g = purification(text)
    # In double precision and random images no two pixels change places; in photographs the slope jumps.
    assert g.smooth != text.startswith("median-blur")
    x = images.double()
    weights = torch.randn(g.purify(x).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_gradient, by_difference = slopes(lambda z: (g.purify_surrogate(z) * weights).sum(), x, 1e-5)
    assert by_difference == pytest.approx(by_gradient, rel=1e-3)


def test_diffjpeg_is_exact_between_its_jumps_and_steeper_over_them(images) -> None:
    g = purification("diffjpeg")
    x = images[:1].double()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def f(z: torch.Tensor) -> torch.Tensor:
        return (g.purify_surrogate(z) * weights).sum()

    by_gradient, by_difference = slopes(f, x, 1e-9)
    assert by_difference == pytest.approx(by_gradient, rel=1e-3)
    by_gradient, by_difference = slopes(f, x, 1e-2)
    assert by_difference > 1.5 * by_gradient
    assert not g.smooth


@pytest.mark.parametrize(("text", "names"), SEVERAL.items(), ids=SEVERAL)
def test_every_gradient_comes_with_the_deployed_values_to_the_bit(images, text, names) -> None:
    g = purification(text)
    views = g.surrogates()
    assert views[0] is g
    assert [view.gradient for view in views] == names  # type: ignore[attr-defined]
    deployed = g.purify(images)
    found = []
    for view in views:
        assert isinstance(view, Purification)
        assert view.spec == g.spec
        assert view.metric is g.metric
        x = images.clone().requires_grad_(True)
        values = view.purify_surrogate(x)
        assert torch.equal(values, deployed)
        found.append(torch.autograd.grad(load_metric("linear")(values).sum(), x)[0])
        assert view.smooth == (view.gradient == "exact" and text not in ("diffjpeg", "median-blur"))  # type: ignore[attr-defined]
    assert not torch.allclose(found[0], found[1])
    other = purification(
        f"{text.rstrip(']')},surrogate={names[1]}]" if "[" in text else f"{text}[surrogate={names[1]}]"
    )
    assert [view.gradient for view in other.surrogates()] == names[::-1]  # type: ignore[attr-defined]
    assert torch.equal(other.purify(images), deployed)


@pytest.mark.parametrize("text", [
    "non-local-means[distance=3,h=0.3,patch=3,sigma=0.1]", "non-local-means[distance=2,h=0.09]",
])  # fmt: skip
def test_differentiable_non_local_means_have_the_deployed_values(images, text) -> None:
    """In double precision: a distance that rounding takes over the cut-off is worth 0.7% of a pixel."""
    g = purification(text)
    assert isinstance(g, NonLocalMeans)
    x = images.double()
    assert torch.allclose(g.torch_means(x), g.purify(x), atol=1e-6)
    assert not torch.allclose(g.purify(x), x, atol=1e-2)


@pytest.mark.parametrize("name", ["color-quantization[levels=4", "bit-depth[bits=2"])
def test_gradients_of_quantisation(name) -> None:
    for surrogate, slope in (("identity", lambda u: 1.0), ("soft", lambda u: 2.5 / np.tanh(2.5) / np.cosh(5 * u) ** 2)):
        x = torch.full((1, 3, 2, 2), 0.4).requires_grad_(True)  # 1.2 of 3 steps: 0.3 before the middle
        y = purification(f"{name},surrogate={surrogate}]").purify_surrogate(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.allclose(gradient, torch.tensor(slope(-0.3), dtype=torch.float32), rtol=1e-4)


def test_a_median_shares_its_gradient_among_equal_pixels() -> None:
    x = (
        torch.tensor([[0.1, 0.2, 0.5], [0.5, 0.9, 0.5], [0.8, 0.3, 0.7]])
        .expand(1, 3, 3, 3)
        .clone()
        .requires_grad_(True)
    )
    (gradient,) = torch.autograd.grad(purification("median-blur").purify(x)[0, 0, 1, 1], x)
    third = 1 / 3
    expected = torch.tensor([[0, 0, third], [third, 0, third], [0, 0, 0]])
    assert torch.allclose(gradient[0, 0], expected)
    assert float(gradient[0, 1:].abs().max()) == 0


def test_soft_rounding_rounds_softly() -> None:
    u = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    values = soft_round(u)
    (gradient,) = torch.autograd.grad(values.sum(), u)
    values = values.detach()
    assert torch.allclose(values[[0, 2, 4, 5]], torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=torch.float64))
    assert 0 < float(values[1]) < 0.1
    assert float(values[1] + values[3]) == pytest.approx(1)
    assert float(gradient[2]) == pytest.approx(2.5 / torch.tanh(torch.tensor(2.5)).item(), rel=1e-6)
    assert float(gradient.min()) > 0


def test_into_box_keeps_the_gradient_of_what_it_clamps() -> None:
    y = torch.tensor([-1e-7, 0.5, 1 + 1e-7], requires_grad=True)
    values = into_box(y)
    assert torch.equal(values.detach(), torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(torch.autograd.grad(values.sum(), y)[0], torch.ones(3))


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    data = load_dataset("photos[size=128,subset=quick]")
    return torch.stack([data.load(i)[:, 20:100, 20:100] for i in (0, 4, 8)])


@pytest.mark.parametrize("text", [*SEVERAL, "resize[scale=0.9]", "upscale", "flip", "bilateral-blur", "unsharp"])
def test_every_gradient_climbs_the_deployed_score_more_than_noise(photographs, text) -> None:
    """Four steps of signs within 8/255 against the best of four draws of random signs of that size."""
    g = purification(text, "tiny-iqa")
    eps, clean = 8 / 255, g(photographs)
    draws = [torch.randn(photographs.shape, generator=torch.Generator().manual_seed(k)).sign() for k in range(4)]
    noise = torch.stack([g((photographs + eps * draw).clamp(0, 1)) - clean for draw in draws]).mean(1)
    for view in g.surrogates():
        z = photographs.clone()
        for _ in range(4):
            z.requires_grad_(True)
            (gradient,) = torch.autograd.grad(view.metric(view.purify_surrogate(z)).sum(), z)  # type: ignore[attr-defined]
            z = (z + eps / 2 * gradient.sign()).detach()
            z = photographs + (z - photographs).clamp(-eps, eps)
            z = z.clamp(0, 1)
        assert float((g(z) - clean).mean()) > max(0.0, float(noise.max())) + 2
