"""PLCC and RMSE after the logistic fits: known curves, other optimisers, pyiqa's own figures, and what has no fit."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from robustiqa.bench.logistic import fit_logistic
from robustiqa.bench.measures import krocc, plcc, plcc_logistic, srocc
from scipy.optimize import differential_evolution, least_squares

Curve = Callable[..., np.ndarray]
Parameters = Literal[4, 5]


def curve4(x: np.ndarray, b1: float, b2: float, b3: float, b4: float) -> np.ndarray:
    return b2 + (b1 - b2) / (1 + np.exp(np.clip(-(x - b3) / b4, -500, 500)))


def curve5(x: np.ndarray, b1: float, b2: float, b3: float, b4: float, b5: float) -> np.ndarray:
    return b1 * (0.5 - 1 / (1 + np.exp(np.clip(b2 * (x - b3), -500, 500)))) + b4 * x + b5


CURVES: dict[Parameters, Curve] = {4: curve4, 5: curve5}
KNOWN: dict[Parameters, tuple[float, ...]] = {4: (80.0, 12.0, 5.5, 0.7), 5: (40.0, 1.5, 4.0, 2.5, 30.0)}
"""Parameters of a rising curve of each kind, for scores of about 5."""


def data(seed: int, n: int = 150, noise: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of about 5 +- 1.5, and a truth that rises with them along a logistic, with noise."""
    rng = np.random.default_rng(seed)
    score = rng.normal(5, 1.5, n)
    return score, curve4(score, 85, 15, 4.5, 0.9) + rng.normal(0, noise, n)


def one_outlier(score: np.ndarray, truth: np.ndarray, value: float) -> tuple[np.ndarray, np.ndarray]:
    return np.append(score, value), np.append(truth, truth.max())


@pytest.mark.parametrize("parameters", [4, 5])
@pytest.mark.parametrize("falls", [False, True])
def test_known_curve_is_found_again(parameters: Parameters, falls: bool) -> None:
    score = np.random.default_rng(0).normal(5, 1.5, 200)
    truth = CURVES[parameters](score, *KNOWN[parameters])
    fit = fit_logistic(-score if falls else score, truth, parameters)
    assert fit.plcc == pytest.approx(1, abs=1e-9)
    assert fit.rmse < 1e-3
    assert fit.reason == ""
    assert plcc(score, truth) < 0.99
    if not falls:
        assert fit.parameters == pytest.approx(KNOWN[parameters], rel=1e-3)
    drawn = CURVES[parameters](-score if falls else score, *fit.parameters)
    assert drawn == pytest.approx(truth, abs=1e-2)


