"""Tuning: gains of known strengths, fronts and choices by hand, and evaluations that may not see what it has seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.cli.main import cli
from robustiqa.bench.cli.tune import warn_of_few
from robustiqa.bench.datasets.photos import Photos
from robustiqa.bench.errors import Absent, BadData, BadParameter, BadSuite, UnknownName
from robustiqa.bench.registry import code_digest, registry
from robustiqa.bench.suite import Pair, Suite
from robustiqa.bench.tune import family_of, grid, tuning_suite
from robustiqa.bench.tuned import read_tuned, tuned_suite, write_tuned
from robustiqa.leaderboard.board import escaped
from robustiqa.leaderboard.pareto import accuracy_floor, choice, on_front
from scipy.stats import spearmanr

PLUGINS = [Path(__file__).parent / "plugins" / name for name in ("linear.py", "tiny_bench.py", "strengths.py")]
NAMED = [word for path in PLUGINS for word in ("--plugin", str(path))]
ACCURACY, ATTACKED = "banded[count=30]", "banded"
TEST = "photos[subset=references]"
FAMILIES = ("faded", "windowed", "blinded", "brittle", "fragile")


def tune(out: Path, *words: str, defenses: tuple[str, ...]) -> Result:
    """`robustiqa tune` with the linear metric and a short PGD, which reaches its optimum."""
    named = [word for defense in defenses for word in ("--defense", defense)]
    return CliRunner().invoke(
        cli, ["tune", "--metric", "linear", "--attack", "pgd[steps=3]", *named, "--out", str(out), *words, *NAMED]
    )


@pytest.fixture(scope="module", autouse=True)
def plugins(linear_plugin: Path) -> None:
    for path in PLUGINS[1:]:
        registry.load_file(path)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, plugins: None) -> Path:
    out = tmp_path_factory.mktemp("tune") / "out"
    result = tune(out, "--dataset", ATTACKED, "--accuracy", ACCURACY, "--eps", "4/255", defenses=FAMILIES)
    # A point that fails is not chosen, and the run goes on without it.
    assert result.exit_code == 0, result.output
    assert "brittle[rows=8] is not chosen: failed on 12 of 24 images under attack" in result.stderr
    return out


def table_of(tuned: Path) -> Any:
    return pd.read_csv(tuned / "tuning.csv").set_index("defense")


def scores(dataset: str, top: int = 0, rows: int = 32) -> np.ndarray:
    """Clean scores of the linear metric on images whose other rows are grey, written out."""
    data = load_dataset(dataset)
    w = load_metric("linear").module.weights(data.load(0)[None]).double().numpy()  # type: ignore[operator]
    kept = slice(top, top + rows)
    return np.array([3 + w.sum() / 2 + ((data.load(i).numpy() - 0.5) * w)[:, kept].sum() for i in range(len(data))])


def spread(values: np.ndarray) -> float:
    return float(np.subtract(*np.percentile(values, [99, 1])))


def optimum(top: int = 0, rows: int = 32) -> float:
    """Largest gain in units of R at l_inf 4/255 where only some rows count."""
    w = load_metric("linear").module.weights(load_dataset(ATTACKED).load(0)[None])  # type: ignore[operator]
    return 4 / 255 * float(w[:, top : top + rows].double().abs().sum()) / spread(scores(ATTACKED))


def test_contraction_gains_nothing(tuned: Path) -> None:
    table = table_of(tuned)
    for share in (1.0, 0.5, 0.25):
        row = table.loc[f"faded[share={share}]"]
        assert row["gain_mean"] == pytest.approx(share * optimum(), rel=1e-3)
        assert row["range_ratio"] == pytest.approx(share, rel=1e-4)
        assert row["gain_own"] == pytest.approx(optimum(), rel=1e-3), "the same at every share"
        assert row["srocc"] == pytest.approx(table.loc["none", "srocc"])
    assert table.loc["faded[share=1.0]", "chosen"], "none is better: the weakest"
    assert table.loc["none", "gain_own"] == pytest.approx(optimum(), rel=1e-3)
    assert table.loc["none", "threat"] == "linf 4/255"


def test_robustness_shows_in_the_own_range(tuned: Path) -> None:
    table = table_of(tuned)
    truth = np.arange(30)
    for top, rows, name in ((0, 32, "windowed"), (0, 16, "windowed"), (0, 8, "windowed"), (8, 8, "blinded")):
        row = table.loc[f"{name}[rows={rows}]"]
        ratio = spread(scores(ACCURACY, top, rows)) / spread(scores(ACCURACY))
        assert row["gain_mean"] == pytest.approx(optimum(top, rows), rel=1e-3)
        assert row["range_ratio"] == pytest.approx(ratio, rel=1e-4)
        assert row["gain_own"] == pytest.approx(optimum(top, rows) / min(1, ratio), rel=1e-3)
        assert row["srocc"] == pytest.approx(spearmanr(scores(ACCURACY, top, rows), truth)[0], abs=1e-6)
        assert (row["n_accuracy"], row["n_attacked"], row["complete"]) == (30, 24, True)
    assert table.loc["windowed[rows=8]", "gain_own"] < 0.4 * table.loc["none", "gain_own"]
    # What loses accuracy looks more robust in any unit, and still is not taken.
    assert table.loc["blinded[rows=8]", "gain_own"] < 0.9 * table.loc["none", "gain_own"]
    assert 0 < table.loc["blinded[rows=8]", "srocc"] < 0.5


def test_the_best_complete_point_is_chosen_where_accuracy_stays(tuned: Path) -> None:
    table = table_of(tuned)
    chosen = {"faded": "faded[share=1.0]", "windowed": "windowed[rows=8]", "blinded": "blinded[rows=32]",
              "brittle": "brittle[rows=32]", "fragile": "fragile[share=0.5]"}  # fmt: skip
    assert table.index[table["chosen"]].tolist() == ["none", *chosen.values()]
    found = read_tuned(tuned)
    assert found.chosen == chosen
    assert found.incomplete == {
        "brittle[rows=8]": "failed on 12 of 24 images under attack",
        "fragile[share=0.25]": "failed on 54 of 54 images without an attack",
    }
    assert not table.loc[list(found.incomplete), ["complete", "front", "front_all", "chosen"]].to_numpy().any()
    assert found.development[ATTACKED] == sorted(f"photo-{i}" for i in range(12))
    assert set(found.development) == {ATTACKED, ACCURACY}
    assert found.code == code_digest()
    assert (tuned / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_keep_decides_how_much_accuracy_may_go(tmp_path: Path) -> None:
    words = ("--dataset", ATTACKED)
    assert tune(tmp_path, *words, defenses=("blinded",)).exit_code == 0
    before = (tmp_path / "tuning.csv").read_bytes()
    assert read_tuned(tmp_path).chosen == {"blinded": "blinded[rows=32]"}
    loose = tune(tmp_path, *words, "--keep", "0", defenses=("blinded",))
    assert "resuming: 18 of 18" in loose.output, "a second call computes nothing"
    assert read_tuned(tmp_path).chosen == {"blinded": "blinded[rows=8]"}
    tune(tmp_path, *words, defenses=("blinded",))
    assert (tmp_path / "tuning.csv").read_bytes() == before


def test_the_floor_is_a_share_of_the_undefended_srocc() -> None:
    table = pd.DataFrame({"defense": ["jpeg", "none"], "srocc": [0.1, 0.8]})
    assert accuracy_floor(table, 0.9) == pytest.approx(0.72)
    assert accuracy_floor(table.assign(srocc=-table["srocc"]), 0.9) == pytest.approx(-0.88)
    assert accuracy_floor(table.iloc[:1], 0.9) == -np.inf


def test_a_family_without_a_point_is_a_failure(tmp_path: Path) -> None:
    words = ("--dataset", "noise[count=10]")
    result = tune(tmp_path / "a", *words, defenses=("fragile[share=0.25]",))
    assert result.exit_code == 1
    assert "no point of fragile is complete" in result.stderr
    assert "5 photographs for the accuracy (noise[count=10]): with fewer than 20 points" in result.stderr
    assert "5 photographs for the worst gain (noise[count=10]): with fewer than 20 points" in result.stderr
    result = tune(tmp_path / "c", *words, defenses=("picky",))
    assert result.exit_code == 0, result.output
    assert read_tuned(tmp_path / "c").incomplete == {"picky[share=0.25]": "no weights for this strength"}
    result = tune(tmp_path / "b", *words, defenses=("none",))
    assert result.exit_code == 0, result.output
    assert "is not chosen" not in result.stderr
    assert read_tuned(tmp_path / "b").chosen == {}
    table = table_of(tmp_path / "b")
    # Five photographs: the jackknife alone would leave [-1,1].
    assert table.loc["none", "srocc_lo"] == -1 or table.loc["none", "srocc_hi"] == 1
    assert table[["srocc_lo", "srocc_hi"]].abs().to_numpy().max() <= 1


def test_few_photographs_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_few(["banded[count=40]"], "banded[count=40]")
    assert capsys.readouterr().err == ""
    warn_of_few(["banded[count=40]"], "banded[count=38]")
    text = capsys.readouterr().err
    assert text.startswith("robustiqa: 19 photographs for the worst gain (banded[count=38]): with fewer than 20 points")
    assert "accuracy" not in text


def test_too_few_images_have_no_range(tmp_path: Path) -> None:
    result = tune(tmp_path, "--dataset", "noise[count=8]", defenses=("faded",))
    assert result.exit_code == 1
    assert "faded[share=1.0] is not chosen: has no range of scores" in result.stderr


@pytest.mark.parametrize("attack", [" naive", "transfer[source=self]", "random-noise", "single-sign", "uap", "facpa"])
def test_only_adaptive_attacks_tune(tmp_path: Path, attack: str) -> None:
    result = tune(tmp_path / "out", "--attack", attack, defenses=("faded",))
    assert result.exit_code == 1
    assert "expected an attack that asks the defended metric" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_board_uses_the_tuned_points(tuned: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yml"
    suite.write_text("schema: 1\nname: s\ndescription: Mine.\nmetrics: [linear]\n"
                     "datasets: ['photos[subset=references]']\n"
                     "defenses: [none, windowed, 'fragile[share=0.9]']\n"
                     "pairs: [{metric: linear, defense: 'faded[twice=true]'}, {metric: linear, defense: blinded}]\n"
                     "attacks: [{attack: 'pgd[steps=2]', linf: [4/255]}]\n")  # fmt: skip
    words = ["run", "--suite", str(suite), "--tuned", str(tuned), "--out", str(tmp_path / "run"), *NAMED]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert "leaves open the strength of faded[twice=true]" in result.stderr
    suite.write_text(suite.read_text().replace("[twice=true]", "[twice=false]"))
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr
    board = pd.read_csv(tmp_path / "run" / "leaderboard" / "summary.csv")
    wanted = {"none", "windowed[rows=8]", "fragile[share=0.9]", "faded[share=1.0]", "blinded[rows=32]"}
    assert set(board["defense"]) == wanted, "what was named stays"
    record = json.loads((tmp_path / "run" / "run.json").read_text())["suite"]["description"]
    assert record.startswith("Mine. Strengths as tuned behind linear on banded")
    for part in (code_digest(), "windowed -> windowed[rows=8]", ATTACKED, "pgd[steps=3] at linf(0.0156863)"):
        assert part in record
    assert escaped(record) in (tmp_path / "run" / "leaderboard" / "board.md").read_text()


def test_a_tuning_by_other_code_is_said(tuned: Path, tmp_path: Path) -> None:
    other = read_tuned(tuned).model_copy(update={"code": "0123", "metric_identity": "linear-v0"})
    (tmp_path / "tuned.json").write_text(other.model_dump_json())
    words = ["--metric", "linear", "--dataset", "photos[subset=references]", "--defense", "windowed"]
    result = CliRunner().invoke(cli, ["run", *words, "--attack", "fgsm", "--tuned", str(tmp_path), "--out",
                                      str(tmp_path / "run"), *NAMED])  # fmt: skip
    assert "warning: the tuning was computed by other code (0123, now " in result.stderr
    assert "warning: the metric 'linear' has changed since the tuning" in result.stderr
    assert result.exit_code == 0, result.output


def suite_on(*datasets: str, metric: str = "linear", defenses: tuple[str, ...] = ("none", "windowed"),
             pairs: tuple[Pair, ...] = ()) -> Suite:  # fmt: skip
    return Suite(schema=1, name="s", metrics=(metric,), datasets=datasets, defenses=defenses, pairs=pairs)


def test_what_the_tuning_does_not_answer_is_refused(tuned: Path) -> None:
    found = read_tuned(tuned)
    with pytest.raises(BadSuite, match="12 photographs on which"):
        tuned_suite(suite_on(TEST, "banded[count=24]"), found)
    with pytest.raises(BadSuite, match="metric 'linear'"):
        tuned_suite(suite_on(TEST, metric="linear[scale=2.0]"), found)
    with pytest.raises(BadSuite, match=r"metric 'linear', the suite has linear\[scale=2.0\]"):
        tuned_suite(suite_on(TEST, pairs=(Pair(metric="linear[scale=2.0]", defense="jpeg"),)), found)
    asked = ("none", "jpeg", "windowed", "faded[twice=true]")
    with pytest.raises(BadSuite, match=r"strength of jpeg, faded\[twice=true\], which the tuning"):
        tuned_suite(suite_on(TEST, defenses=asked), found)
    with pytest.raises(BadSuite, match="none of the suite's defences was tuned"):
        tuned_suite(suite_on(TEST, defenses=("none", "jpeg[quality=50]")), found)
    same = suite_on(TEST, metric="linear[offset=3.0]", defenses=("none", "windowed[top=0]", "windowed[rows=32]"))
    assert tuned_suite(same, found).defenses == ("none", "windowed[rows=8]", "windowed[rows=32]")


def test_images_are_known_by_their_content(tmp_path: Path) -> None:
    development = "photos[size=128,split=dev,subset=references]"
    suite = tuning_suite("linear", ["windowed[rows=8]"], (), development, "pgd", ("linf", 4 / 255))
    found = read_tuned(write_tuned(tmp_path / "tuned.json", suite, {"windowed": "windowed[rows=8]"}, {}, "by hand"))
    assert len(found.images) == 2
    same, other = tmp_path / "same", tmp_path / "other"
    for folder, change in ((same, 0), (other, 1)):
        folder.mkdir()
        for index in range(2):
            array = (255 * load_dataset(development).load(index)).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(array ^ change).save(folder / f"{index}.png")
        (folder / "cut.png").write_bytes(b"")  # cannot be read: the run says so
    with pytest.raises(BadSuite, match="2 images on which"):
        tuned_suite(suite_on(f"folder[root={same}]"), found)
    tuned_suite(suite_on(f"folder[root={other}]"), found)
    # Names in folders are anybody's.
    suite = tuning_suite("linear", ["windowed[rows=8]"], (), f"folder[root={same}]", "pgd", ("linf", 4 / 255))
    found = read_tuned(write_tuned(tmp_path / "tuned.json", suite, {"windowed": "windowed[rows=8]"}, {}, "by hand"))
    tuned_suite(suite_on(f"folder[root={other}]"), found)
    with pytest.raises(BadSuite, match="2 images on which"):
        tuned_suite(suite_on(development), found)


def test_absent_data_sets_of_a_suite_that_skips_them_are_no_error(
    tuned: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROBUSTIQA_DATA", str(tmp_path))
    suite = suite_on(TEST, "clive")
    with pytest.raises(Absent):
        tuned_suite(suite, read_tuned(tuned))
    skipping = tuned_suite(suite.model_copy(update={"absent": "skip"}), read_tuned(tuned))
    assert skipping.defenses == ("none", "windowed[rows=8]")


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
    assert family_of("faded[twice=false]") == family_of("faded[share=0.5]") == "faded"
    assert family_of("unsharp[kernel=5,sigma=1]") == "unsharp"
    with pytest.raises(UnknownName, match="faded"):
        grid(["fadde"])


def points(*rows: tuple[float, float, bool]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["srocc", "gain_own", "complete"])


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
    assert choice(points((0.8, 0.5, True), (0.9, 0.5005, True)), 0.1) == 1, "ties go to the more accurate"
    assert choice(points((0.9, 0.5, True), (0.9, 0.4995, True)), 0.1) == 0, "and then to the weaker"
    assert choice(points((0.9, 0.5, True), (0.8, 0.4985, True)), 0.1) == 1
    assert choice(points((0.8, 0.5, False)), 0.1) is None


def test_photographs_of_the_two_splits_are_others() -> None:
    parts = [{item.reference for item in Photos(split=split).items} for split in ("dev", "test")]
    assert [len(p) for p in parts] == [2, 3]
    assert set.union(*parts) == {item.reference for item in Photos().items}
    with pytest.raises(BadParameter, match="dev"):
        Photos(split="train")
