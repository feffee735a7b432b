"""The board's verdicts, each on records with the fault planted: a table that cannot say no says nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from robustiqa.bench import run_suite
from robustiqa.bench.logistic import fit_logistic
from robustiqa.bench.plan import plan_from_json
from robustiqa.bench.registry import registry
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite
from robustiqa.leaderboard import collect
from robustiqa.leaderboard.empirical import _excess
from robustiqa.leaderboard.results import Group
from robustiqa.leaderboard.summary import eps_text
from scipy.stats import pearsonr

SUITE = {
    "name": "planted",
    "metrics": ["linear"],
    "datasets": ["noise"],
    "defenses": ["none", "median-smoothing[n=600,m=51]"],
    "certify": {"eps": [0.05]},
    "attacks": [
        {"attack": "random-noise", "linf": ["4/255"]},
        {"attack": "pgd[steps=2]", "linf": ["4/255"]},
        {"attack": "eot-pgd[steps=2,draws=2]", "l2": [0.05], "only": "certified"},
    ],
}


@pytest.fixture(scope="module")
def honest(linear_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    out = tmp_path_factory.mktemp("honest") / "run"
    assert run_suite(Suite.model_validate(SUITE), out, progress=False).ok
    return out


def plant(honest: Path, out: Path, change: Callable[[dict], None]) -> dict[str, pd.DataFrame]:
    """The tables of a copy of the run with every record passed through `change`, whether or not they can be right."""
    shutil.copytree(honest, out)
    store = Store(out)
    for cell in plan_from_json(store.read_json("plan.json")).cells:
        rows = [
            {str(k): None if v is None or v is pd.NA or v != v else v for k, v in row.items()}
            for row in store.read_rows([cell.id]).to_dict("records")
        ]
        for row in rows:
            change(row)
        store.write_cell(cell.id, rows)
    paths = collect(out, despite_violations=True)
    return {name: pd.read_csv(path) for name, path in paths.items() if path.suffix == ".csv"}


def board_of(out: Path) -> str:
    """The board of a planted run, wherever it went."""
    (path,) = out.glob("leaderboard-violated/board.md") if (out / "leaderboard-violated").is_dir() else [
        out / "leaderboard" / "board.md"]  # fmt: skip
    return path.read_text()


def row_of(table: pd.DataFrame, defense: str) -> dict:
    return table[table["defense"].str.startswith(defense)].iloc[0].to_dict()


def test_unchanged_records_give_a_clean_board(honest: Path, tmp_path: Path) -> None:
    tables = plant(honest, tmp_path / "run", lambda row: None)
    assert tables["summary"]["flags"].isna().all()
    assert set(tables["certified"]["violations"]) == {0}
    for name in ("summary", "certified"):
        same = (honest / "leaderboard" / f"{name}.csv").read_bytes()
        assert (tmp_path / "run" / "leaderboard" / f"{name}.csv").read_bytes() == same


def test_scores_outside_their_bound_are_violations(honest: Path, tmp_path: Path) -> None:
    """Three images whose whole interval lies above the bound; a fourth whose estimate alone does is none."""

    def break_bound(row: dict) -> None:
        if row["kind"] == "attack" and row["norm"] == "l2" and row["image"] in ("image-0", "image-1", "image-2"):
            row |= {"attacked": 90.0, "attacked_lo": 80.0, "attacked_hi": 99.0}
        elif row["kind"] == "attack" and row["norm"] == "l2" and row["image"] == "image-3":
            row |= {"attacked": 90.0, "attacked_hi": 99.0}

    tables = plant(honest, tmp_path / "run", break_bound)
    certified = tables["certified"].set_index("kind")
    assert certified.loc["population", "violations"] == 3
    # The deployed bound is about the score itself: there the fourth counts.
    assert certified.loc["deployed", "violations"] == 4
    assert certified["violation_p"].max() < 1e-5
    assert certified["tightness_max"].min() > 1
    assert "certificate-violated" in row_of(tables["summary"], "median-smoothing")["flags"]


def test_infinite_and_range_wide_bounds_are_vacuous(honest: Path, tmp_path: Path) -> None:
    def widen(row: dict) -> None:
        if row["kind"] == "certify" and row["image"] in ("image-0", "image-1", "image-2"):
            row |= {"hi": np.inf} if row["image"] == "image-0" else {"lo": -1e6, "hi": 1e6}

    tables = plant(honest, tmp_path / "run", widen)
    assert tables["certified"]["vacuous_share"].tolist() == pytest.approx([3 / 12, 3 / 12])
    assert np.isinf(tables["certified"]["certified_delta_mean"]).all()


def test_order_certificate_uses_the_joint_bounds(honest: Path, tmp_path: Path) -> None:
    def blind(row: dict) -> None:
        if row["kind"] == "certify":
            row |= {"family_lo": -1e6, "family_hi": 1e6}

    before = pd.read_csv(honest / "leaderboard" / "certified.csv")["certified_pairs"]
    after = plant(honest, tmp_path / "run", blind)["certified"]["certified_pairs"]
    assert before.max() > 0
    assert set(after) == {0.0}


def test_an_attack_no_better_than_noise_is_flagged(honest: Path, tmp_path: Path) -> None:
    def weaken(row: dict) -> None:
        if row["kind"] == "attack" and row["attack"] == "pgd[steps=2]" and row["defense"] == "none":
            row |= {"gain": 0.0, "attacked": row["clean"]}

    flags = row_of(plant(honest, tmp_path / "run", weaken)["summary"], "none")["flags"]
    assert flags == "no-op:pgd@linf:0.0157"


def test_attacks_are_held_against_the_standard_one(honest: Path, tmp_path: Path) -> None:
    """Random noise plays the standard attack: PGD beats it on 3 of 12 images; a 4th is as far."""

    def rename(row: dict) -> None:
        if row["kind"] == "attack" and row["attack"] == "random-noise":
            row |= {"attack": "auto-iqa", "attacked": 50.0, "attacked_lo": 49.0, "attacked_hi": 51.0}
        elif row["kind"] == "attack" and row["attack"] == "pgd[steps=2]":
            row["attacked"] = {"image-0": 60.0, "image-1": 60.0, "image-2": 60.0, "image-3": 50.0}.get(row["image"], 40)

    empirical = plant(honest, tmp_path / "run", rename)["empirical"]
    pgd = empirical[empirical["defense"] == "none"].set_index("attack").loc["pgd[steps=2]"].to_dict()
    assert pgd["above_standard_share"] == 3 / 12
    unit = pd.read_csv(honest / "leaderboard" / "summary.csv")["range"].iloc[0]
    assert pgd["above_standard_max"] == pytest.approx(10 / unit, rel=1e-4)
    before = pd.read_csv(honest / "leaderboard" / "empirical.csv")
    assert before["above_standard_share"].isna().all(), "there the standard attack did not run"


@pytest.mark.parametrize(("direction", "sign", "better"), [("up", 1, 60.0), ("down", 1, 40.0), ("up", -1, 40.0),
                                                           ("down", -1, 60.0)])  # fmt: skip
def test_stronger_is_further_in_the_direction_of_the_attack(direction: str, sign: float, better: float) -> None:
    """A score of 50 is left by the standard attack; the metric's sense and the direction say what is further."""
    under = pd.DataFrame({"image": ["a", "a"], "attack": ["auto-iqa", "pgd"], "attacked": [50.0, better]})
    group = Group("m", "d", "s", (0.0, 20.0), "", sign, under, under, ())
    assert _excess(under[under["attack"] == "pgd"], under, group, direction).tolist() == [0.5]
    unknown = Group("m", "d", "s", (np.nan, np.nan), "", sign, under, under, ())
    assert len(_excess(under[under["attack"] == "pgd"], under, unknown, direction)) == 0


