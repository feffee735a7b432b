"""Checks 19 to 23 and 2 and 3 of a metric alone: each fault raises its own flag, a sound metric none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from robustiqa.attacks import Linf, load_attack
from robustiqa.bench import Metric, load_metric
from robustiqa.bench.checks.examine import examine
from robustiqa.bench.checks.metric import metric_contract, sameness
from robustiqa.bench.datasets import load_dataset
from robustiqa.bench.errors import BadScore
from robustiqa.bench.registry import register_metric
from robustiqa.defenses import load_defense
from torch import nn


class Smooth(nn.Module):
    """Curved, with a gradient everywhere, between 0 and 1 on images; `fault` is what a test adds."""

    def __init__(self, fault: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.fault, self.factor = fault, 1.0
        self.register_buffer("calls", torch.zeros(1))
        self.drop = nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,)."""
        return self.fault(self, x, x.square().mean((1, 2, 3)))


def sound(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    return score


def spoils(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    score = score.clone()
    x.data.mul_(0.5)
    return score


def counts(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    m.get_buffer("calls").add_(1)
    return score


def learns(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    m.factor = 1.1 if x.requires_grad else m.factor  # type: ignore[assignment]
    return m.factor * score  # type: ignore[operator]


def refuses(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    if x.shape[2] % 2:
        raise RuntimeError("odd height")
    return score


def small_is_nan(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    return score * float("nan") if x.shape[2] < 64 else score


def outside(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    return score + 1.5


def halved(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    return (score + score.detach()) / 2


def blind_half(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    left, right = x.tensor_split(2, 3)
    return left.square().mean((1, 2, 3)) + right.square().mean((1, 2, 3)).detach()


def detached(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    return score.detach()


def draws(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    return score + 1e-3 * torch.rand(())


def mixes(m: nn.Module, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    return score + 0.1 * score.mean()


@pytest.mark.parametrize(("fault", "raised"), [
    (sound, set()),
    (spoils, {"input-changed"}),
    (counts, {"metric-drifts"}),
    (learns, {"metric-drifts"}),
    (refuses, {"size-misdeclared"}),
    (small_is_nan, {"size-misdeclared"}),
    (outside, {"range-left"}),
    (halved, {"score-slope"}),
    (detached, {"score-slope"}),
    (draws, {"irreproducible"}),
    (mixes, {"batch-dependent"}),
])  # fmt: skip
def test_a_fault_raises_its_own_flag(
    images: torch.Tensor, fault: Callable[..., torch.Tensor], raised: set[str]
) -> None:
    images = torch.cat([images, images], 2)  # 96x40
    metric = Metric(Smooth(fault), "faulty", score_range=(0, 1), min_size=32)
    given = images.clone()
    found = sameness(metric, images) + metric_contract(metric, images.clone())
    flags = {f.name for f in found if f.raised}
    assert flags == raised if fault not in (draws, mixes, spoils) else flags >= raised
    assert fault is spoils or torch.equal(images, given)


def test_half_of_a_gradient_is_seen_only_along_the_other_half(images: torch.Tensor) -> None:
    """Along its own gradient a score whose one half is cut off rises as promised: nothing contradicts what is there."""
    metric = Metric(Smooth(blind_half), "blind", score_range=(0, 2))
    (slope,) = [f for f in metric_contract(metric, images) if f.name == "score-slope"]
    assert not slope.raised


def test_a_range_is_left_by_more_than_a_tenth(images: torch.Tensor) -> None:
    scores = images.square().mean((1, 2, 3))
    for beyond, raised in ((0.05, False), (0.2, True)):
        top = float(scores.max()) / (1 + beyond)
        metric = Metric(Smooth(sound), "tight", score_range=(0, top))
        (found,) = [f for f in metric_contract(metric, images) if f.name == "range-left"]
        assert found.raised == raised


def test_a_bounded_range_is_left_by_rounding_only(images: torch.Tensor) -> None:
    scores = images.square().mean((1, 2, 3))
    for beyond, refused in ((1e-6, False), (1e-3, True)):
        metric = Metric(Smooth(sound), "tight", score_range=(0, float(scores.max()) / (1 + beyond)), bounded=True)
        with pytest.raises(BadScore, match="is declared bounded") if refused else contextlib.nullcontext():
            metric_contract(metric, images)


def test_they_come_with_the_undefended_metric_only() -> None:
    data = load_dataset("photos[size=128,subset=references]")
    metric = load_metric("tiny-iqa")
    numbers = {}
    for defense in ("none", "flip"):
        found = examine(load_defense(defense, metric), data, 2, ladder=False)
        numbers[defense] = {f.rule.number for f in found}
        assert not [f.name for f in found if f.raised and f.rule.number >= 19]
    assert numbers["none"] - numbers["flip"] == {19, 20, 21, 22, 23}


def test_a_plugin_declares_that_it_has_no_gradient(images: torch.Tensor) -> None:
    register_metric("steps-without-slope", differentiable=False)(lambda: Smooth(detached))
    metric = load_metric("steps-without-slope")
    assert not metric.differentiable
    (slope,) = [f for f in metric_contract(metric, images) if f.name == "score-slope"]
    assert "no gradient" in slope.skipped
    g = load_defense("gaussian-blur", metric)
    assert "metric 'steps-without-slope'" in str(load_attack("fgsm").skip(g, Linf(0.1)))
