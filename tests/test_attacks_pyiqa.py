"""Attacks that pay for LPIPS and DISTS, against a package `pyiqa` that behaves as the real one does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.pgd import State
from robustiqa.attacks.projection import unit
from robustiqa.bench import load_metric
from robustiqa.bench.errors import BadParameter, BadPlugin, Incompatible
from robustiqa.bench.objective import Objective
from robustiqa.bench.seeds import image_keys
from robustiqa.defenses import load_defense
from support import optimum
from torch import nn

FACTOR = {"lpips": 3.0, "dists": 5.0}
"""Multiples of the fake measures."""


class FakeDifference(nn.Module):
    """A multiple of the squared distance ("lpips") or of the distance, whose gradient is NaN at 0 ("dists").

    As pyiqa answers: one dimension too many, in train mode, spoiling inputs.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.rooted = name == "dists"
        self.scale = nn.Parameter(torch.tensor(FACTOR[name]))

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) twice to (B,1,1,1)."""
        assert not self.training
        assert not self.scale.requires_grad
        square = (z - x).square().sum((1, 2, 3)).view(-1, 1, 1, 1)
        x.mul_(0)
        return self.scale * (square.sqrt() if self.rooted else square)


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Installs a fake package, and gives the options of every call."""

    def install(error: Exception | None = None) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def create(name: str, **options: object) -> nn.Module:
            calls.append({"name": name, **options})
            if error:
                raise error
            return FakeDifference(name)

        module = ModuleType("pyiqa")
        module.create_metric = create  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pyiqa", module)
        return calls

    return install


@pytest.mark.parametrize("measure", sorted(FACTOR))
def test_the_gradient_is_that_of_the_penalised_score(pyiqa, images, measure: str) -> None:
    """w - weight * range * the measure's gradient, closed form; the network is built once, as a loss and unreduced."""
    calls = pyiqa()
    g = load_defense("none", load_metric("ranged"))  # declares the range 2 to 4
    objective = Objective(g, image_keys(images))
    attack: Any = load_attack(f"zhang-{measure}[weight=0.5]")
    z, state = images + 0.01, State(images, L2(0.5), torch.zeros_like(images), torch.zeros_like(images))
    assert [attack.skip(g, L2(0.5)) for _ in range(2)] == [None, None]
    gradient, again = (attack._gradient(objective, z, state)[1] for _ in range(2))
    assert torch.equal(gradient, again)
    w = g.metric.module.weights(images)  # type: ignore[operator]
    delta = z - images
    slope = FACTOR[measure] * (2 * delta if measure == "lpips" else unit(delta, "l2"))
    expected = w - 0.5 * 2 * slope
    assert torch.allclose(gradient, expected, atol=1e-5)
    assert [call["name"] for call in calls] == [measure]
    assert calls[0]["as_loss"] is True
    assert calls[0]["loss_reduction"] == "none"


@pytest.mark.parametrize("measure", sorted(FACTOR))
def test_a_penalty_buys_similarity_for_gain(pyiqa, linear, images, measure: str) -> None:
    """Without one it reaches the optimum; with one the path ends where slope and penalty balance, inside the ball.

    It starts at the image, where the root has no slope.
    """
    pyiqa()
    g = load_defense("none", linear)
    threat = L2(0.5)
    free, dear = (load_attack(f"zhang-{measure}[weight={weight}]")(g, images, threat) for weight in (0, 10))
    assert np.allclose(free.gain, optimum(linear, images, threat), rtol=1e-3)
    slope = float(linear.module.weights(images).norm())  # type: ignore[operator]
    balance = slope / (2 * 10 * FACTOR[measure]) if measure == "lpips" else 0.0
    assert np.all(dear.l2 < balance + 2 * 2.5 / 50 * threat.eps), "two steps further at most"
    assert np.all(dear.gain > 0)
    within = load_attack(f"zhang-{measure}[steps=3]")(g, images, Linf(4 / 255))
    assert np.all(within.linf <= 4 / 255)


@pytest.mark.parametrize("measure", sorted(FACTOR))
def test_without_pyiqa_the_reason_says_how_to_install_it(linear, images, monkeypatch, measure: str) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    attack, g = load_attack(f"zhang-{measure}"), load_defense("none", linear)
    reason = attack.skip(g, L2(0.5))
    assert reason is not None
    assert f"zhang-{measure}" in reason
    assert "pip install 'robustiqa[pyiqa]'" in reason
    with pytest.raises(Incompatible, match="package 'pyiqa', which is not installed"):
        attack(g, images, L2(0.5))


def test_weights_that_cannot_be_fetched_and_a_broken_package(pyiqa, linear) -> None:
    g = load_defense("none", linear)
    pyiqa(URLError("no network"))
    reason = load_attack("zhang-lpips").skip(g, L2(0.5))
    assert reason is not None
    assert "cannot be downloaded" in reason
    assert "pyiqa.create_metric('lpips') where there is a network" in reason
    pyiqa(RuntimeError("odd"))
    with pytest.raises(BadPlugin, match="odd"):
        load_attack("zhang-dists").skip(g, L2(0.5))


def test_impossible_settings_are_named() -> None:
    for text in ("zhang-lpips[weight=-1]", "zhang-dists[draws=0]", "zhang-lpips[steps=0]"):
        with pytest.raises(BadParameter, match="expected"):
            load_attack(text)