def test_the_board_says_whether_the_standard_attack_ran(honest: Path, tmp_path: Path) -> None:
    assert "the standard worst case `auto-iqa` was not among them" in (honest / "leaderboard" / "board.md").read_text()
    # Without a gradient it is Square alone: quick.
    suite = {"name": "standard", "metrics": ["no-gradient"], "datasets": ["noise"], "defenses": ["none"],
             "attacks": [{"attack": "auto-iqa", "linf": ["4/255"]}]}  # fmt: skip
    run_suite(Suite.model_validate(suite), tmp_path / "run", progress=False)
    board = board_of(tmp_path / "run")
    assert "upwards, `auto-iqa` among them" in board
    assert pd.read_csv(tmp_path / "run" / "leaderboard" / "summary.csv")["standard"].all()


def test_failed_rows_stay_in_the_denominator(honest: Path, tmp_path: Path) -> None:
    def fail(row: dict) -> None:
        if row["kind"] == "certify":
            row |= {"status": "error", "message": "planted", "lo": None, "hi": None, "eps": None}

    tables = plant(honest, tmp_path / "run", fail)
    assert tables["certified"][["eps", "n_ok", "n_planned"]].to_numpy().tolist() == [[0.05, 0, 12]]
    row = row_of(tables["summary"], "median-smoothing")
    assert np.isnan(row["rank"])
    assert row["flags"] == "incomplete"
    assert set(tables["errors"]["message"]) == {"planted"}


