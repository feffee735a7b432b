"""The standard worst case: its members, and that no member's failure or blindness becomes a robust defence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.attacks.auto import _room, members
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.objective import Objective
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams, image_keys
from robustiqa.defenses import load_defense
from support import optimum

BROKEN = Path(__file__).parent / "plugins" / "broken.py"
RANDOMISED = "median-smoothing[n=100,m=7]"


@pytest.fixture(scope="module", autouse=True)
def _plugins() -> None:
    registry.load_file(BROKEN)


def test_members_are_those_that_the_docstring_names(linear) -> None:
    names = {text: [m.spec for m in members(load_defense(text, linear))] for text in ("none", "jpeg", RANDOMISED)}
    plain = ["apgd", "apgd-random", "pgd", "momentum", "naive", "transfer", "quantised", "square"]
    assert names["none"] == [f"auto-iqa/{name}" for name in plain]
    assert names["jpeg"] == [f"auto-iqa/{name}" for name in [*plain, "surrogates"]]
    noisy = ["eot-pgd", "apgd-eot", "apgd-kernel", "naive", "transfer", "quantised"]
    assert names[RANDOMISED] == [f"auto-iqa/{name}" for name in noisy]
    kernel = members(load_defense(RANDOMISED, linear))[2]
    assert kernel.centre == "kernel"  # type: ignore[attr-defined]


def test_each_member_is_run(linear, images) -> None:
    """The passes of all members together, counted by hand: steps, last looks, draws, and the choices between them."""
    result = load_attack("auto-iqa")(load_defense("none", linear), images, Linf(4 / 255))
    # (gradients, values): APGD twice, PGD twice, naive, transfer, quantised, Square; a look at each and at the clean.
    gradients = 101 + 101 + 100 + 100 + 101 + 20 + 20
    assert result.backwards.tolist() == [gradients] * 3
    looks = 8 + 1 + 3  # the last points of PGD, PGD with momentum and quantised are looked at once more
    assert result.forwards.tolist() == [gradients + 1000 + looks] * 3
    noisy = load_attack("auto-iqa")(load_defense(RANDOMISED, linear), images, Linf(4 / 255))
    assert noisy.backwards.tolist() == [100 * 8 + 101 * 8 + 51 * 8 + 101 + 20 + 20 * 8] * 3


def test_where_the_gradient_is_missing_square_searches(images) -> None:
    """Transfer alone leads the wrong way: the result is not below the clean image, and 200 queries were asked."""
    g = load_defense("inverted-blind", load_metric("linear"))
    result = load_attack("auto-iqa")(g, images, Linf(4 / 255))
    assert result.queries.tolist() == [200] * 3
    assert np.all(result.gain > 0)


def test_a_gradient_of_zero_is_not_the_end(linear, images) -> None:
    """Deterministic: Square and transfer are members. The exact score is reached through the bare metric."""
    result = load_attack("auto-iqa")(load_defense("broken-killer", linear), images, L2(0.5))
    assert np.all(result.gain >= 0.99 * optimum(linear, images, L2(0.5)))


def test_images_that_only_the_defence_makes_fit_are_attacked(images) -> None:
    """The bare metric refuses them, so that transfer cannot run; the others do."""
    g = load_defense("enlarged", load_metric("linear-64"))
    auto, plain = (load_attack(a)(g, images, L2(0.5)).gain for a in ("auto-iqa", "pgd"))
    assert np.all(auto >= plain - 1e-4)
    assert np.all(auto > 0.1)


def test_room_ends_at_the_promised_end_in_either_sense() -> None:
    up, down = (_room(load_defense("none", load_metric("clamped")), sign) for sign in (1.0, -1.0))
    assert up == pytest.approx(4.0, abs=1e-3)
    assert down == pytest.approx(-2.0, abs=1e-3)
    assert _room(load_defense("none", load_metric("ranged")), 1.0) == np.inf


@pytest.mark.parametrize("name", ["zhang-ssim[steps=5]", "ssah", "minimal-eps[rounds=3]", "stadv[steps=3]", "auto-iqa",
                                  "torchattacks-pgdrs"])  # fmt: skip
def test_a_range_without_end_is_no_range(images, name) -> None:
    """As if none were declared: gains of attacks that weigh scores by it are not lost in NaN."""
    half, none = (load_defense("none", load_metric(m)) for m in ("half-open", "linear"))
    attack = load_attack(name)
    if reason := attack.skip(half, Linf(4 / 255)):
        pytest.skip(reason)
    assert np.allclose(attack(half, images, Linf(4 / 255)).gain, attack(none, images, Linf(4 / 255)).gain)
    assert np.all(attack(half, images, Linf(4 / 255)).gain > 0)


def test_no_search_sees_the_draws_that_judge(images) -> None:
    """The streams of search, selection, evaluation and certification differ, whatever an attack is called."""
    g = load_defense(RANDOMISED, load_metric("linear"))
    keys = image_keys(images)
    seen = []
    for salt in ("", "eot-pgd", "auto-iqa", "towards"):
        objective = Objective(g, keys, salt=salt)
        seen += [objective.search_streams.fork(), objective._selection.fork()]
    seen += [Streams.create(keys, role) for role in (Role.EVALUATION, Role.CERTIFICATION)]
    seen.append(Streams.create(keys, Role.SEARCH, 0, "set-level"))
    draws = torch.stack([rng.normal(images, 1)[0, :, 0, 0, 0] for rng in seen]).double()
    for i in range(len(images)):
        assert len(set(draws[:, i].tolist())) == len(seen)


def test_on_no_image_it_finds_less_than_who_does_not_know_the_defence() -> None:
    data, metric = load_dataset("photos[size=128,subset=references]"), load_metric("tiny-iqa")
    x = data.load(0)[None, :, 30:94, 30:94]
    g = load_defense("bit-depth[bits=3]", metric)
    auto, naive = (load_attack(a)(g, x, Linf(4 / 255)) for a in ("auto-iqa", "naive"))
    assert np.all(auto.gain >= naive.gain - 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("defense", ["random-crop[m=8]", "random-rotation[m=8]", "random-noise[m=8,sigma=0.05]",
                                     "random-resize[grow=1.05,m=8]"])  # fmt: skip
def test_behind_chance_it_finds_what_a_long_search_with_averages_finds(defense: str) -> None:
    """Twenty steps found half as much on crops: a randomised defence must not look good by an attack cut short."""
    data, metric = load_dataset("photos[size=128,subset=references]"), load_metric("tiny-iqa")
    x = torch.stack([data.load(i)[:, 20:108, 20:108] for i in range(2)])
    g = load_defense(defense, metric)
    gains = []
    for name in ("auto-iqa", "eot-pgd[steps=100,draws=8]"):
        found = load_attack(name)(g, x, Linf(4 / 255)).adversarial
        streams = [Streams.create(image_keys(x), Role.EVALUATION, seed) for seed in range(100, 108)]
        gains.append(np.mean([g.estimate(found, s.fork()).score - g.estimate(x, s).score for s in streams], axis=0))
    assert np.all(gains[0] >= gains[1] - 2.0)
