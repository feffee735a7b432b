"""The cost of a plan before it runs, against what the run then counted; and what stands in its way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from robustiqa.attacks import load_attack
from robustiqa.bench import L2, Linf, load_metric, run_suite
from robustiqa.bench.cli.main import cli
from robustiqa.bench.datasets import load_dataset
from robustiqa.bench.estimate import Cost, Estimate, _sample, estimate
from robustiqa.bench.plan import Plan, make_plan
from robustiqa.bench.registry import registry
from robustiqa.bench.standin import Passes, StandIn
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite
from robustiqa.defenses import load_defense

SUITE = {
    "name": "costs",
    "metrics": ["bounded"],
    "datasets": ["noise[count=6]"],
    "defenses": ["none", "gaussian-blur", "median-smoothing[n=300,m=15]", "mean-smoothing[n=500,m=15]"],
    "certify": {"eps": [0.05, 0.1], "alpha": 0.01},
    "attacks": [
        {"attack": "pgd[steps=3]", "linf": ["2/255", "4/255"], "directions": ["up", "down"], "only": "deterministic"},
        {"attack": "eot-pgd[steps=2,draws=3]", "l2": [0.05], "only": "randomised"},
        {"attack": "square[queries=7]", "linf": ["4/255"]},
    ],
    "chunk": 4,
}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def run(linear_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    out = tmp_path_factory.mktemp("costs") / "out"
    suite = Suite.model_validate(SUITE)
    assert run_suite(suite, out, progress=False).ok
    return make_plan(suite), Store(out)


@pytest.fixture(scope="module")
def found(run: tuple[Plan, Store]) -> Estimate:
    return estimate(run[0].cells)


@pytest.mark.parametrize("defense", ["none", "jpeg", "median-smoothing[m=7]", "random-crop[m=3]"])
@pytest.mark.parametrize("attack", [
    "random-noise", "fgsm", "pgd[steps=3]", "apgd[steps=6]", "eot-pgd[steps=3,draws=2]", "mi-fgsm[steps=3]",
    "square[queries=9]", "transfer[steps=2]", "naive[attack=pgd[steps=2]]", "torchattacks-pgd[steps=2]",
    "surrogate-pgd[steps=2]",
])  # fmt: skip
def test_an_attack_asks_the_stand_in_as_often_as_the_real_thing(
    linear_plugin: Path, images: torch.Tensor, attack: str, defense: str
) -> None:
    """Beyond the attack's own passes only the two evaluations of its result, as it is and saved with 8 bits."""
    g, threat = load_defense(defense, load_metric("bounded")), Linf(4 / 255)
    passes = Passes()
    standin = StandIn(g, passes)
    attacker = load_attack(attack)
    assert attacker.skip(standin, threat) == attacker.skip(g, threat)
    clean = standin.estimate(images)
    passes.forwards = 0
    attacker(standin, images, threat, clean=clean)
    real = attacker(g, images, threat)
    assert passes.forwards == real.forwards.sum() + 2 * g.cost * len(images)
    assert passes.backwards == real.backwards.sum()


@pytest.mark.parametrize(("attack", "bare"), [("transfer[steps=2]", True), ("pgd[steps=2]", False)])
def test_passes_around_the_defence_are_told_from_those_through_it(
    linear_plugin: Path, images: torch.Tensor, attack: str, bare: bool
) -> None:
    g, passes = load_defense("jpeg", load_metric("bounded")), Passes()
    load_attack(attack)(StandIn(g, passes), images, Linf(4 / 255))
    assert passes.backwards == 2 * len(images)
    assert passes.bare_backwards == (passes.backwards if bare else 0)
    assert passes.bare_forwards == (2 * len(images) if bare else 0)


def test_an_ensembles_gradients_are_all_asked(linear_plugin: Path, images: torch.Tensor) -> None:
    g = load_defense("ensemble[others=linear;ranged,calibration=photos[subset=quick]]", load_metric("bounded"))
    passes = Passes()
    load_attack("surrogate-pgd[steps=2]")(StandIn(g, passes), images, L2(0.1))
    real = load_attack("surrogate-pgd[steps=2]")(g, images, L2(0.1))
    assert passes.backwards == real.backwards.sum() > 0


def test_the_passes_are_those_that_the_run_counted(run: tuple[Plan, Store], found: Estimate) -> None:
    """Attacks with their evaluations; scores; certificates by their draws, which the two smoothings share."""
    plan, store = run
    assert found.unknown == ()
    assert set(found.cells) == {cell.id for cell in plan.cells}
    rows = store.read_rows([cell.id for cell in plan.cells])
    cost = {d: load_defense(d, load_metric("bounded")).cost for d in rows["defense"].unique()}
    attacks = rows[rows["kind"] == "attack"]
    expected = attacks["forwards"].sum() + 2 * attacks["defense"].map(cost).sum()
    expected += rows[rows["kind"] == "score"]["defense"].map(cost).sum()
    expected += 6 * 500  # the second one goes on from 300
    assert found.total.forwards == pytest.approx(expected)
    assert found.total.backwards == pytest.approx(attacks["backwards"].sum())


