"""The script examples/measure_surrogates.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from robustiqa.attacks import Linf
from robustiqa.bench import load_metric
from robustiqa.defenses import load_defense
from support import example, optimum


def test_steps_reach_the_optimum_of_a_linear_metric_and_random_signs_do_not(images) -> None:
    script, metric = example("measure_surrogates"), load_metric("linear")
    g = load_defense("none", metric)
    before = script.deployed(g, images, images)
    moved = script.climb(g, images)
    assert float((moved - images).abs().max()) <= script.EPS + 1e-7
    best = optimum(metric, images, Linf(script.EPS))
    assert script.deployed(g, moved, images) - before == pytest.approx(best, rel=1e-4)
    assert np.all(np.abs(script.noise(g, images)) < 0.2 * best)


def test_steps_along_a_random_defence_are_judged_on_other_draws(images) -> None:
    """Noise makes a linear score random and leaves its gradient: the steps reach the same images."""
    script, metric = example("measure_surrogates"), load_metric("linear")
    moved = script.climb(load_defense("random-noise", metric), images)
    inside = (images > 0.1) & (images < 0.9)  # elsewhere the noise is clipped
    direct = script.climb(load_defense("none", metric), images)
    assert torch.allclose(moved[inside], direct[inside], atol=1e-6)


def test_rows_name_every_gradient() -> None:
    table = list(example("measure_surrogates").rows(("bit-depth",)))
    assert [row[1] for row in table[1:]] == ["soft", "identity"]
    assert all(row[4] == "5/5" and float(row[2]) > float(row[5]) for row in table[1:])
