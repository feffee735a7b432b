"""Every known fault raises its flag, and sound defences raise none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from robustiqa.bench import load_dataset, load_metric, run_suite
from robustiqa.bench.checks.ladder import climb
from robustiqa.bench.checks.probes import planted_pattern, probe
from robustiqa.bench.checks.reliability import RULES, Finding
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import UnknownName
from robustiqa.bench.registry import registry
from robustiqa.bench.suite import load_suite
from robustiqa.defenses import load_defense

BROKEN = Path(__file__).parent / "plugins" / "broken.py"


@pytest.fixture(scope="module", autouse=True)
def broken() -> None:
    registry.load_file(BROKEN)


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    data = load_dataset("photos[size=128,subset=quick]")
    return torch.stack([data.load(i)[:, 30:94, 30:94] for i in range(0, 10, 2)])


def raised(findings: list[Finding]) -> set[str]:
    return {f.name for f in findings if f.raised}


@pytest.mark.parametrize(
    ("defense", "flags"),
    [
        ("broken-killer", {"gradient-missing", "planted-missed", "not-monotone", "black-box-wins"}),
        ("broken-compass", {"gradient-mismatch", "planted-missed", "black-box-wins"}),
        ("broken-rounding", {"gradient-missing", "black-box-wins"}),
        ("broken-train-mode", {"batch-dependent"}),
        ("broken-fixed-noise[n=100,m=5,sigma=0.05]", {"fixed-noise"}),
        ("broken-saturating", {"saturated", "gradient-missing"}),
        ("broken-dice", {"irreproducible", "random-undeclared"}),
        ("broken-inner-loop", {"optimises-inside"}),
        ("broken-import", {"optimises-inside"}),
        ("broken-declared-blind", {"gradient-missing"}),
        ("broken-smooth-blind", {"planted-missed"}),
    ],
)
def test_every_fault_raises_its_flag(crops: torch.Tensor, defense: str, flags: set[str]) -> None:
    g = load_defense(defense, load_metric("tiny-iqa"))
    found = raised([*probe(g, crops), *climb(g, crops)])
    assert flags <= found, f"missing {flags - found}"


def test_a_known_draw_behind_a_fresh_surrogate_is_found(crops: torch.Tensor) -> None:
    g = load_defense("broken-memory[n=100,m=5,sigma=0.05]", load_metric("tiny-iqa"))
    assert "fixed-noise" in raised(probe(g, crops))


def test_a_gradient_that_is_not_finite_is_raised(crops: torch.Tensor) -> None:
    g = load_defense("broken-nan", load_metric("tiny-iqa"))
    assert "gradient-missing" in raised(probe(g, crops))
    assert "order-broken" in raised(climb(g, crops)), "an attack that fails is no attack"


@pytest.mark.parametrize("metric", ["linear", "linear-dmos", "tiny-iqa"])
def test_the_sense_of_the_score_does_not_matter(crops: torch.Tensor, metric: str) -> None:
    found = {f.name: f for f in probe(load_defense("none", load_metric(metric)), crops)}
    assert not found["planted-missed"].raised
    assert found["planted-missed"].value > 0.9
    assert raised(climb(load_defense("none", load_metric(metric)), crops)) == set()


def test_a_score_near_its_end_is_asked_for_the_room_that_is_left(crops: torch.Tensor) -> None:
    g = load_defense("none", load_metric("bounded"))
    assert g.estimate(crops).score.min() > 0.9
    assert "not-monotone" not in raised(climb(g, crops))


SLOW = ("dms-iqa[n=100,m=7]", "mean-smoothing[n=100,m=7]", "trimmed-mean-smoothing[n=100,m=7]",
        "l-estimator-smoothing[n=100,m=7]", "center-smoothing[n=100,m=7]")  # fmt: skip


@pytest.mark.parametrize(
    "defense",
    [
        "none",
        "gaussian-blur",
        "jpeg",
        "median-smoothing[sigma=0.05,n=100,m=7]",
        "cdf-mean-smoothing[n=100,m=7]",
        *(pytest.param(defense, marks=pytest.mark.slow) for defense in SLOW),
    ],
)
def test_sound_defences_raise_none(crops: torch.Tensor, defense: str) -> None:
    g = load_defense(defense, load_metric("tiny-iqa"))
    findings = [*probe(g, crops), *climb(g, crops)]
    assert raised(findings) == set()
    checked = {f.rule.number for f in findings if not f.skipped}
    assert checked >= {1, 2, 3, 4, 5, 6, 8, 9, 10, 12}


def test_what_has_no_gradient_is_skipped_with_a_reason(crops: torch.Tensor) -> None:
    g = load_defense("none", load_metric("no-gradient"))
    for finding in climb(g, crops):
        assert "gradient" in finding.skipped
        assert not finding.raised


def test_every_check_says_what_to_do() -> None:
    assert {rule.number for rule in RULES.values()} == set(range(1, 24))
    assert all(rule.raised_if and rule.meaning and rule.advice for rule in RULES.values())
    with pytest.raises(UnknownName, match="batch-dependent"):
        Finding("batch-dependant")


def test_the_planted_pattern_survives_compression() -> None:
    pattern = planted_pattern(96, 64)
    assert pattern.norm() == pytest.approx(1.0)
    blurred = torch.nn.functional.avg_pool2d(pattern[None], 5, stride=1, padding=2)[0]
    assert float((blurred * pattern).sum()) > 0.9


def test_check_prints_a_table_and_fails_on_a_flag() -> None:
    command = ["check", "--metric", "tiny-iqa", "--images", "2", "--no-ladder", "--plugin", str(BROKEN)]
    good = CliRunner().invoke(cli, [*command, "--defense", "none", "--json"])
    assert good.exit_code == 0, good.output
    rows = json.loads(good.stdout)
    assert {row["name"] for row in rows} >= {"batch-dependent", "gradient-missing"}
    assert not any(row["raised"] for row in rows)
    bad = CliRunner().invoke(cli, [*command, "--defense", "broken-rounding"])
    assert bad.exit_code == 1
    assert "gradient-missing" in bad.stdout
    assert "declare a surrogate gradient" in bad.output


def test_flags_stand_on_the_board(tmp_path: Path) -> None:
    """A run with checks: `checks.csv`, and the names of the raised ones in the summary."""
    registry.load_file(Path(__file__).parent / "plugins" / "tiny_bench.py")
    text = (
        "schema: 1\nname: small\nmetrics: [linear]\ndatasets: ['noise[count=6]']\nattacks: [{attack: pgd, l2: [0.5]}]\n"
        "defenses: [none, broken-rounding, broken-dice]\nheadline: {norm: l2, eps: 0.5}\n"
    )
    (tmp_path / "small.yml").write_text(text + "checks: {images: 3, ladder: false}\n")
    outcome = run_suite(load_suite(str(tmp_path / "small.yml")), tmp_path / "out", progress=False)
    assert outcome.ok
    board = pd.read_csv(tmp_path / "out" / "leaderboard" / "summary.csv").set_index("defense")
    flags = board["flags"].fillna("")
    assert "gradient-missing" in flags["broken-rounding"].split()
    assert {"irreproducible", "random-undeclared"} <= set(flags["broken-dice"].split())
    assert flags["none"] == "range-of-few"
    assert np.all(board["n_ok"] == board["n_planned"]), "checks are no images"
    table = pd.read_csv(tmp_path / "out" / "leaderboard" / "checks.csv")
    raised = table[table["raised"]]
    assert set(raised["defense"]) == {"broken-rounding", "broken-dice"}
    assert raised["advice"].notna().all()
    before = {f.name: f.read_bytes() for f in (tmp_path / "out" / "cells").iterdir()}
    (tmp_path / "plain.yml").write_text(text)
    run_suite(load_suite(str(tmp_path / "plain.yml")), tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "leaderboard" / "checks.csv").exists(), "this suite asks for none"
    assert {f.name: f.read_bytes() for f in (tmp_path / "out" / "cells").iterdir()} == before


def test_checks_that_fail_are_a_flag_not_a_pass(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text(
        "schema: 1\nname: bad\nmetrics: [bright-nan]\ndatasets: ['noise[count=3]']\ndefenses: [broken-white]\n"
        "checks: {images: 2}\n"
    )
    outcome = run_suite(load_suite(str(tmp_path / "bad.yml")), tmp_path / "out", progress=False)
    assert not outcome.ok
    flags = pd.read_csv(tmp_path / "out" / "leaderboard" / "summary.csv")["flags"].iloc[0]
    assert "unchecked" in flags.split()
    errors = pd.read_csv(tmp_path / "out" / "leaderboard" / "errors.csv")
    assert (errors["kind"] == "check").sum() == 1


def test_several_defences_are_summed_up() -> None:
    words = ["check", "--metric", "tiny-iqa", "--images", "2", "--no-ladder", "--plugin", str(BROKEN)]
    result = CliRunner().invoke(cli, [*words, "--defense", "flip", "--defense", "lipschitz"])
    assert result.exit_code == 0, result.output
    assert "| flip" in result.output
    assert "left out: lipschitz" in result.output
    result = CliRunner().invoke(cli, [*words, "--defense", "flip", "--defense", "broken-dice"])
    assert result.exit_code == 1
    row = next(line for line in result.output.splitlines() if "broken-dice" in line)
    assert "irreproducible (" in row
    assert "random-undeclared (" in row
    result = CliRunner().invoke(cli, [*words, "--defense", "flip", "--defense", "broken-dice", "--json"])
    assert set(json.loads(result.output)) == {"flip", "broken-dice"}


@pytest.mark.slow
def test_all_registered_defences_are_gone_through() -> None:
    result = CliRunner().invoke(cli, ["check", "--defense", "all", "--no-ladder", "--images", "2"])
    named = {line.split("|")[1].strip() for line in result.output.splitlines() if line.startswith("| ")} - {"defence"}
    left = {line.split(": ")[1] for line in result.output.splitlines() if line.startswith("left out")}
    builtin = {n for n in registry.names("defense") if registry.get("defense", n).origin == "built-in"}
    assert named | left >= builtin, "other tests register faulty ones of their own"
