"""Images of both directions in one batch: what two calls find, at fewer calls of the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.base import Attack
from robustiqa.bench import Metric, Threat, load_metric
from robustiqa.bench.api import AttackResult, DefendedMetric, Direction
from robustiqa.bench.errors import BadParameter, BadScore, Incompatible
from robustiqa.bench.objective import Objective
from robustiqa.bench.seeds import image_keys
from robustiqa.defenses import load_defense
from support import optimum, torch_threads
from test_attacks_all import RUNNING, attack, threats

SMOOTHED = "median-smoothing[n=100,m=5]"
SHAREABLE = [name for name in RUNNING if attack(name)._shareable]


def ours(text: str) -> Attack:
    built = load_attack(text)
    assert isinstance(built, Attack)
    return built


def same(both: AttackResult, alone: AttackResult) -> None:
    """Equal up to the rounding of batches of another size; counts exactly."""
    for name in ("forwards", "backwards", "queries"):
        assert np.array_equal(getattr(both, name), getattr(alone, name)), name
    assert torch.allclose(both.adversarial, alone.adversarial, atol=1e-5)
    for name in ("gain", "gain_8bit", "linf", "l2", "psnr", "ssim"):
        assert np.allclose(getattr(both, name), getattr(alone, name), rtol=1e-3, atol=1e-4), name
    for name in ("clean", "attacked", "attacked_8bit"):
        assert np.allclose(getattr(both, name), getattr(alone, name), rtol=1e-4), name


def check(found: Attack, g: DefendedMetric, x: torch.Tensor, threat: Threat) -> None:
    results = found.both(g, x, threat, 3)
    assert list(results) == ["up", "down"]
    for direction, result in results.items():
        same(result, found(g, x, threat, direction, 3))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", RUNNING)
def test_both_directions_find_what_two_calls_find(linear: Metric, images: torch.Tensor, name: str) -> None:
    threat = threats(name, L2(0.5), Linf(4 / 255))[0]
    check(attack(name), load_defense("none", linear), images[:2], threat)


@pytest.mark.parametrize("name", SHAREABLE)
@pytest.mark.parametrize("metric", ["bounded", "linear-dmos"])
def test_behind_a_randomised_defence_too(images: torch.Tensor, name: str, metric: str) -> None:
    """The same draws for both directions of an image; `auto-iqa` stops where a bounded score ends, up or down."""
    threat = threats(name, L2(0.5), Linf(4 / 255))[0]
    check(attack(name), load_defense(SMOOTHED, load_metric(metric)), images[:2], threat)


def test_auto_iqa_leaves_the_images_that_have_come_to_their_own_end(images: torch.Tensor) -> None:
    """Upwards nothing is left after the first member, downwards there is."""
    g = load_defense("none", load_metric("bounded[offset=14]"))
    results = ours("auto-iqa").both(g, images[:1], Linf(0.1))
    assert results["up"].forwards[0] < results["down"].forwards[0]
    for direction, result in results.items():
        same(result, ours("auto-iqa")(g, images[:1], Linf(0.1), direction))


@pytest.mark.parametrize("name", ["pgd", "jnd-search[queries=60]"])
def test_each_image_in_its_own_direction(linear: Metric, images: torch.Tensor, name: str) -> None:
    """In any order, whether an attack takes them together or not."""
    g = load_defense("none", linear)
    ways: list[Direction] = ["down", "up", "down"]
    mixed = ours(name)(g, images, L2(0.5), ways)
    for i, way in enumerate(ways):
        alone = ours(name)(g, images[i : i + 1], L2(0.5), way)
        assert np.allclose(mixed.gain[i], alone.gain[0], rtol=1e-4)
        assert mixed.queries[i] == alone.queries[0]
    if name == "pgd":
        assert np.allclose(mixed.gain, [(1 if way == "up" else -1) * optimum(linear, images, L2(0.5)) for way in ways],
                           rtol=1e-3)  # fmt: skip


def test_the_network_is_called_as_often_as_for_one_direction(linear: Metric, images: torch.Tensor) -> None:
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    linear.module.register_forward_hook(count)
    g, taken = load_defense("none", linear), []
    clean = g.estimate(images)
    for run in (
        lambda: ours("pgd[steps=7]")(g, images, L2(0.5), clean=clean),
        lambda: ours("pgd[steps=7]").both(g, images, L2(0.5), clean=clean),
    ):
        calls[0] = 0
        run()
        taken.append(calls[0])
    assert taken[0] == taken[1] >= 8


def test_many_or_large_images_go_one_direction_after_the_other(linear: Metric) -> None:
    """Nothing is gained there, and twice the images could be more than the memory holds."""
    sizes: list[int] = []
    linear.module.register_forward_pre_hook(lambda _, x: sizes.append(x[0][:, 0].numel()))
    g = load_defense("none", linear)
    for shape in ((2, 3, 256, 256), (5, 3, 128, 128)):
        ours("fgsm").both(g, torch.full(shape, 0.5), L2(0.5))
        assert max(sizes) == shape[0] * shape[2] * shape[3]
        sizes.clear()
    ours("fgsm").both(g, torch.full((2, 3, 128, 128), 0.5), L2(0.5))
    assert max(sizes) == 4 * 128 * 128


def test_what_cannot_run_is_not_even_scored(linear: Metric, images: torch.Tensor) -> None:
    calls: list[int] = []
    linear.module.register_forward_hook(lambda *_: calls.append(1))
    g = load_defense("none", linear)
    g.differentiable = False
    with pytest.raises(Incompatible):
        ours("pgd").both(g, images, L2(0.5))
    assert not calls


@pytest.mark.parametrize("text", ["eot-pgd[draws=4,steps=2]", "square[queries=30]"])
def test_both_in_two_threads(text: str) -> None:
    x = torch.rand((3, 3, 128, 128), generator=torch.Generator().manual_seed(2))
    g = load_defense("median-smoothing[n=100,m=5]", load_metric("tiny-iqa"))
    with torch_threads(2):
        together = ours(text).both(g, x, L2(0.5))
    for direction, result in together.items():
        alone = ours(text)(g, x, L2(0.5), direction)
        assert np.allclose(result.gain, alone.gain, rtol=1e-3, atol=5e-3)
        assert np.array_equal(result.forwards, alone.forwards)


def test_a_clean_score_serves_both(linear: Metric, images: torch.Tensor) -> None:
    g = load_defense(SMOOTHED, linear)
    given = g.estimate(images)
    for result in ours("fgsm").both(g, images, L2(0.5), clean=given).values():
        assert all(np.array_equal(a, b) for a, b in zip(result.clean, given, strict=True))


def test_directions_that_are_none_or_too_few(linear: Metric, images: torch.Tensor) -> None:
    g = load_defense("none", linear)
    with pytest.raises(BadParameter, match="2 directions for 3 images"):
        ours("pgd")(g, images, L2(0.5), ["up", "down"])
    with pytest.raises(BadParameter, match="unknown direction 'left': expected up or down"):
        ours("pgd")(g, images, L2(0.5), ["up", "left", "down"])  # type: ignore[list-item]
    with pytest.raises(BadParameter, match="unknown direction 'sideways'"):
        ours("pgd")(g, images, L2(0.5), "sideways")  # type: ignore[arg-type]


def test_a_broken_score_is_an_error_of_both(images: torch.Tensor) -> None:
    with pytest.raises(BadScore):
        ours("pgd").both(load_defense("none", load_metric("nan-gradient")), images, L2(0.5))


def test_an_objective_of_both_has_no_one_direction(linear: Metric, images: torch.Tensor) -> None:
    objective = Objective(load_defense("none", linear), image_keys(images), ["up", "down", "down"])
    assert objective.signs.tolist() == [1, -1, -1]
    for part, sign in (([0], 1), ([2, 1], -1)):
        assert objective.part(part).sign == sign
    assert objective.only(1).direction == "down"
    assert objective.restarted(0, 2).signs.tolist() == [1, -1, -1] * 2
    lower = objective.of(load_defense("none", load_metric("linear-dmos")))
    assert lower.signs.tolist() == [-1, 1, 1]
    for asked in ("sign", "direction"):
        with pytest.raises(Incompatible, match="both directions"):
            getattr(objective, asked)
    value, gradient = objective.gradient(images)
    scores = linear(images).double()
    assert torch.allclose(value, objective.signs * scores)
    w = linear.module.weights(images)  # type: ignore[operator]
    assert torch.allclose(gradient, objective.signs.float().view(-1, 1, 1, 1) * w)
