"""Restarts side by side: the same as one after the other, at the same cost, and as strong as the best of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack, restarts
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.objective import Objective
from robustiqa.bench.seeds import Role, Streams, image_key
from robustiqa.defenses import load_defense

PIXELS = 64 * 72


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Crops (3,3,64,72) of photographs."""
    photographs = load_dataset("photos[size=128,subset=references]")
    return torch.stack([photographs.load(i)[:, 20:84, 30:102] for i in range(3)])


@pytest.mark.parametrize(
    ("attack", "defense"),
    [
        ("pgd[steps=4,restarts=5]", "none"),
        ("apgd[steps=6,restarts=5]", "none"),
        ("apgd[restarts=5,start=random,steps=4]", "none"),
        ("eot-pgd[draws=3,restarts=5,steps=4]", "median-smoothing[m=5]"),
        ("apgd[centre=kernel,draws=4,restarts=5,steps=4]", "median-smoothing[m=5]"),
        ("eot-pgd[fixed=true,restarts=3,steps=4]", "median-smoothing[m=5]"),
        ("surrogate-pgd[restarts=3,steps=3]", "jpeg"),
    ],
)
def test_how_many_go_together_decides_nothing(images, monkeypatch, attack, defense) -> None:
    g, run = load_defense(defense, load_metric("tiny-iqa")), load_attack(attack)
    x, found = images[:2], []
    for together in (2, 9):
        monkeypatch.setattr(restarts, "MAX_PIXELS", together * len(x) * PIXELS)
        found.append(run(g, x, Linf(4 / 255)))
    for other in found[1:]:
        torch.testing.assert_close(other.adversarial, found[0].adversarial, rtol=0, atol=1e-4)
        np.testing.assert_allclose(other.gain, found[0].gain, rtol=0, atol=2e-3)
        np.testing.assert_array_equal(other.forwards, found[0].forwards)
        np.testing.assert_array_equal(other.backwards, found[0].backwards)


def test_the_best_restart_of_each_image_is_kept(images) -> None:
    """As an independent loop over starting points has it, with the streams that the definition names."""
    g, threat = load_defense("none", load_metric("tiny-iqa")), L2(1.0)
    steps, step = 3, 0.5
    result = load_attack(f"pgd[restarts=4,step={step},steps={steps}]")(g, images, threat, seed=7)
    best = torch.full((len(images),), -torch.inf)
    for restart in range(4):
        z = images.clone()
        for i, image in enumerate(images):
            if restart == 0:
                continue
            spec = load_attack(f"pgd[restarts=4,step={step},steps={steps}]").spec
            extra = (f"{spec}|l2", f"restart {restart}")
            (stream,) = Streams.create([image_key(image)], Role.SEARCH, 7, *extra).generators
            radius = (torch.rand(1, 1, 1, generator=stream) * 2 - 1).abs()
            direction = torch.empty(image.shape).normal_(generator=stream)
            z[i] = (image + threat.eps * radius * direction / direction.norm()).clamp(0, 1)
        for k in range(steps + 1):
            z = z.requires_grad_(True)
            scores = g.metric.module(z)
            best = torch.maximum(best, scores.detach())
            if k == steps:
                break
            (slope,) = torch.autograd.grad(scores.sum(), z)
            flat = slope.flatten(1)
            moved = z.detach() + step * threat.eps * (flat / flat.norm(dim=1, keepdim=True)).view_as(z)
            delta = (moved - images).flatten(1)
            inside = (threat.eps / delta.norm(dim=1, keepdim=True)).clamp(max=1.0)
            z = (images + (delta * inside).view_as(z)).clamp(0, 1)
    np.testing.assert_allclose(result.attacked.score, best.double().numpy(), rtol=1e-5)


def test_more_restarts_cost_as_many_passes_and_lose_nothing(images) -> None:
    g = load_defense("none", load_metric("tiny-iqa"))
    one, four = (load_attack(f"pgd[restarts={k},steps=5]")(g, images, Linf(4 / 255)) for k in (1, 4))
    assert (four.backwards == 4 * one.backwards).all()
    assert (four.forwards == 4 * one.forwards).all()
    assert (four.gain >= one.gain - 1e-6).all()


def test_restarts_draw_from_streams_of_their_own(images) -> None:
    """The first ones from those of the search, which go on; all are compared on the same selection draws."""
    keys = [image_key(image) for image in images[:2]]
    g = load_defense("median-smoothing[m=5]", load_metric("tiny-iqa"))
    objective = Objective(g, keys, "up", 3, "salt")
    view = objective.restarted(0, 3)
    assert view.search_streams.generators[:2] == objective.search_streams.generators
    first = {stream.initial_seed() for stream in view.search_streams.generators}
    later = {stream.initial_seed() for stream in objective.restarted(3, 2).search_streams.generators}
    assert len(first) == 6
    assert len(later) == 4
    assert not first & later
    chosen = view.select(torch.cat([images[:2]] * 3), 7)
    torch.testing.assert_close(chosen, objective.select(images[:2], 7).repeat(3), rtol=1e-6, atol=0)
    assert objective.forwards.tolist() == [7 * 4] * 2
    again = objective.salted("other").restarted(1, 1)
    assert not {stream.initial_seed() for stream in again.search_streams.generators} & first
