"""The soundness harness itself: silent on sound code, and it catches planted mistakes (mutation tests)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from robustiqa.attacks.base import Attack
from robustiqa.bench import seeds
from robustiqa.bench.checks import inside, soundness
from robustiqa.bench.checks.coverage import simulate_curve, simulate_decisions
from robustiqa.bench.checks.soundness import Report, check_soundness
from robustiqa.bench.checks.toys import TOYS
from robustiqa.bench.cli.main import cli
from robustiqa.bench.metrics.lip_iqa import LipIQA
from robustiqa.bench.registry import registry
from robustiqa.bench.spec import parse_spec
from robustiqa.defenses.certified import bins, cdf_mean, center, decide, l_estimator, mean, median, noise
from robustiqa.defenses.certified.smoothed import Bounds, Smoothed
from robustiqa.defenses.certified.stats import bands, order

MEDIAN = "median-smoothing[m=11,n=60]"


def _simulated(*names: str, defense: str = MEDIAN, trials: int = 6000) -> Report:
    return check_soundness([(defense, names)], [], (), (), trials, say=lambda _: None)


def test_sound_code_has_no_problems() -> None:
    report = _simulated("linear", "mixture", "step")
    assert report.problems == []
    rates = [c.rate / c.alpha for c in report.coverage if c.exact]
    assert 0.5 < max(rates) <= 1.1


def test_an_index_too_small_by_one_is_caught(monkeypatch) -> None:
    exact = order.upper_index
    monkeypatch.setattr(order, "upper_index", lambda n, level, error: np.maximum(exact(n, level, error) - 1, 1))
    problems = _simulated("linear").problems
    assert any("certificates failed" in p for p in problems)


def test_a_one_based_index_on_a_zero_based_array_is_caught(monkeypatch) -> None:
    """The published slip: anti-conservative on the lower side only."""
    exact = order.lower_index
    monkeypatch.setattr(median, "lower_index", lambda n, level, error: np.minimum(exact(n, level, error) + 1, n))
    assert any("certificates failed" in p for p in _simulated("linear", trials=20_000).problems)


def test_an_index_too_large_by_far_is_caught_as_absurdly_wide(monkeypatch) -> None:
    exact = order.upper_index
    monkeypatch.setattr(order, "upper_index", lambda n, level, error: np.minimum(exact(n, level, error) + 4, n))
    assert any("wider than they need be" in p for p in _simulated("linear").problems)


def test_lower_and_upper_swapped_is_caught(monkeypatch) -> None:
    exact = median.MedianSmoothing._indices
    monkeypatch.setattr(median.MedianSmoothing, "_indices", lambda *a: exact(*a)[::-1])
    assert _simulated("linear", trials=500).problems


def test_a_stream_shared_by_certification_and_evaluation_is_caught(monkeypatch) -> None:
    exact = seeds.generator
    same = {seeds.Role.EVALUATION.value: seeds.Role.CERTIFICATION.value}
    monkeypatch.setattr(seeds, "generator", lambda *parts: exact(*(same.get(str(p), p) for p in parts)))
    problems = _simulated("linear", trials=1500).problems
    assert any("certification and evaluation" in p for p in problems)


def test_a_stream_shared_by_all_images_is_caught(monkeypatch) -> None:
    exact = seeds.generator
    for module in (seeds, noise):
        monkeypatch.setattr(module, "generator", lambda seed, key, *rest: exact(seed, *rest))
    problems = _simulated("linear", trials=1500).problems
    assert any("between images" in p for p in problems)


def test_noise_shared_by_pairs_of_images_is_caught(monkeypatch) -> None:
    evaluation, certification = seeds.Streams.create, Smoothed.noise

    def paired(keys):
        return [keys[i // 2 * 2] for i in range(len(keys))]

    monkeypatch.setattr(seeds.Streams, "create", lambda keys, *rest: evaluation(paired(keys), *rest))
    monkeypatch.setattr(Smoothed, "noise", lambda self, x, keys, *rest: certification(self, x, paired(keys), *rest))
    problems = _simulated("linear", trials=1500).problems
    assert any("between images" in p for p in problems)


def test_bounds_that_are_no_numbers_or_that_say_nothing_are_caught(monkeypatch) -> None:
    def answers(low: float, high: float):
        def bounds(self, draws, ask) -> Bounds:
            shape = (len(draws.values), len(ask.eps))
            return Bounds(np.full(shape, low), np.full(shape, high), "dkw")

        return bounds

    for ends, word in (((np.nan, np.nan), "NaN"), ((2.0, 1.0), "lo > hi"), ((0.0, 100.0), "vacuous")):
        monkeypatch.setattr(cdf_mean.CdfMeanSmoothing, "bounds", answers(*ends))
        problems = _simulated("linear", defense="cdf-mean-smoothing[n=100,m=11]", trials=300).problems
        assert any(word in p for p in problems)


def test_curves_and_decisions_that_forget_something_are_caught(monkeypatch) -> None:
    toys = {toy.name: toy for toy in TOYS}
    curve = simulate_curve("median-smoothing[m=11,n=200]", toys["linear"], 4000, "bonferroni")
    decisions = simulate_decisions("median-smoothing[n=300]", toys["linear"], 3000)
    assert curve.p > 1e-3
    assert decisions.p > 1e-3
    assert decisions.failures > 0
    pointwise = simulate_curve("median-smoothing[m=11,n=200]", toys["linear"], 4000, "pointwise")
    assert pointwise.p < 1e-6  # a grid without a union bound
    exact = decide.log_wealth
    monkeypatch.setattr(decide, "log_wealth", lambda s, n, p0: exact(s, n, p0) + 3.0)
    assert simulate_decisions("median-smoothing[n=300]", toys["linear"], 1500).p < 1e-6


def test_an_attack_that_does_nothing_is_caught(monkeypatch) -> None:
    assert inside.weak_attacks() == []
    monkeypatch.setattr(Attack, "find", lambda self, objective, x, threat: x)
    assert len(inside.weak_attacks()) == 2


def test_one_broken_bound_without_probability_is_enough(monkeypatch) -> None:
    monkeypatch.setattr(LipIQA, "lipschitz", lambda self, height, width: 0.001)
    report = check_soundness([], [("lip-iqa", "lipschitz")], (), (), images=1, say=lambda _: None)
    assert any("attacks left 1 of 1" in p for p in report.problems)


def test_a_bound_that_cannot_be_judged_is_no_success() -> None:
    report = check_soundness([], [("linear", "median-smoothing[m=5,n=100]")], (), (), images=1, say=lambda _: None)
    assert any("could not be judged" in p for p in report.problems)


def test_a_radius_of_center_smoothing_that_is_too_small_is_caught(monkeypatch) -> None:
    """R in place of 2 R and the level not moved by eps: the kind of slip that a wide method hides."""
    monkeypatch.setattr(center, "shifted", lambda level, shift: np.full(np.shape(shift), level / 8))
    assert _simulated("linear", defense="center-smoothing[n=150,m=11]", trials=2000).problems


@pytest.mark.parametrize(("module", "name", "instead", "defense"), [
    (median, "deployed_level", lambda m, error: 0.5, MEDIAN),
    (center, "deployed_level", lambda m, error: 0.5, "center-smoothing[n=150,m=3]"),
    (mean, "mean_reaches", lambda p, m, error: p, "mean-smoothing[n=100,m=11]"),
    (cdf_mean, "dominating_mean", lambda o, b, s, top, m, e: bands.upper_sum(o, b, bands.uniform, s, top),
     "cdf-mean-smoothing[n=100,m=5]"),
    (l_estimator, "fresh_levels", lambda m, error, band: (np.arange(m) + 0.5) / m, "trimmed-mean-smoothing[n=200,m=5]"),
    (bins, "sure_majority", lambda m, error: m // 2 + 1, "score-bins[n=1000,n0=20,m=11]"),
])  # fmt: skip
def test_a_deployed_bound_that_forgets_the_fresh_draws_is_caught(monkeypatch, module, name, instead, defense) -> None:
    monkeypatch.setattr(module, name, instead)
    trials = 700 if module is bins else 1500  # many draws for each, and a mistake that is large
    problems = _simulated("linear", "threshold", defense=defense, trials=trials).problems
    assert any("deployed" in p for p in problems)


def test_a_bound_that_attacks_leave_is_caught(monkeypatch) -> None:
    """Bounds that forget eps: the attack inside the radius walks out of them."""
    monkeypatch.setattr(median, "shifted_levels", lambda eps, sigma, lower=0.5, upper=0.5: (
        np.full(len(eps), lower), np.full(len(eps), upper)))  # fmt: skip
    report = check_soundness([], [("linear", "median-smoothing[n=2000,m=201]")], (), (), images=2, say=lambda _: None)
    assert any("attacks left" in p for p in report.problems)


def test_attacks_inside_the_radius_stay_inside() -> None:
    found = inside.attack_inside("linear", "median-smoothing[n=2000,m=201]", images=2)
    assert [(a.kind, a.eps, a.violations) for a in found] == [
        ("population", 0.05, 0), ("deployed", 0.05, 0), ("population", 0.12, 0), ("deployed", 0.12, 0),
    ]  # fmt: skip
    assert all(0.05 < a.tightness <= 1 for a in found if a.kind == "population")


def test_every_certified_defence_is_attacked_and_every_statistic_simulated() -> None:
    certified = {
        name
        for name in registry.names("defense")
        if registry.get("defense", name).origin == "built-in"
        and getattr(registry.get("defense", name).factory, "certified_norm", None)
    }
    assert certified == {parse_spec(text).name for _, text in soundness.ATTACKED}
    simulated = {parse_spec(text).name for text, _ in soundness.SIMULATED}
    same_statistic = {"denoised-median-smoothing", "diffusion-denoised-median-smoothing", "dms-iqa",
                      "dms-iqa-tight", "denoised-score-bins"}  # fmt: skip
    assert certified - same_statistic - {"lipschitz", "interval-bounds"} == simulated


def test_the_command_reports_and_fails_on_a_problem(monkeypatch, tmp_path: Path) -> None:
    arguments = ["soundness", "--defense", "center-smoothing", "--trials", "200", "--images", "1"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "center-smoothing" in result.stdout
    assert "0 problems" in result.stdout
    monkeypatch.setattr(center, "shifted", lambda level, shift: np.full(np.shape(shift), level / 8))
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"]
    assert "PROBLEM" in result.stderr


TOO_SURE = """
from robustiqa.bench import register_defense
from robustiqa.defenses.certified.median import MedianSmoothing
from robustiqa.defenses.certified.smoothed import Bounds

