"""Naive beside adaptive gains, from records made by hand: who counts, which images, and which way is up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from robustiqa.bench.plan import Cell
from robustiqa.leaderboard.results import EMPIRICAL_RANGE, Group
from robustiqa.leaderboard.threats import COLUMNS, is_adaptive, threat_rows

EPS = 4 / 255
Gains = Mapping[str, Sequence[float | None]]
"""Attack -> gain in metric units (larger score = better) of each image; None where it failed."""


def group(
    gains: Gains,
    *,
    clean: Sequence[float] = (10.0, 20.0, 30.0),
    direction: str = "up",
    sign: float = 1.0,
    ends: tuple[float, float] = (0.0, 50.0),
    source: str = EMPIRICAL_RANGE,
) -> Group:
    """A group whose clean qualities are `clean`; with sign -1 the metric's scores are their negatives."""
    images = [f"i{k}" for k in range(len(clean))]
    scored = pd.DataFrame({"image": images, "quality": clean})
    rows: list[dict[str, Any]] = [
        {"kind": "attack", "attack": attack, "norm": "linf", "eps": EPS, "direction": direction, "image": image,
         "reference": image, "clean": sign * before, "attacked": sign * (before + gain), "gain": gain}
        for attack, values in gains.items()
        for image, before, gain in zip(images, clean, values, strict=True)
        if gain is not None
    ]  # fmt: skip
    columns = ["kind", "attack", "norm", "eps", "direction", "image", "reference", "clean", "attacked", "gain"]
    cells = [
        Cell("attack", "m", "d", "s", start, min(start + 2, len(images)), 0, attack, "linf", (EPS,), direction)  # type: ignore[arg-type]
        for attack in gains
        for start in range(0, len(images), 2)
    ]
    return Group("m", "d", "s", ends, source, sign, scored, pd.DataFrame(rows, columns=columns), tuple(cells))


def only(made: Group) -> dict[str, Any]:
    (row,) = threat_rows(made)
    assert set(row) == set(COLUMNS)
    return row


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("direction", "toward"), [("up", 1.0), ("down", -1.0)])
def test_gains_point_where_the_attacker_wants_to_go(direction: str, toward: float, sign: float) -> None:
    gains = {
        "naive": [toward * 5.0, toward * 1.0, toward * -2.0],
        "pgd": [toward * 10.0, toward * 1.0, toward * 5.0],
        "apgd[steps=100]": [toward * 5.0, toward * 20.0, toward * -5.0],
    }
    row = only(group(gains, direction=direction, sign=sign))
    assert row["naive_gain_mean"] == pytest.approx((5 + 1 - 2) / 3 / 50)
    assert row["adaptive_gain_mean"] == pytest.approx((10 + 20 + 5) / 3 / 50)
    assert row["difference_mean"] == pytest.approx((5 + 19 + 7) / 3 / 50)
    assert row["difference_lo"] < row["difference_mean"] < row["difference_hi"]
    assert (row["direction"], row["norm"], row["eps"]) == (direction, "linf", EPS)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_rscore_is_that_of_the_strongest_attack_on_the_oriented_scale(sign: float) -> None:
    gains = {"pgd": [10.0, 1.0, 5.0], "fgsm": [2.0, 20.0, 4.0]}
    row = only(group(gains, sign=sign))
    # Room of a quality q in [0,50]: max(50 - q, q).
    wanted = np.log10([40 / 10, 30 / 20, 30 / 5]).mean()
    assert row["rscore_mean"] == pytest.approx(wanted)


def test_baselines_and_attacks_made_elsewhere_are_not_adaptive() -> None:
    others = ("transfer[source=lip-iqa]", "uap", "facpa", "random-noise", "single-sign", "naive[attack=pgd]")
    weak = {"naive": [1.0, 1.0, 1.0], "pgd": [2.0, 3.0, 4.0]}
    row = only(group(weak | {name: [30.0, 30.0, 30.0] for name in others[:-1]}))
    assert row["adaptive_gain_mean"] == pytest.approx(3 / 50)
    assert row["naive_gain_mean"] == pytest.approx(1 / 50)
    assert (row["n_planned_naive"], row["n_planned_adaptive"]) == (3, 3)
    assert not any(is_adaptive(name) for name in others)
    assert all(is_adaptive(name) for name in ("auto-iqa", "pgd[steps=3]", "square", "torchattacks-pgd", "eot-pgd"))
    alone = only(group({"random-noise": [1.0, 2.0, 3.0]}))
    assert (alone["n_adaptive"], alone["n_planned_adaptive"]) == (0, 0)
    assert np.isnan(alone["adaptive_gain_mean"])


