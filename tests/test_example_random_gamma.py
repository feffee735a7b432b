"""The example of a randomised defence, loaded as `--plugin` does."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams, image_keys
from robustiqa.defenses import load_defense
from scipy.stats import kstest

FILE = Path(__file__).parents[1] / "examples" / "random_gamma.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    registry.load_file(FILE)
    return sys.modules[registry.get("defense", "random-gamma").factory.__module__]


def streams(images: torch.Tensor) -> Streams:
    return Streams.create(image_keys(images), Role.SEARCH)


def test_a_gamma_of_one_is_the_metric_itself(example, linear, images) -> None:
    g = load_defense("random-gamma[most=1]", linear)
    assert torch.allclose(g(images), linear(images), atol=1e-5)


def test_one_gamma_an_image_log_uniform(example, linear) -> None:
    x = torch.full((400, 3, 16, 16), 0.5)
    x[:, :, 0, 0] = torch.linspace(0.2, 0.8, 400)[:, None]  # streams of their own
    out = example.RandomGamma(linear, most=2.0).draw(x, streams(x))
    gamma = out.log() / x.log()
    assert float((gamma.amax((1, 2, 3)) - gamma.amin((1, 2, 3))).max()) < 1e-5, "one for the whole image"
    assert kstest(gamma[:, 0, 5, 5].log().numpy() / math.log(2), "uniform", (-1, 2)).pvalue > 0.01


def test_black_pixels_leave_the_gradient_finite(example, linear, images) -> None:
    x = (images * (images > 0.5)).requires_grad_(True)
    scores = load_defense("random-gamma[most=4]", linear).surrogate(x, streams(x), 8)
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    assert torch.isfinite(gradient).all()
    assert float(gradient[x > 0.5].abs().min()) > 0


def test_a_deployed_score_is_the_mean_of_its_draws(example, linear, images) -> None:
    g = load_defense("random-gamma[m=4]", linear)
    draws = g.surrogate(images, streams(images), 4)
    assert draws.std(0).min() > 0
    assert np.allclose(g.estimate(images, streams(images)).score, draws.detach().double().mean(0), rtol=1e-5)


def test_impossible_settings_are_named(example, linear) -> None:
    with pytest.raises(BadParameter, match=r"most=0.5\]: expected a number in \[1, 4\]"):
        load_defense("random-gamma[most=0.5]", linear)
