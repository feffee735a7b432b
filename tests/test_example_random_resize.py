"""The example of a randomised defence: what it deploys, and that attacks which average over its draws are stronger."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.errors import BadParameter
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams, image_key
from robustiqa.defenses import load_defense

FILE = Path(__file__).parents[1] / "examples" / "random_resize.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    registry.load_file(FILE)
    return sys.modules[registry.get("defense", "random-resize").factory.__module__]


def streams(images: torch.Tensor) -> Streams:
    return Streams.create([image_key(image) for image in images], Role.SEARCH)


def test_without_growth_and_noise_it_is_the_metric_itself(example, linear, images) -> None:
    g = load_defense("random-resize[grow=1,noise=0]", linear)
    assert torch.allclose(g(images), linear(images), atol=1e-5)


def test_the_image_lies_whole_somewhere_in_the_padded_one(example, images) -> None:
    """Without padding black borders would be content: the copy is found again at the smallest size."""
    g = example.RandomResize(load_metric("linear"), grow=1.25, noise=0.0)
    x = images.clamp_min(0.1)
    out = g.transform(x, streams(x))
    height, width = x.shape[2:]
    assert out.shape == (len(x), 3, round(1.25 * height), round(1.25 * width))
    for copy in out:
        rows, columns = torch.where(copy.sum(0) > 0)
        h, w = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert height <= h <= out.shape[2]
        assert abs(h / height - w / width) <= 1 / min(height, width), "both sides by one factor"
        assert copy[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].min() >= 0.1 - 1e-6


def test_a_deployed_score_is_the_mean_of_its_draws(example, linear, images) -> None:
    g = load_defense("random-resize[m=4]", linear)
    draws = g.surrogate(images, streams(images), 4)
    assert draws.std(0).min() > 0
    assert np.allclose(g.estimate(images, streams(images)).score, draws.detach().double().mean(0), rtol=1e-5)


def test_averaging_over_draws_gains_more_than_ignoring_them(example) -> None:
    """Naive: what works on the undefended metric, and one draw a step; adaptive: eight draws a step."""
    data = load_dataset("photos[size=128,subset=references]")
    x = torch.stack([data.load(i)[:, 30:94, 30:94] for i in range(5)])
    g = load_defense("random-resize[noise=0.05,m=32]", load_metric("tiny-iqa"))
    naive, single, adaptive = (
        load_attack(attack)(g, x, Linf(2 / 255)).gain.mean() for attack in ("transfer", "pgd", "eot-pgd")
    )
    assert adaptive > 1.1 * single > 0
    assert adaptive > 1.5 * naive > 0


def test_impossible_settings_are_named(example, linear) -> None:
    with pytest.raises(BadParameter, match="grow >= 1"):
        load_defense("random-resize[grow=0.5]", linear)
