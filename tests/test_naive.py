"""The naive attack: exactly what an attack finds on the undefended metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.errors import BadParameter, Incompatible, UnknownName
from robustiqa.defenses import load_defense


@pytest.mark.parametrize("inner", ["apgd[steps=6]", "square[queries=40]", "random-noise"])
def test_it_is_the_other_attack_on_the_bare_metric(inner: str) -> None:
    data, metric = load_dataset("photos[size=128,subset=references]"), load_metric("tiny-iqa")
    x = torch.stack([data.load(i)[:, :64, :64] for i in range(2)])
    on_bare = load_attack(inner)(load_defense("none", metric), x, Linf(4 / 255))
    g = load_defense("jpeg[quality=30]", metric)
    result = load_attack(f"naive[attack={inner}]")(g, x, Linf(4 / 255))
    assert torch.equal(result.adversarial, on_bare.adversarial)
    assert np.array_equal(result.forwards, on_bare.forwards)
    assert np.allclose(result.gain, g.estimate(result.adversarial).score - g.estimate(x).score), "judged behind it"


def test_the_defence_is_never_asked(linear, images) -> None:
    g = load_defense("median-smoothing[m=3,n=10]", linear)
    result = load_attack("naive[attack=pgd[steps=3]]")(g, images, L2(0.3))
    w = linear.module.weights(images)
    assert torch.allclose(result.adversarial - images, (0.3 * w / w.norm()).expand_as(images), atol=1e-5)


def test_what_it_cannot_run_is_told(linear, images) -> None:
    with pytest.raises(BadParameter, match="naive"):
        load_attack("naive[attack=naive]")
    with pytest.raises(UnknownName):
        load_attack("naive[attack=nope]")
    with pytest.raises(Incompatible, match="l2"):
        load_attack("naive[attack=parsimonious]")(load_defense("jpeg", linear), images, L2(0.3))