@pytest.mark.parametrize("parameters", [4, 5])
def test_figures_are_those_of_the_curve_that_is_returned(parameters: Parameters) -> None:
    score, truth = data(1)
    fit = fit_logistic(score, truth, parameters)
    drawn = CURVES[parameters](score, *fit.parameters)
    assert fit.plcc == pytest.approx(np.corrcoef(drawn, truth)[0, 1], abs=1e-7)
    assert fit.rmse == pytest.approx(np.sqrt(np.mean((drawn - truth) ** 2)), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_four_parameters_are_the_global_optimum(seed: int) -> None:
    """Differential evolution over all four parameters at once, and scipy's least squares from what it found."""
    score, truth = data(seed, n=60)
    low, high, spread = truth.min(), truth.max(), np.ptp(truth)
    bounds = [(low - spread, high + spread), (low - spread, high + spread), (0, 10), (0.1, 10)]
    found = differential_evolution(lambda b: np.square(curve4(score, *b) - truth).sum(), bounds, rng=seed, tol=1e-8)
    peer = least_squares(lambda b: curve4(score, *b) - truth, found.x, xtol=1e-12, ftol=1e-12)
    fit = fit_logistic(score, truth)
    assert fit.rmse == pytest.approx(np.sqrt(2 * peer.cost / 60), rel=1e-6)
    assert fit.plcc == pytest.approx(np.corrcoef(curve4(score, *peer.x), truth)[0, 1], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_five_parameters_are_a_minimum_that_peers_do_not_leave(seed: int) -> None:
    """From our curve scipy's least squares goes nowhere; from the customary start it finds none that is better."""
    score, truth = data(seed)
    fit = fit_logistic(score, truth, 5)
    start = (np.ptp(truth), 1 / score.std(), score.mean(), 0.1, truth.mean())
    stay, walk = (
        least_squares(lambda b: curve5(score, *b) - truth, at, xtol=1e-12, ftol=1e-12, x_scale="jac", max_nfev=20000)
        for at in (fit.parameters, start)
    )
    assert np.sqrt(2 * stay.cost / len(truth)) == pytest.approx(fit.rmse, rel=1e-6)
    assert np.sqrt(2 * walk.cost / len(truth)) >= fit.rmse * (1 - 1e-6)
    assert fit.plcc >= fit_logistic(score, truth).plcc - 1e-6


@pytest.mark.parametrize("seed", [2, 10, 40])
def test_five_parameters_are_the_best_minimum_of_several(seed: int) -> None:
    """Few and noisy images: a dense grid of curves, and scipy's least squares from its best place that is no jump."""
    score, truth = data(seed, n=40, noise=25)
    widths = np.geomspace(0.06, 8, 24) * np.ptp(np.quantile(score, [0.1, 0.9])) / 2.5631

    def cost(centre: float, width: float) -> tuple[float, np.ndarray]:
        columns = np.stack([1 / (1 + np.exp(-(score - centre) / width)), score, np.ones(40)], axis=1)
        solved, (left,), *_ = np.linalg.lstsq(columns, truth, rcond=None)
        return left, np.array([solved[0], 1 / width, centre, solved[1], solved[2] + solved[0] / 2])

    _, start = min((cost(c, w) for c in np.linspace(score.min(), score.max(), 60) for w in widths), key=lambda f: f[0])
    bounds = ([-np.inf, 0, -np.inf, -np.inf, -np.inf], [np.inf, 1 / widths[0], np.inf, np.inf, np.inf])
    peer = least_squares(lambda b: curve5(score, *b) - truth, start, bounds=bounds, x_scale=np.abs(start))
    assert not peer.active_mask.any()
    fit = fit_logistic(score, truth, 5)
    assert fit.plcc >= np.corrcoef(curve5(score, *peer.x), truth)[0, 1] - 1e-5


@pytest.mark.parametrize("parameters", [4, 5])
@pytest.mark.parametrize("scale", [1e6, 1e-6, -3.0, 1.0])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_scale_and_origin_of_either_axis_do_not_matter(parameters: Parameters, scale: float, shift: float) -> None:
    score, truth = data(2)
    plain, moved = fit_logistic(score, truth, parameters), fit_logistic(scale * (score + shift), truth, parameters)
    assert moved.plcc == pytest.approx(plain.plcc, abs=1e-6)
    assert moved.rmse == pytest.approx(plain.rmse, rel=1e-5)
    moved = fit_logistic(score, scale * (truth + shift), parameters)
    assert moved.plcc == pytest.approx(plain.plcc, abs=1e-6)
    assert moved.rmse == pytest.approx(abs(scale) * plain.rmse, rel=1e-5)


def test_ranks_ignore_monotone_maps() -> None:
    score, truth = data(3)
    for bent in (np.exp(score), score**3, -1 / (score + 100)):
        assert srocc(bent, truth) == pytest.approx(srocc(score, truth))
        assert krocc(bent, truth) == pytest.approx(krocc(score, truth))
        assert srocc(-bent, truth) == pytest.approx(-srocc(score, truth))


@pytest.mark.parametrize("parameters", [4, 5])
@pytest.mark.parametrize("bend", [lambda x: 3 * x - 7, lambda x: np.exp(0.3 * x), lambda x: -np.exp(-0.3 * x)],
                         ids=["line", "exponential", "saturating"])  # fmt: skip
def test_limits_of_the_curve_are_fits(parameters: Parameters, bend: Callable[[np.ndarray], np.ndarray]) -> None:
    """No finite parameters are best there, and the fit comes as near as one likes."""
    score = np.random.default_rng(4).normal(5, 1.5, 100)
    assert fit_logistic(score, bend(score), parameters).plcc == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("parameters", [4, 5])
@pytest.mark.parametrize("seed", range(20))
def test_never_worse_than_a_straight_line(parameters: Parameters, seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=40)
    truth = score**3 * rng.choice([-1, 0, 1]) + rng.normal(0, 1, 40)
    fit = fit_logistic(score, truth, parameters)
    assert fit.reason or fit.plcc >= abs(plcc(score, truth)) - 1e-6
    assert np.isnan(fit.plcc) == np.isnan(fit.rmse) == bool(fit.reason) == (not fit.parameters)


@pytest.mark.parametrize("value", [1e3, 1e6, -1e9])
def test_one_wild_score_does_not_hide_the_others(value: float) -> None:
    """The raw correlation is gone, the curve saturates at the outlier."""
    score, truth = data(5)
    wild = one_outlier(score, truth, value)
    assert abs(plcc(*wild)) < 0.3
    # All the curve can lose to the outlier is that image itself.
    assert fit_logistic(*wild).plcc > fit_logistic(score, truth).plcc - 0.05


def test_two_clusters_are_no_jump_between_neighbours() -> None:
    rng = np.random.default_rng(6)
    score = np.concatenate([rng.normal(0, 0.05, 30), rng.normal(1, 0.05, 30)])
    truth = np.repeat([20.0, 70.0], 30)
    assert fit_logistic(score, truth).plcc == pytest.approx(1, abs=1e-6)


def test_ties_are_fitted() -> None:
    score, truth = data(7)
    fit = fit_logistic(np.round(score), truth)
    assert 0 <= fit_logistic(score, truth).plcc - fit.plcc < 0.1
    mostly = np.where(np.arange(150) % 6 < 5, 5.0, score)
    assert fit_logistic(mostly, truth).plcc >= abs(plcc(mostly, truth)) - 1e-6


def without(values: np.ndarray, bad: float) -> np.ndarray:
    return np.append(values[:-1], bad)


S, T = data(8, n=12)


@pytest.mark.parametrize(
    ("score", "truth", "parameters", "word"),
    [
        (S, without(T, np.nan), 4, "the ground truth of some images"),
        (without(S, np.nan), T, 4, "some scores are not finite"),
        (without(S, np.inf), T, 5, "some scores are not finite"),
        (S, np.full(12, np.nan), 4, "no ground truth"),
        (S[:0], T[:0], 4, "no ground truth"),
        (S[:7], T[:7], 4, "7 images: 4 parameters need at least 8"),
        (S[:9], T[:9], 5, "9 images: 5 parameters need at least 10"),
        (np.ones(12), T, 4, "1 different score:"),
        (np.arange(12.0) % 4, T, 4, "4 different scores"),
        (np.arange(12.0) % 5, T, 5, "5 different scores"),
        (S, np.ones(12), 4, "the ground truth is constant"),
    ],
)
def test_what_has_no_fit_says_why(score: np.ndarray, truth: np.ndarray, parameters: Parameters, word: str) -> None:
    fit = fit_logistic(score, truth, parameters)
    assert np.isnan([fit.plcc, fit.rmse]).all()
    assert np.isnan(plcc_logistic(score, truth, parameters))
    assert word in fit.reason


def test_a_jump_in_a_gap_is_no_fit() -> None:
    """Truth that does not depend on the score but for a step between two neighbours: infinitely steep is best."""
    score = np.linspace(0, 1, 200)
    truth = np.where(score > 0.5, 60.0, 40.0) + np.random.default_rng(9).normal(0, 1, 200)
    fit = fit_logistic(score, truth)
    assert "jump" in fit.reason
    assert np.isnan(fit.plcc)


def test_a_fit_that_cannot_take_enough_steps_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustiqa.bench.logistic._CALLS", 2)
    assert "does not converge" in fit_logistic(*data(10)).reason


def test_what_is_worse_than_a_straight_line_is_no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches that stop where they start, and are believed: curves through points on a line."""
    monkeypatch.setattr("robustiqa.bench.logistic._CALLS", 1)
    monkeypatch.setattr("robustiqa.bench.logistic.FLAT", np.inf)
    score = np.random.default_rng(0).normal(size=50)
    assert "a straight line is better" in fit_logistic(score, 2 * score + 1).reason


@pytest.mark.parametrize("seed", range(30))
def test_five_parameters_are_never_worse_than_four(seed: int) -> None:
    """Few and noisy images, where the searches end in different places."""
    score, truth = data(seed, n=40, noise=25)
    four, five = fit_logistic(score, truth), fit_logistic(score, truth, 5)
    assert four.reason or five.reason or five.plcc >= four.plcc - 1e-5


def test_results_are_the_same_in_any_order_of_the_images() -> None:
    score, truth = data(11)
    order = np.random.default_rng(0).permutation(len(score))
    assert fit_logistic(score[order], truth[order]).plcc == pytest.approx(fit_logistic(score, truth).plcc, abs=1e-9)


def pyiqas() -> Any:
    """pyiqa's correlations, or a skip with the reason."""
    try:
        return importlib.import_module("pyiqa.metrics.correlation_coefficient")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not go with this torch
        pytest.skip(f"pyiqa cannot be imported: {error}")


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_pyiqas(seed: int) -> None:
    """pyiqa 0.1.16: scipy's curve_fit from one start, for five parameters at the mean of the truth.

    That start finds nothing where scores and truth have different scales, and elsewhere a local minimum for some data:
    there ours is better.
    """
    peer = pyiqas()
    score, truth = data(seed)
    assert srocc(score, truth) == pytest.approx(peer.calculate_srcc(score, truth))
    assert krocc(score, truth) == pytest.approx(peer.calculate_krcc(score, truth))
    assert plcc(score, truth) == pytest.approx(peer.calculate_plcc(score, truth))
    four = fit_logistic(score, truth)
    assert four.plcc == pytest.approx(peer.calculate_plcc(score, truth, fit_scale="logistic_4params"), abs=1e-6)
    assert four.rmse == pytest.approx(peer.calculate_rmse(score, truth, fit_scale="logistic_4params"), rel=1e-5)
    scaled = truth.mean() + truth.std() * (score - score.mean()) / score.std()
    theirs = peer.calculate_plcc(scaled, truth, fit_scale="logistic_5params")
    five = fit_logistic(scaled, truth, 5)
    assert five.plcc == pytest.approx(theirs, abs=1e-6) if seed in (0, 1, 3) else five.plcc > theirs
