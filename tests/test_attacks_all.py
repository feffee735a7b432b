"""What holds for every attack of the registry: budgets, counts, and what each does with what it cannot take."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.base import Attack
from robustiqa.bench import Threat, load_metric
from robustiqa.bench.api import AttackResult, DefendedMetric, Direction
from robustiqa.bench.errors import BadImage, BadParameter, BadScore, Incompatible
from robustiqa.bench.registry import registry
from robustiqa.defenses import load_defense

FEW = {
    "apgd": "steps=6", "colour-curve": "steps=4", "jnd-search": "queries=100", "jpeg-pgd": "steps=3",
    "minimal-eps": "rounds=2", "naive": "attack=apgd[steps=6]",
    "nes": "queries=60,pairs=5", "one-pixel": "queries=80,population=10",
    "parsimonious": "queries=150", "patch-search": "queries=60", "spsa": "queries=60,pairs=5", "square": "queries=60",
    "stadv": "steps=4", "vmi-fgsm": "steps=4", "zhang-ssim": "steps=5",
}  # fmt: skip
"""Settings that make the slow ones quick; the others keep their defaults."""

MORE = {
    "apgd": "steps=12", "colour-curve": "steps=8", "jnd-search": "queries=200", "jpeg-pgd": "steps=6",
    "minimal-eps": "rounds=4", "naive": "attack=apgd[steps=12]",
    "nes": "queries=120,pairs=5", "one-pixel": "queries=160,population=10",
    "parsimonious": "queries=300", "patch-search": "queries=120", "spsa": "queries=120,pairs=5",
    "square": "queries=120", "stadv": "steps=8", "vmi-fgsm": "steps=8", "zhang-ssim": "steps=10",
    "random-noise": "tries=20",
    **dict.fromkeys(("i-fgsm", "mi-fgsm", "ni-fgsm", "di-fgsm", "ami-fgsm", "pgd", "eot-pgd"), "steps=20"),
    **dict.fromkeys(("fixed-noise-pgd", "quantised-pgd", "surrogate-pgd"), "steps=40"),
    **dict.fromkeys(("korhonen-you", "ssah", "transfer"), "steps=40"),
    "madc": "steps=16",
}  # fmt: skip
"""Twice the budget of `FEW`, or of the default."""

ONE_STEP = {"auto-iqa", "fgsm", "single-sign", "ioi", "uap", "facpa"}
"""No number of steps or queries to double."""

OURS = [
    name
    for name in registry.names("attack")
    if registry.get("attack", name).origin == "built-in" and not name.startswith("torchattacks-")
]
"""torchattacks' own have `test_torchattacks_bridge`."""

RUNNING = [name for name in OURS if name not in ("zhang-lpips", "zhang-dists")]
"""Those that need no pyiqa, which has `test_attacks_pyiqa`."""


def attack(name: str, settings: dict[str, str] = FEW) -> Attack:
    """An attack with the settings that a table gives it."""
    built = load_attack(f"{name}[{settings[name]}]" if name in settings else name)
    assert isinstance(built, Attack)
    return built


