"""What a defence promises of itself: every registered one keeps it, and every breach raises its flag."""

from __future__ import annotations

import warnings

import pytest
import torch
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.api import DefendedMetric, Estimate
from robustiqa.bench.checks.contract import contract
from robustiqa.bench.checks.reliability import Finding
from robustiqa.bench.errors import Incompatible
from robustiqa.bench.images import straight_through
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Streams, image_keys
from robustiqa.bench.spec import Spec
from robustiqa.defenses import load_defense
from robustiqa.defenses.base import Purification, exact

BUILT_IN = [name for name in registry.names("defense") if registry.get("defense", name).origin == "built-in"]
NEEDED = {"lipschitz": "lip-iqa", "interval-bounds": "ibp-iqa"}
"""Defences of certain metrics only; the others are examined around tiny-iqa."""


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """Two photographs and a distorted one."""
    data = load_dataset("photos[size=128,subset=quick]")
    return torch.stack([data.load(i) for i in (0, 5, 11)])


def named(name: str) -> str:
    """The defence, a smoothing with few draws: what it promises does not depend on their number."""
    few = "m" in registry.get("defense", name).bind(Spec(name)) and not name.startswith("random-")
    return f"{name}[m=5]" if few and name not in ("chain", "diffusion-purification") else name


def examined(g: DefendedMetric, x: torch.Tensor) -> dict[str, Finding]:
    return {f.name: f for f in contract(g, x, image_keys(x), 100.0)}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_defence_keeps_its_promises(crops: torch.Tensor, name: str) -> None:
    g = load_defense(named(name), load_metric(NEEDED.get(name, "tiny-iqa")))
    found = examined(g, crops)
    assert set(found) == {"output-invalid", "surrogate-inexact", "slope-mismatch", "cost-misdeclared"}
    assert not [f for f in found.values() if f.raised]
    assert not found["surrogate-inexact"].skipped
    assert not found["cost-misdeclared"].skipped


class Pooled(Purification):
    """Half as large, and says nothing of it."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 2)


class Bright(Purification):
    """Leaves the range."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.5


class Broken(Purification):
    """Not a number in a corner."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(x.shape[3]) > 3, x, torch.nan)


class Steep(Purification):
    """The right values with a gradient half too large, declared to be the operation's own."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def purify_surrogate(self, x: torch.Tensor) -> torch.Tensor:
        return straight_through(x, 1.5 * x)


class Rough(Purification):
    """Another image for the attack than for the metric."""

    smooth = False

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 7).round() / 7

    def purify_surrogate(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Cheap(Purification):
    """Asks the metric twice and declares one forward."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
        return exact((self.metric(x) + self.metric(x)) / 2)


class Dead(Purification):
    """No gradient at all."""

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


@pytest.mark.parametrize(("fault", "flags"), [
    (Pooled, {"output-invalid"}),
    (Bright, {"output-invalid"}),
    (Steep, {"slope-mismatch"}),
    (Rough, {"surrogate-inexact"}),
    (Cheap, {"cost-misdeclared"}),
    (Dead, {"slope-mismatch"}),
])  # fmt: skip
def test_every_breach_raises_its_flag_and_no_other(
    crops: torch.Tensor, fault: type[DefendedMetric], flags: set[str]
) -> None:
    found = examined(fault(load_metric("tiny-iqa")), crops)
    assert {f.name for f in found.values() if f.raised} == flags


def test_a_metric_inside_a_metric_costs_nothing_more(crops: torch.Tensor) -> None:
    """What `aligned` makes of a metric is one metric; a defence that calls it twice is still found out."""
    metric = load_metric("aligned[metric=tiny-iqa,calibration=photos[size=128,split=dev],map=quantile]")
    assert not examined(load_defense("none", metric), crops)["cost-misdeclared"].raised
    assert examined(Cheap(metric), crops)["cost-misdeclared"].raised


def test_values_that_are_no_numbers_are_no_image(crops: torch.Tensor) -> None:
    class Blind(Broken):
        """Its metric would fail: only the image is looked at."""

        def _estimate(self, x: torch.Tensor, rng: Streams) -> Estimate:
            return exact(torch.zeros(len(x)))

        def surrogate(self, x: torch.Tensor, rng: Streams, draws: int = 1) -> torch.Tensor:
            return torch.zeros(1, len(x))

    assert examined(Blind(load_metric("tiny-iqa")), crops)["output-invalid"].raised


def test_what_does_not_apply_says_why(crops: torch.Tensor) -> None:
    found = examined(load_defense("median-smoothing[n=10,m=3]", load_metric("tiny-iqa")), crops)
    assert "no changed image" in found["output-invalid"].skipped
    found = examined(load_defense("jpeg", load_metric("tiny-iqa")), crops)
    assert "BPDA" in found["slope-mismatch"].skipped


def test_every_preset_of_a_strength_can_be_built() -> None:
    metric, built = load_metric("tiny-iqa"), 0
    for name in BUILT_IN:
        strength = registry.get("defense", name).meta["strength"]
        for text in strength.specs(name) if strength else []:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert load_defense(text, metric).spec == text
                except Incompatible as error:
                    pytest.fail(f"{text}: {error}")
            built += 1
    assert built >= 10


def test_a_given_strength_is_kept() -> None:
    strength = registry.get("defense", "jpeg").meta["strength"]
    assert strength.specs("jpeg[surrogate=identity]")[:2] == [
        "jpeg[quality=90,surrogate=identity]", "jpeg[quality=70,surrogate=identity]",
    ]  # fmt: skip
    assert strength.specs("jpeg[quality=42]") == ["jpeg[quality=42]"]
