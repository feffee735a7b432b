"""Certificates without sampling: closed forms on linear metrics, attacks against them, what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.bench import Metric, load_metric
from robustiqa.bench.errors import Incompatible
from robustiqa.defenses import load_defense
from torch import nn

SIZE = (3, 48, 40)


class _Known(nn.Module):
    """A linear metric that knows its constant."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 40, 1))
        linear = self.layers[1]
        assert isinstance(linear, nn.Linear)
        generator = torch.Generator().manual_seed(5)
        linear.weight.data = torch.randn(linear.weight.shape, generator=generator) / 50
        linear.bias.data = torch.tensor([3.0])
        self.scale = scale

    @property
    def weights(self) -> torch.Tensor:
        linear = self.layers[1]
        assert isinstance(linear, nn.Linear)
        return linear.weight.double()

    def lipschitz(self, height: int, width: int) -> float:
        return self.scale * float(self.weights.norm())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).squeeze(1)


def test_lipschitz_bound_is_the_constant_times_eps_and_attacks_reach_it(images) -> None:
    module = _Known()
    g = load_defense("lipschitz", Metric(module, "known"))
    eps = [0.0, 0.05, 1.0]
    c = g.certify(images, eps)
    reach = float(module.weights.norm()) * np.array(eps)
    assert np.allclose(c.hi - c.score[:, None], reach, rtol=1e-6, atol=2e-3)
    assert np.allclose(c.score[:, None] - c.lo, reach, rtol=1e-6, atol=2e-3)
    assert (c.norm, c.n, c.coverage, c.sigma) == ("l2", 0, "exact", 0.0)
    assert c.deployed is not None
    assert np.array_equal(c.deployed.hi, c.hi)
    assert np.array_equal(g.certify(images, eps, family=100).family.hi, c.hi)  # type: ignore[union-attr]
    for direction in ("up", "down"):
        attacked = load_attack("pgd")(g, images, L2(1.0), direction).attacked.score
        assert np.all((attacked <= c.hi[:, 2]) & (attacked >= c.lo[:, 2]))
        assert np.all(np.abs(attacked - c.score) >= 0.99 * reach[2])


def test_interval_bound_is_exact_on_a_linear_metric_and_cut_at_the_box(images) -> None:
    module = _Known()
    g = load_defense("interval-bounds", Metric(module, "known"))
    c = g.certify(images, [1 / 255, 0.4])
    w = module.weights.reshape(1, *SIZE)
    for j, e in enumerate(c.eps):
        room_up = torch.where(
            w > 0, (images.double() + e).clamp(max=1) - images, images - (images.double() - e).clamp(0)
        )
        best = (w.abs() * room_up).sum((1, 2, 3)).numpy()
        # Above the closed form only by the worst rounding of a float32 sum of 5760 terms.
        assert np.all(c.hi[:, j] - c.score >= best - 1e-5)
        assert np.all(c.hi[:, j] - c.score <= 1.003 * best + 0.05)
    assert c.norm == "linf"
    attacked = load_attack("pgd")(g, images, Linf(1 / 255)).attacked.score
    assert np.all(attacked <= c.hi[:, 0])
    assert np.all(attacked - c.score >= 0.99 * (c.hi[:, 0] - c.score - 0.05))


@pytest.mark.parametrize(("metric", "defense", "attack", "threats"), [
    ("lip-iqa", "lipschitz", "pgd[steps=20]", [L2(0.05), L2(1.0)]),
    ("ibp-iqa", "interval-bounds", "pgd[steps=20]", [Linf(0.25 / 255), Linf(1 / 255)]),
])  # fmt: skip
@pytest.mark.parametrize("direction", ["up", "down"])
def test_attacks_stay_inside_the_bounds_of_the_shipped_metrics(metric, defense, attack, threats, direction) -> None:
    g = load_defense(defense, load_metric(metric))
    x = torch.rand(2, 3, 72, 64, generator=torch.Generator().manual_seed(1))
    x = torch.nn.functional.avg_pool2d(x, 5, 1, 2)  # smoother than noise
    c = g.certify(x, [t.eps for t in threats])
    for j, threat in enumerate(threats):
        attacked = load_attack(attack)(g, x, threat, direction).attacked.score
        assert np.all((attacked >= c.lo[:, j]) & (attacked <= c.hi[:, j]))
        assert np.all(np.abs(attacked - c.score) > 0)


def test_metrics_without_a_proof_are_refused(linear) -> None:
    with pytest.raises(Incompatible, match="lip-iqa"):
        load_defense("lipschitz", linear)
    with pytest.raises(Incompatible, match="ibp-iqa"):
        load_defense("interval-bounds", load_metric("tiny-iqa"))