def run(name: str, g: DefendedMetric, x: torch.Tensor, threat: Threat, direction: Direction = "up") -> AttackResult:
    """Its result; those that were trained for another metric say so in a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return attack(name)(g, x, threat, direction)


def threats(name: str, *wanted: Threat) -> list[Threat]:
    """Those of the threats that the attack works in."""
    return [threat for threat in wanted if threat.norm in attack(name).norms]


@pytest.mark.parametrize("name", RUNNING)
def test_no_budget_no_change(linear, images, name) -> None:
    for threat in threats(name, L2(0.0), Linf(0.0)):
        result = run(name, load_defense("none", linear), images, threat)
        assert torch.equal(result.adversarial, images)
        assert np.all(result.gain == 0)
        assert np.all(result.forwards == 0)


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_budget_and_box(linear, images, name, direction) -> None:
    for threat in threats(name, L2(0.5), Linf(4 / 255), Linf(0.7)):
        result = run(name, load_defense("none", linear), images, threat, direction)
        used = (result.adversarial.double() - images.double()).flatten(1)
        length = used.norm(dim=1) if threat.norm == "l2" else used.abs().amax(1)
        assert float(length.max()) <= threat.eps
        assert 0 <= float(result.adversarial.min()) <= float(result.adversarial.max()) <= 1
        if name not in ("random-noise", "single-sign", "uap", "facpa", "jpeg-pgd"):  # may fail on noise images
            assert np.all(result.gain > 0 if direction == "up" else result.gain < 0)


@pytest.mark.parametrize("name", [name for name in RUNNING if name not in ONE_STEP])
def test_twice_the_budget_costs_more(linear, images, name) -> None:
    # On a randomised defence the draws that choose between candidates come on top, the same number for both.
    for defense, factor in (("none", 1.5), ("median-smoothing[n=100,m=3]", 1.0)):
        g = load_defense(defense, linear)
        threat = threats(name, Linf(4 / 255), L2(0.5))[0]
        counts = []
        for settings in (FEW, MORE):
            result = attack(name, settings)(g, images, threat)
            counts.append(np.stack([result.forwards, result.backwards, result.queries]))
        few, more = counts
        assert np.all(more[0] > factor * few[0]), "forwards"
        assert np.all((more[1:] > few[1:]) | (few[1:] == 0)), "backwards and queries"


@pytest.mark.parametrize("name", RUNNING)
def test_a_metric_without_gradient(images, name) -> None:
    """Attacks that need one say so; the others run."""
    g = load_defense("none", load_metric("no-gradient"))
    threat = threats(name, Linf(4 / 255), L2(0.5))[0]
    if attack(name).white_box or name in ("transfer", "naive"):
        with pytest.raises(Incompatible, match="gradient"):
            run(name, g, images, threat)
        return
    result = run(name, g, images, threat)
    assert np.all(result.linf > 0)
    assert np.all(result.backwards == 0)


@pytest.mark.parametrize("name", [name for name in RUNNING if attack(name).white_box])
def test_white_box_attacks_skip_what_declares_no_gradient(linear, name) -> None:
    g = load_defense("none", linear)
    g.differentiable = False
    assert "needs gradients" in str(attack(name).skip(g, threats(name, Linf(0.1), L2(0.1))[0]))


@pytest.mark.parametrize("name", [name for name in RUNNING if attack(name).white_box])
def test_a_gradient_of_nan_is_an_error(images, name) -> None:
    with pytest.raises(BadScore, match="NaN"):
        run(name, load_defense("none", load_metric("nan-gradient")), images, threats(name, Linf(0.1), L2(0.1))[0])


@pytest.mark.parametrize("name", RUNNING)
def test_images_of_one_pixel(linear, name) -> None:
    x = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    if name == "ami-fgsm":
        with pytest.raises(BadImage, match="32x32"):
            run(name, load_defense("none", linear), x, Linf(0.1))
        return
    for threat in threats(name, Linf(0.1), L2(0.1)):
        result = run(name, load_defense("none", linear), x, threat)
        assert np.all(result.linf <= 0.1)
        assert bool(torch.isfinite(result.adversarial).all())


@pytest.mark.parametrize("x", [
    torch.full((1, 3, 8, 8), torch.nan), torch.full((1, 3, 8, 8), 1.5), torch.full((1, 3, 8, 8), -0.1),
    torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(0, 3, 8, 8),
])  # fmt: skip
def test_what_is_no_batch_of_images_is_refused(linear, x) -> None:
    with pytest.raises(BadImage, match="expected \\(B,3,H,W\\) with values in"):
        run("pgd", load_defense("none", linear), x, L2(0.1))


def test_a_negative_budget_is_refused() -> None:
    for norm in ("linf", "l2"):
        with pytest.raises(BadParameter, match="eps"):
            Threat(norm, -0.1)


@pytest.mark.parametrize("text", ["nes[queries=20]", "spsa[queries=20]", "one-pixel[queries=20]", "square[queries=0]"])
def test_fewer_queries_than_a_step_takes_are_refused(text) -> None:
    with pytest.raises(BadParameter, match=r"quer"):
        load_attack(text)


def test_none_is_left_out() -> None:
    """A new attack has to enter the tables above; those of other files are named there."""
    assert set(MORE) | ONE_STEP == set(RUNNING)