def test_scores_that_fall_while_people_rise_are_flagged(honest: Path, tmp_path: Path) -> None:
    """A direction declared wrong: SROCC is -1 and the fitted PLCC 1, which looks fine."""

    def turn(row: dict) -> None:
        if row["kind"] == "score" and row["defense"] != "none":
            row |= {"clean": -row["truth"]}

    summary = plant(honest, tmp_path / "run", turn)["summary"]
    assert "reversed" in str(row_of(summary, "median-smoothing")["flags"]).split()
    assert "reversed" not in str(row_of(summary, "none")["flags"]).split()


def test_a_plcc_without_fit_says_why(honest: Path, tmp_path: Path) -> None:
    """Constant scores behind one defence; the other keeps its figures, which are those of the fits."""

    def flatten(row: dict) -> None:
        if row["kind"] == "score" and row["defense"] != "none":
            row |= {"clean": 7.0}

    summary = plant(honest, tmp_path / "run", flatten)["summary"]
    flat, plain = row_of(summary, "median-smoothing"), row_of(summary, "none")
    assert np.isnan([flat["plcc_clean"], flat["plcc5_clean"], flat["plcc_raw_clean"], flat["rmse_clean"]]).all()
    assert flat["plcc_note"] == (
        "plcc_clean: 1 different score: 4 parameters need more than 4; "
        "plcc5_clean: 1 different score: 5 parameters need more than 5"
    )
    board = board_of(tmp_path / "run")
    assert "without a logistic fit: behind `median-smoothing[m=51,n=600]`, plcc_clean: 1 different score" in board
    rows = Store(honest).read_rows([c.id for c in plan_from_json(Store(honest).read_json("plan.json")).cells])
    scores = rows[(rows["kind"] == "score") & (rows["defense"] == "none")]
    score, truth = scores["clean"].to_numpy(), scores["truth"].to_numpy(dtype=float)
    four, five = fit_logistic(score, truth), fit_logistic(score, truth, 5)
    expected = [four.plcc, five.plcc, pearsonr(score, truth)[0], four.rmse]
    found = [plain[column] for column in ("plcc_clean", "plcc5_clean", "plcc_raw_clean", "rmse_clean")]
    assert found == pytest.approx(expected, rel=1e-4)
    assert pd.isna(plain["plcc_note"])


def test_what_only_noise_was_tried_on_has_no_rank(tmp_path: Path, honest: Path) -> None:
    suite = Suite.model_validate(SUITE | {"attacks": [{"attack": "random-noise", "linf": ["4/255"]}]})
    run_suite(suite, tmp_path, progress=False)
    summary = pd.read_csv(tmp_path / "leaderboard" / "summary.csv")
    assert summary["rank"].isna().all()
    assert summary["flags"].str.contains("not-attacked").all()


