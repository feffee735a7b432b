"""Every architecture that can be built without a download, with random weights, against what the table says of it."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from robustiqa.bench import Metric
from robustiqa.bench.errors import BadImage
from robustiqa.bench.metrics.pyiqa.package import declared
from robustiqa.bench.metrics.pyiqa.scores import Scores, picture
from robustiqa.bench.training.pool import has_gradient

FEW_CROPS = {"hyperiqa": "num_crop=1", "tres": "test_sample=1", "maniqa": "test_sample=1"}
"""Options that make a network cheap where it takes many crops of an image."""
ARCHITECTURES = [
    "arniqa", "brisque", "clipiqa", "cnniqa", "dbcnn", "entropy", "hyperiqa", "liqe", "metaiqa", "musiq", "nima",
    "niqe", "piqe", "qualiclip", "topiq_nr", "unique", "uranker", "wadiqam_nr",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("maniqa", "tres")),
]  # fmt: skip


@pytest.fixture(params=ARCHITECTURES)
def metric(request: pytest.FixtureRequest, random_pyiqa: ModuleType) -> Metric:
    return random_pyiqa.pyiqa_random(request.param, FEW_CROPS.get(request.param, ""))


def test_an_architecture_keeps_what_is_said_of_it(metric: Metric) -> None:
    """Sizes, batches, gradient, input, modes; one test, because building a network takes longer than asking it."""
    name = metric.spec.split(":")[1]
    traits = declared(name).traits
    side = traits.min_size
    assert isinstance(metric.module, Scores)
    assert (metric.min_size, metric.differentiable, metric.module.alone) == (side, traits.gradient, traits.alone)
    x = torch.cat([picture(side, side + 5), picture(side, side + 5).flip(3) / 2])
    given = x.clone()
    with torch.inference_mode():
        both, first = metric(x), metric(x[:1])
    assert both.shape == (2,)
    assert bool(torch.isfinite(both).all())
    assert torch.equal(x, given)
    torch.testing.assert_close(both[:1], first, rtol=1e-4, atol=1e-5)
    metric.train()
    assert not any(module.training for module in metric.modules())
    assert not any(parameter.requires_grad for parameter in metric.parameters())
    leaf = x[:1].clone().requires_grad_(True)
    again = metric(leaf)
    assert again.requires_grad == traits.gradient
    torch.testing.assert_close(again.detach(), first, rtol=1e-5, atol=1e-6)
    assert torch.equal(leaf.detach(), given[:1])
    if traits.gradient:
        assert has_gradient(metric, picture(side).clone())
    else:
        metric.module.gradient = True  # what pyiqa gives, unmasked
        assert not has_gradient(metric, picture(side).clone())
    with torch.no_grad():
        noisy = metric(1.4 * x - 0.2)  # as a smoothing defence hands over
    assert bool(torch.isfinite(noisy).all())
    if side > 24:  # the table's side is the smallest, to a few pixels that networks round up
        metric.min_size = 1
        with pytest.raises(BadImage, match=f"{side - 8}x{side - 8} px"):
            metric(picture(side - 8))


def test_a_metric_that_is_not_of_batches_is_asked_image_by_image() -> None:
    """pyiqa's A-FINE takes one image of sides that 32 divides; face metrics and language models one image."""
    for name in ("afine_nr", "qalign", "topiq_nr-face", "compare2score"):
        assert declared(name).traits.alone
        assert not declared(name).traits.gradient
    assert declared("afine_nr").traits.multiple == 32
    assert not declared("topiq_nr").traits.alone
