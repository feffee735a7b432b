"""What the board expects of a defence: run `python -m pytest .` in this folder (seconds)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from robustiqa.bench import DefendedMetric, load_dataset, load_metric
from robustiqa.bench.checks.contract import Transforming
from robustiqa.bench.checks.examine import examine
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams, image_keys
from robustiqa.bench.submission.metadata import DefenseSubmission, read_submission
from robustiqa.defenses import load_defense

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def g() -> DefendedMetric:
    """The submitted defence around the first of its metrics."""
    submission = read_submission(FOLDER)
    assert isinstance(submission, DefenseSubmission)
    registry.load_file(FOLDER / submission.plugin)
    return load_defense(submission.defense, load_metric(submission.metrics[0]))


@pytest.fixture
def images() -> torch.Tensor:
    """Noise, black and white, of a size that is no multiple of anything."""
    noise = torch.rand(3, 97, 75, generator=torch.Generator().manual_seed(0))
    return torch.stack([noise, torch.zeros_like(noise), torch.ones_like(noise)])


def draws(x: torch.Tensor) -> Streams:
    """The same random numbers in every call."""
    return Streams.create(image_keys(x), Role.SEARCH)


def test_every_image_has_a_score(g: DefendedMetric, images: torch.Tensor) -> None:
    """One finite number an image, and the images stay as they are."""
    before = images.clone()
    assert g(images).shape == (len(images),)
    assert bool(torch.isfinite(g(images)).all())
    assert torch.equal(images, before)


def test_the_metric_sees_an_image(g: DefendedMetric, images: torch.Tensor) -> None:
    """Values in [0,1], in the size that is declared."""
    if not isinstance(g, Transforming):
        pytest.skip("the defence hands no changed image to the metric")
    out = g.step(images, draws(images))
    assert out.shape[2:] == g.output_size(*images.shape[2:])
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


def test_the_gradient_is_that_of_the_score(g: DefendedMetric, images: torch.Tensor) -> None:
    """A step along the gradient raises the score as the gradient says, within a factor of three."""
    x = (0.25 + 0.5 * images[:1]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(g.surrogate(x, draws(x)).mean(), x)
    size = float(gradient.norm())
    assert size > 0
    step = 0.01 * gradient / size
    with torch.no_grad():
        high, low = (float(g.surrogate(x + d, draws(x)).mean()) for d in (step, -step))
    assert 1 / 3 < (high - low) / (0.02 * size) < 3


def test_no_check_is_raised(g: DefendedMetric) -> None:
    """What `robustiqa check --no-ladder` looks at: determinism, batches, gradients, sizes, range, cost."""
    found = examine(g, load_dataset("photos[size=128,subset=references]"), images=2, ladder=False)
    assert {f.name: f"{f.rule.raised_if}; {f.rule.advice}" for f in found if f.raised} == {}