def test_a_weaker_attack_does_not_stand_in_for_one_that_failed() -> None:
    gains = {"naive": [1.0, 2.0, None, 6.0], "auto-iqa": [10.0, None, 30.0, 40.0], "fgsm": [5.0, 5.0, 5.0, 5.0]}
    row = only(group(gains, clean=(10.0, 20.0, 30.0, 40.0)))
    assert (row["n_naive"], row["n_adaptive"], row["n_common"]) == (3, 3, 2)
    assert (row["n_planned_naive"], row["n_planned_adaptive"]) == (4, 4)
    # Images 0 and 3 have everything: both means are over these.
    assert row["naive_gain_mean"] == pytest.approx((1 + 6) / 2 / 50)
    assert row["adaptive_gain_mean"] == pytest.approx((10 + 40) / 2 / 50)
    assert row["standard"] is False


def test_each_kind_alone_where_only_one_ran() -> None:
    row = only(group({"naive": [None, None, None], "auto-iqa": [10.0, 20.0, 30.0]}))
    assert (row["n_naive"], row["n_planned_naive"], row["n_common"]) == (0, 3, 0)
    assert row["adaptive_gain_mean"] == pytest.approx(20 / 50)
    assert np.isnan(row["naive_gain_mean"])
    assert np.isnan(row["difference_mean"])
    assert np.isnan(row["below_naive_share"])
    assert row["standard"] is True
    row = only(group({"naive": [1.0, 2.0, 3.0]}))
    assert row["naive_gain_mean"] == pytest.approx(2 / 50)
    assert (row["n_planned_adaptive"], row["standard"]) == (0, False)
    row = only(group({"auto-iqa": [None, None, None]}))
    assert (row["n_adaptive"], row["n_planned_adaptive"], row["standard"]) == (0, 3, False)
    assert np.isnan(row["adaptive_gain_mean"])
    assert np.isnan(row["rscore_mean"])


@pytest.mark.parametrize("direction", ["up", "down"])
def test_below_naive_is_where_the_naive_attack_went_further(direction: str) -> None:
    toward = 1.0 if direction == "up" else -1.0
    naive, pgd = [10.0, 5.0, 5.0, 5.0], [4.0, 30.0, 4.96, 20.0]  # .04 of 50 is less than .001 R
    gains = {"naive": [toward * v for v in naive], "pgd": [toward * v for v in pgd]}
    row = only(group(gains, clean=(10.0, 20.0, 30.0, 40.0), direction=direction))
    assert row["below_naive_share"] == 0.25
    assert row["below_naive_max"] == pytest.approx(6 / 50)


def test_the_gain_over_the_range_of_the_defended_scores() -> None:
    clean = np.linspace(20, 30, 101)
    gains = {"pgd": [5.0] * 101}
    row = only(group(gains, clean=clean.tolist()))
    assert row["range_ratio"] == pytest.approx(9.8 / 50)
    assert row["adaptive_gain_mean"] == pytest.approx(5 / 50)
    assert row["adaptive_gain_own_mean"] == pytest.approx(5 / 9.8)
    for unknown in (
        group({"pgd": [5.0] * 9}, clean=clean[:9].tolist()),
        group(gains, clean=clean.tolist(), source="declared range"),
    ):
        row = only(unknown)
        assert np.isnan(row["range_ratio"])
        assert np.isnan(row["adaptive_gain_own_mean"])
    constant = only(group({"pgd": [5.0] * 12}, clean=[7.0] * 12))
    assert constant["range_ratio"] == 0
    assert np.isnan(constant["adaptive_gain_own_mean"])


def test_a_row_a_threat() -> None:
    up, down = group({"pgd": [1.0, 2.0, 3.0]}), group({"pgd": [-5.0, -5.0, -5.0]}, direction="down")
    both = Group("m", "d", "s", up.ends, up.range_source, 1.0, up.clean, pd.concat([up.rows, down.rows]),
                 up.cells + down.cells)  # fmt: skip
    assert [(r["direction"], round(r["adaptive_gain_mean"] * 50, 6)) for r in threat_rows(both)] == [
        ("up", 2.0),
        ("down", 5.0),
    ]
    assert threat_rows(group({})) == []