def test_bytes_are_about_those_of_the_files(run: tuple[Plan, Store], found: Estimate) -> None:
    plan, store = run
    for kind in ("score", "certify", "attack"):
        ids = [cell.id for cell in plan.cells if cell.kind == kind]
        actual = sum(store.path(i).stat().st_size for i in ids)
        assert sum(found.cells[i].bytes for i in ids) == pytest.approx(actual, rel=0.35)
    actual = sum(path.stat().st_size for path in (store.root / "pools").iterdir())
    assert found.total.pool_bytes == pytest.approx(actual, rel=0.1)


def test_more_workers_are_no_faster_than_the_longest_cell() -> None:
    found = Estimate({"a": Cost(6.0), "b": Cost(2.0), "c": Cost(4.0)}, ())
    assert [found.seconds(n) for n in (1, 2, 3, 100)] == [12.0, 6.0, 6.0, 6.0]
    assert Estimate({}, ()).seconds(1) == 0.0


def test_times_are_for_the_mean_size_of_the_images(linear_plugin: Path) -> None:
    images, _, pixels = _sample(load_dataset("noise[count=4,large=1,broken=2]"))
    assert [tuple(image.shape) for image in images] == [(3, 32, 32), (3, 40, 40), (3, 32, 32)]
    assert pixels == (2 * 32**2 + 40**2) / 3


def test_what_cannot_be_estimated_is_named(linear_plugin: Path) -> None:
    """A metric that gives two scores an image, and one that works."""
    cells = make_plan(Suite.model_validate(SUITE | {"metrics": ["two-outputs", "linear"], "defenses": ["none"]})).cells
    found = estimate(cells)
    ((what, why),) = found.unknown
    assert what == "none on two-outputs, noise[count=6]"
    assert "one score each" in why
    assert set(found.cells) == {cell.id for cell in cells if cell.metric == "linear"}


def test_the_command_shows_what_is_done_failed_and_left(run: tuple[Plan, Store], tmp_path: Path) -> None:
    plan, store = run
    suite = tmp_path / "suite.yml"
    suite.write_text(json.dumps(SUITE | {"schema": 1}))
    everything = json.loads(call("plan", "--suite", suite, "--json").stdout)
    assert (everything["cells"], everything["done"], everything["problems"]) == (len(plan.cells), 0, [])
    assert sum(line["cells"] for line in everything["grid"]) == len(plan.cells)
    lost, broken = (next(c for c in plan.cells if c.kind == kind) for kind in ("certify", "attack"))
    for cell in (lost, broken):
        store.forget(cell.id)
    store.write_error(broken.id, {"error": "planted"})
    left = call("plan", "--suite", suite, "--out", store.root)
    assert f"{len(plan.cells)} cells, {len(plan.cells) - 2} done, 1 failed, 2 left" in left.stdout
    result = call("plan", "--suite", suite, "--out", store.root, "--estimate", "--workers", "3", "--json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    costs = {(line["defense"], line["what"]): line["cost"] for line in data["grid"] if line["cost"]["seconds"]}
    assert set(costs) == {(lost.defense, "certify"), (broken.defense, broken.attack)}
    total = sum(cost["seconds"] for cost in costs.values())
    assert 0 < data["estimate"]["hours"]["3"] * 3600 <= total
    assert data["estimate"]["seconds"] == pytest.approx(total)
    shown = call("plan", "--suite", suite, "--out", store.root, "--estimate")
    assert "as busy as it was during the probe, about: " in shown.stdout
    assert "(1 worker), " in shown.stdout
    assert "of results, and " in shown.stdout


def test_missing_unreadable_and_small_images_are_told_before_the_run(linear_plugin: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, side in (("a", 80), ("small", 40)):
        Image.fromarray(np.full((side, side, 3), 128, dtype=np.uint8)).save(folder / f"{name}.png")
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "scores.csv").write_text("image,mos\na.png,1\nsmall.png,2\nbad.png,3\ngone.png,4\n")
    data = f"folder[root={folder},table=scores.csv]"
    suite = tmp_path / "suite.yml"
    suite.write_text(
        json.dumps({"schema": 1, "name": "s", "metrics": ["tiny-iqa"], "defenses": ["none"], "datasets": [data]})
    )
    result = call("plan", "--suite", suite)
    assert result.exit_code == 1
    assert f"will fail: 2 of 4 images of {data}: " in result.stdout
    assert f"will fail: 1 of 4 images of {data} for tiny-iqa: " in result.stdout
    problems = json.loads(call("plan", "--suite", suite, "--json").stdout)["problems"]
    assert [line in result.stdout for line in problems] == [True, True]
    assert call("plan", "--suite", "quick").exit_code == 0
