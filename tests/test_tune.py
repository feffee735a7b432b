"""Tuning: gains of known strengths, fronts and choices by hand, and evaluations that may not see what it has seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.cli.main import cli
from robustiqa.bench.datasets.photos import Photos
from robustiqa.bench.errors import BadData, BadParameter, BadSuite, UnknownName
from robustiqa.bench.registry import registry
from robustiqa.bench.suite import Suite
from robustiqa.bench.tune import family_of, grid, read_tuned, tuned_suite
from robustiqa.leaderboard.pareto import choice, on_front

PLUGINS = [Path(__file__).parent / "plugins" / name for name in ("linear.py", "tiny_bench.py", "strengths.py")]
NAMED = [word for path in PLUGINS for word in ("--plugin", str(path))]


@pytest.fixture(scope="module", autouse=True)
def plugins(linear_plugin: Path) -> None:
    for path in PLUGINS[1:]:
        registry.load_file(path)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, plugins: None) -> Path:
    out = tmp_path_factory.mktemp("tune") / "out"
    result = CliRunner().invoke(cli, [
        "tune", "--metric", "linear", "--dataset", "noise[count=10]", "--accuracy", "noise[count=12]",
        "--attack", "pgd[steps=3]", "--eps", "4/255", "--defense", "faded", "--defense", "fragile", "--out", str(out),
        *NAMED,
    ])  # fmt: skip
    # A point that fails is not chosen, and the run goes on without it.
    assert result.exit_code == 0, result.output
    assert "not chosen" in result.output
    return out


def test_gains_are_those_of_the_strength(tuned: Path) -> None:
    table = pd.read_csv(tuned / "tuning.csv").set_index("defense")
    data, metric = load_dataset("noise[count=10]"), load_metric("linear")
    scores = np.array([float(metric(data.load(i)[None])) for i in range(10)])
    w = metric.module.weights(data.load(0)[None]).double()  # type: ignore[operator]
    optimum = 4 / 255 * float(w.abs().sum()) / float(np.subtract(*np.percentile(scores, [99, 1])))
    for share in (1.0, 0.5, 0.25):
        assert table.loc[f"faded[share={share}]", "gain_mean"] == pytest.approx(share * optimum, rel=1e-3)
        assert table.loc[f"faded[share={share}]", "srocc"] == pytest.approx(table.loc["none", "srocc"])
    assert (table["n_accuracy"].drop("fragile[share=0.25]") == 12).all()
    assert (table["n_attacked"].drop("fragile[share=0.25]") == 10).all()
    assert table.loc["none", "threat"] == "linf 4/255"


def test_the_strongest_complete_point_is_chosen_where_accuracy_stays(tuned: Path) -> None:
    table = pd.read_csv(tuned / "tuning.csv").set_index("defense")
    assert table.index[table["chosen"]].tolist() == ["none", "faded[share=0.25]", "fragile[share=0.5]"]
    assert not table.loc["fragile[share=0.25]", "complete"]
    found = json.loads((tuned / "tuned.json").read_text())
    assert found["chosen"] == {"faded": "faded[share=0.25]", "fragile": "fragile[share=0.5]"}
    assert found["development"]["noise[count=10]"] == [f"photo-{i}" for i in range(5)]
    assert (tuned / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_call_computes_nothing(tuned: Path) -> None:
    before = (tuned / "tuning.csv").read_bytes()
    result = CliRunner().invoke(cli, [
        "tune", "--metric", "linear", "--dataset", "noise[count=10]", "--accuracy", "noise[count=12]", "--attack",
        "pgd[steps=3]", "--defense", "faded", "--defense", "fragile", "--out", str(tuned), *NAMED,
    ])  # fmt: skip
    assert "resuming" in result.output
    assert (tuned / "tuning.csv").read_bytes() == before


def test_the_board_uses_the_tuned_points(tuned: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yml"
    suite.write_text("schema: 1\nname: s\nmetrics: [linear]\ndatasets: ['photos[subset=references]']\n"
                     "defenses: [none, faded, 'fragile[share=1.0]']\n"
                     "attacks: [{attack: 'pgd[steps=2]', linf: [4/255]}]\n")  # fmt: skip
    out = tmp_path / "run"
    result = CliRunner().invoke(
        cli, ["run", "--suite", str(suite), "--tuned", str(tuned), "--out", str(out), *NAMED]
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    board = pd.read_csv(out / "leaderboard" / "summary.csv")
    assert set(board["defense"]) == {"none", "faded[share=0.25]", "fragile[share=1.0]"}, "what was named stays"


def suite_on(*datasets: str, metric: str = "linear", defenses: tuple[str, ...] = ("none", "faded")) -> Suite:
    return Suite(schema=1, name="s", metrics=(metric,), datasets=datasets, defenses=defenses)


def test_images_of_the_tuning_are_refused(tuned: Path) -> None:
    found = read_tuned(tuned)
    with pytest.raises(BadSuite, match="6 photographs on which"):
        tuned_suite(suite_on("noise"), found)
    with pytest.raises(BadSuite, match="metric 'linear'"):
        tuned_suite(suite_on("photos", metric="linear[scale=2.0]"), found)
    with pytest.raises(BadSuite, match="none of the suite's defences was tuned"):
        tuned_suite(suite_on("photos", defenses=("none", "jpeg")), found)
    assert tuned_suite(suite_on("photos"), found).defenses == ("none", "faded[share=0.25]")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema_version": 2}'])
def test_a_damaged_tuning_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "tuned.json").write_text(content)
    with pytest.raises(BadData, match="robustiqa tune"):
        read_tuned(tmp_path)
    with pytest.raises(BadData, match="robustiqa tune"):
        read_tuned(tmp_path / "nothing.json")


def test_grid_and_families() -> None:
    assert grid(["faded", "faded[share=0.3]", "jpeg[surrogate=identity]"]) == {
        **{f"faded[share={s}]": "faded" for s in (1.0, 0.5, 0.25, 0.3)},
        **{f"jpeg[quality={q},surrogate=identity]": "jpeg[surrogate=identity]" for q in (90, 70, 50, 30, 10)},
    }
    assert grid(["none"]) == {"none": "none"}
    assert family_of("faded[share=0.1,twice=true]") == "faded[twice=true]"
    with pytest.raises(UnknownName, match="faded"):
        grid(["fadde"])


def points(*rows: tuple[float, float, bool]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["srocc", "gain_mean", "complete"])


def test_the_front_against_every_pair() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        values = rng.integers(0, 5, (8, 2)) / 4.0  # ties are common
        table = points(*((a, g, bool(rng.random() < 0.8)) for a, g in values))
        wanted = []
        for i, (a, g, usable) in enumerate(table.itertuples(index=False)):
            beaten = any(
                ok and j != i and other_a >= a and other_g <= g and (other_a > a or other_g < g)
                for j, (other_a, other_g, ok) in enumerate(table.itertuples(index=False))
            )
            wanted.append(usable and not beaten)
        assert on_front(table).tolist() == wanted


def test_choices_by_hand() -> None:
    table = points((0.9, 1.0, True), (0.8, 0.5, True), (0.7, 0.2, True), (0.8, 0.1, False))
    assert choice(table, 0.75) == 1
    assert choice(table, 0.6) == 2
    assert choice(table, 0.95) == 0, "none is accurate enough: the most accurate"
    assert choice(points((0.8, 0.5, True), (0.9, 0.5, True)), 0.1) == 0, "ties go to the weaker"
    assert choice(points((0.8, 0.5, False)), 0.1) is None


def test_photographs_of_the_two_splits_are_others() -> None:
    parts = [{item.reference for item in Photos(split=split).items} for split in ("dev", "test")]
    assert [len(p) for p in parts] == [2, 3]
    assert set.union(*parts) == {item.reference for item in Photos().items}
    with pytest.raises(BadParameter, match="dev"):
        Photos(split="train")