@register_defense("too-sure")
class TooSure(MedianSmoothing):
    "A bound without width."

    def bounds(self, draws, ask):
        middle = self.statistic(draws.values)[:, None].repeat(len(ask.eps), 1)
        return Bounds(middle - 1e-3, middle + 1e-3, "pointwise")
"""


def test_an_own_certified_defence_is_attacked(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(TOO_SURE)
    arguments = [
        "soundness",
        "--plugin",
        str(plugin),
        "--defense",
        "too-sure[n=100,m=31]",
        "--images",
        "1",
        "--trials",
        "200",
    ]
    result = CliRunner().invoke(cli, [*arguments, "--metric", "linear"])
    assert result.exit_code == 1
    assert "PROBLEM: too-sure" in result.stderr
    assert "certificates failed" in result.stderr  # simulated too: it derives from Smoothed
    named = ["soundness", "--defense", "center-smoothing[n=99,m=21]", "--metric", "linear", "--trials", "200"]
    result = CliRunner().invoke(cli, [*named, "--images", "1"])
    assert "center-smoothing[n=99,m=21]" in result.stdout.replace("m=21,n=99", "n=99,m=21")  # as it was named
    result = CliRunner().invoke(cli, ["soundness", "--metric", "linear"])
    assert "name it with --defense" in result.stderr
    result = CliRunner().invoke(cli, ["soundness", "--defense", "jpeg"])
    assert result.exit_code == 1
    assert "no certificate" in result.stderr


@pytest.mark.slow
def test_whole_harness() -> None:
    """What `make soundness` runs."""
    assert check_soundness().problems == []