def test_repeated_and_overlapping_entries_are_one_piece_of_work(honest: Path, tmp_path: Path) -> None:
    doubled = {
        key: [*SUITE[key], *SUITE[key]]
        for key in ("metrics", "datasets", "defenses", "attacks")  # type: ignore[misc]
    }
    doubled["defenses"] = ["none", "none[]", "median-smoothing[n=600,m=51,sigma=0.12]", *SUITE["defenses"]]  # type: ignore[misc]
    run_suite(Suite.model_validate(SUITE | doubled | {"certify": {"eps": [0.05, 0.05]}}), tmp_path, progress=False)
    columns = ["rank", "worst_gain_mean", "n_ok", "n_planned"]
    mine, theirs = (pd.read_csv(p / "leaderboard" / "summary.csv")[columns] for p in (tmp_path, honest))
    pd.testing.assert_frame_equal(mine, theirs)
    pairs = [pd.read_csv(p / "leaderboard" / "certified.csv")["certified_pairs"].tolist() for p in (tmp_path, honest)]
    assert pairs[0] == pairs[1]


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    from robustiqa.bench.errors import BadData

    with Store(tmp_path).locked(), pytest.raises(BadData, match="another run"), Store(tmp_path).locked():
        pass


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create()
    theirs = [tmp_path / ".draft.tmp", tmp_path / "notes" / ".a.b.77.tmp"]
    ours = store.cells / ".cell.parquet.123.tmp"
    theirs[1].parent.mkdir()
    for path in (*theirs, ours):
        path.touch()
    os.utime(ours, (0, 0))
    store.create()
    assert all(path.exists() for path in theirs)
    assert not ours.exists()


def test_budgets_are_written_as_people_say_them() -> None:
    assert [eps_text(eps) for eps in (4 / 255, 1 / 255, 0.05, 1.0, 2.0, 0.5 / 255)] == [
        "4/255", "1/255", "0.05", "1", "2", "0.00196078"
    ]  # fmt: skip


def test_a_board_of_failures_says_so(honest: Path, tmp_path: Path) -> None:
    """Not "not attacked", "no ground truth" or "R = nan": there is nothing else to be said of the rows."""

    def fail(row: dict) -> None:
        if row["kind"] != "check":
            row |= {"status": "error", "message": "planted", "eps": None} | dict.fromkeys(("clean", "lo", "hi"))

    summary = plant(honest, tmp_path / "run", fail)["summary"]
    assert set(summary["flags"]) == {"failed"}
    assert set(summary["n_ok"]) == {0}
    assert set(summary["truth"]) == {"made-up"}
    board = board_of(tmp_path / "run")
    assert "**Every image failed**, behind every defence; there is no figure to give: 108 x planted" in board
    assert "Ground truth: none" not in board
    assert "R = nan" not in board


def test_a_unit_from_a_handful_of_scores_is_flagged(honest: Path, tmp_path: Path) -> None:
    """Nine images and no declared range; with a declared one R is that, and with ten images theirs."""

    def board_of(metric: str, count: int) -> tuple[pd.DataFrame, str]:
        changes = {"metrics": [metric], "datasets": [f"noise[count={count}]"], "defenses": ["none"], "certify": None}
        out = tmp_path / f"{metric}-{count}"
        result = run_suite(Suite.model_validate(SUITE | changes), out, progress=False)
        return pd.read_csv(result.tables["summary"]), result.tables["board"].read_text()

    summary, board = board_of("linear", 9)
    assert summary["flags"].tolist() == ["range-of-few"]
    assert "R = " in board
    assert "(p99-p1 of only 9 clean scores; no range is declared). **That is no range**" in board
    summary, board = board_of("ranged", 9)
    assert summary["flags"].isna().all()
    assert "(declared range)" in board
    summary, board = board_of("linear", 10)
    assert summary["flags"].isna().all()
    assert "(p99-p1 of clean scores)" in board


def test_a_unit_that_does_not_exist_is_said(honest: Path, tmp_path: Path) -> None:
    def fail(row: dict) -> None:
        if row["kind"] == "score" and row["defense"] == "none":
            row |= {"status": "error", "message": "planted", "clean": None}

    summary = plant(honest, tmp_path / "run", fail)["summary"]
    assert "no-range" in str(row_of(summary, "median-smoothing")["flags"]).split()
    assert "**No gain or delta can be given**" in board_of(tmp_path / "run")
