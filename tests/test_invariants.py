"""Each rule that stops a board: quiet on an honest run, and naming the row where a violation is planted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from robustiqa.attacks.auto import members
from robustiqa.bench import load_metric, run_suite
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BrokenInvariant, RobustIQAError
from robustiqa.bench.registry import registry
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite
from robustiqa.defenses import load_defense
from robustiqa.leaderboard import collect
from robustiqa.leaderboard.collect import Board, make_board
from robustiqa.leaderboard.invariants import Broken
from robustiqa.leaderboard.invariants_tables import MEMBERS, STOP_P, broken_tables, standard_trials
from robustiqa.leaderboard.report import report
from robustiqa.leaderboard.results import read_plan, read_results

SUITE = {
    "name": "rules",
    "metrics": ["linear"],
    "datasets": ["noise"],
    "defenses": ["none", "median-smoothing[n=600,m=51]"],
    "certify": {"eps": [0.05, 0.12]},
    "attacks": [
        {"attack": "random-noise", "linf": ["4/255"]},
        {"attack": "pgd[steps=2]", "linf": ["2/255", "4/255"], "only": "deterministic"},
        {"attack": "pgd[steps=100]", "linf": ["4/255"], "only": "deterministic"},
        {"attack": "eot-pgd[steps=2,draws=2]", "l2": [0.05], "only": "certified"},
    ],
}

Change = Callable[[Any], Any]
"""Of records: changed in place, or given back."""


@pytest.fixture(scope="module")
def run(linear_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    out = tmp_path_factory.mktemp("rules") / "run"
    assert run_suite(Suite.model_validate(SUITE), out, progress=False).ok
    return out


class Honest(NamedTuple):
    """A run on disk, with all its records and which file each is of."""

    root: Path
    rows: Any


@pytest.fixture(scope="module")
def honest(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Honest:
    """The run with its two-step PGD under the name of the standard attack, whose member the longer one is."""
    root = tmp_path_factory.mktemp("honest") / "run"
    shutil.copytree(run, root)
    plan = root / "plan.json"
    plan.write_text(plan.read_text().replace('"attack": "pgd[steps=2]"', '"attack": "auto-iqa"'))
    rows = Store(run).read_rows([cell.id for cell in read_results(run).plan.cells])
    rows = rows.assign(attack=rows["attack"].replace("pgd[steps=2]", "auto-iqa"), file=rows["cell"])
    write(root, rows)
    return Honest(root, rows)


def write(root: Path, rows: Any) -> None:
    for file, part in rows.groupby("file"):
        records = [{str(k): None if pd.isna(v) else v for k, v in row.items()} for row in part.to_dict("records")]
        # A number that is none stays one; what is absent is null.
        for record, missing in zip(records, part["attacked"].isna() & (part["kind"] == "attack"), strict=True):
            record |= {"attacked": np.nan} if missing else {}
        Store(root).write_cell(str(file), records)


@pytest.fixture
def planted(honest: Honest, tmp_path: Path) -> Callable[[Change], Board]:
    """A board with the records of the honest run after a change."""
    root = tmp_path / "run"
    shutil.copytree(honest.root, root)

    def plant(change: Change) -> Board:
        rows = honest.rows.copy()
        rows = rows if (found := change(rows)) is None else found
        write(root, rows)
        return make_board(root)

    return plant


def attack_rows(rows: Any, attack: str = "auto-iqa", eps: float = 4 / 255) -> Any:
    return (rows["attack"] == attack) & np.isclose(rows["eps"], eps)


def first_of(rows: Any, mask: Any) -> int:
    return int(rows.index[mask.to_numpy(dtype=bool)][0])


def move(rows: Any, mask: Any, gain: Any) -> None:
    """Let the attacked scores be those of another gain, consistently."""
    rows.loc[mask, "gain"] = gain
    for name in ("attacked", "attacked_lo", "attacked_hi"):
        rows.loc[mask, name] = rows["clean"] + rows["gain"]


def test_an_honest_run_breaks_nothing(planted: Callable[[Change], Board], run: Path) -> None:
    assert planted(lambda rows: None).broken == []
    assert "violations" not in collect(run)


def _double(rows: Any) -> pd.DataFrame:
    return pd.concat([rows, rows.loc[[first_of(rows, attack_rows(rows))]]], ignore_index=True)


def _lose(rows: Any) -> pd.DataFrame:
    return rows.drop(first_of(rows, attack_rows(rows)))


def _lose_bound(rows: Any) -> pd.DataFrame:
    return rows.drop(first_of(rows, (rows["kind"] == "certify") & (rows["eps"] == 0.12)))


def _set(mask: Callable[[Any], Any], column: str, value: object) -> Change:
    def change(rows: Any) -> None:
        rows.loc[first_of(rows, mask(rows)), column] = value

    return change


def _clean(rows: Any) -> None:
    """Another clean score in one attack's record, with the gains that follow from it."""
    k = first_of(rows, attack_rows(rows))
    rows.loc[k, ["clean", "gain", "gain_8bit"]] += np.array([1.0, -1.0, -1.0])


def _over_budget(rows: Any) -> None:
    rows.loc[first_of(rows, attack_rows(rows)), "linf"] *= 1 + 1e-6


def _gain(column: str) -> Change:
    def change(rows: Any) -> None:
        rows.loc[first_of(rows, attack_rows(rows)), column] += 0.5

    return change


def _still(rows: Any) -> None:
    rows.loc[attack_rows(rows) & (rows["image"] == "image-3"), "linf"] = 0.0


def _eight(rows: Any) -> None:
    """Two attacks that leave an image alone, and two scores of the same 8-bit file."""
    mine = (rows["kind"] == "attack") & (rows["defense"] == "none") & (rows["image"] == "image-3")
    rows.loc[mine, "linf"] = 0.0
    move(rows, mine, 0.0)
    rows.loc[mine, "gain_8bit"] = np.where(rows.loc[mine, "attack"] == "auto-iqa", 0.5, 0.0)
    rows.loc[mine, "attacked_8bit"] = rows["clean"] + rows["gain_8bit"]


def _narrow(rows: Any) -> None:
    mine = (rows["certificate"] == "population") & (rows["image"] == "image-5")
    hi = rows.loc[mine & (rows["eps"] == 0.05), "hi"].iloc[0]
    rows.loc[mine & (rows["eps"] == 0.12), "hi"] = hi - 0.5


def _turned(rows: Any) -> None:
    k = first_of(rows, (rows["certificate"] == "deployed") & (rows["eps"] == 0.05))
    lo, hi = rows.loc[k, "lo"], rows.loc[k, "hi"]
    rows.loc[k, "lo"], rows.loc[k, "hi"] = hi, lo


def _outside(rows: Any) -> None:
    """Three of twelve images whose whole interval lies above the bound."""
    move(rows, (rows["norm"] == "l2") & rows["image"].isin(["image-0", "image-1", "image-2"]), 40.0)


def _falls(rows: Any) -> None:
    """The larger budget gains half of what the smaller one does; its member is as weak."""
    small = rows[attack_rows(rows, eps=2 / 255)].set_index("image")["gain"]
    for attack in ("auto-iqa", "pgd[steps=100]"):
        mine = attack_rows(rows, attack)
        move(rows, mine, rows.loc[mine, "image"].map(small) / 2)


def _beaten(rows: Any) -> None:
    mine = attack_rows(rows, "pgd[steps=100]")
    move(rows, mine, rows.loc[mine, "gain"] * 1.5)


NONE = "linear | none | noise | auto-iqa linf 4/255 up"
SMOOTH = "linear | median-smoothing[m=51,n=600] | noise"
PLANTS: list[tuple[Change, str, str, str]] = [
    (_double, "once", NONE, "the image is there twice"),
    (_lose, "rows", NONE, "7 images, where the cell has 8"),
    (_lose_bound, "rows", SMOOTH, "bounds at 1 budgets, where 2 were planned"),
    (_set(attack_rows, "attack", "fgsm"), "rows", "linear | none | noise | fgsm linf 4/255 up",
     "attack is 'fgsm', but the cell was planned for 'auto-iqa'"),
    (_set(attack_rows, "defense", "jpeg"), "rows", "linear | jpeg | noise", "defense is 'jpeg', but"),
    (_set(attack_rows, "eps", 8 / 255), "rows", "auto-iqa linf 8/255 up", "eps is 0.03"),
    (_set(attack_rows, "cell", "another"), "rows", "cell another", "a cell that the plan does not have"),
    (_set(attack_rows, "attacked", np.nan), "finite", NONE, "attacked is nan"),
    (_clean, "clean", NONE, "the clean score is"),
    (_over_budget, "budget", NONE, "is above eps 0.0156863"),
    (_gain("gain"), "gain", NONE, "its scores differ by"),
    (_gain("gain_8bit"), "8-bit", NONE, "its scores differ by"),
    (_still, "8-bit", "image 'image-3'", "the image was not changed, its score went from"),
    (_eight, "8-bit", "image 'image-3'", "under another attack"),
    (_narrow, "bounds", "image 'image-5'", "the population bound at eps 0.12 is narrower than that at 0.05"),
    (_turned, "bounds", SMOOTH, "the bound at eps 0.05 ends at"),
    (_outside, "certificate", f"{SMOOTH} | population l2 0.05", "drove 3 of 12 images out of their bound"),
    (_falls, "monotone", NONE, "but auto-iqa at 2/255, a smaller budget,"),
    (_beaten, "ensemble", NONE, "but its own member pgd at 4/255"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "rule", "row", "problem"), PLANTS)
def test_a_planted_violation_names_its_row(
    planted: Callable[[Change], Board], change: Change, rule: str, row: str, problem: str
) -> None:
    found = planted(change).broken
    assert [one for one in found if one.invariant == rule and row in one.row and problem in one.problem], found
    assert {one.invariant for one in found} == {rule}


def test_tables_are_counted_against_the_plan_and_each_other(honest: Honest) -> None:
    board = make_board(honest.root)

    def found(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> list[Broken]:
        tables = board.tables | {name: change(board.tables[name])}
        return broken_tables(board.plan, set(board.plan.all_asked(board.suite)), tables, [])

    (lost,) = found("empirical", lambda t: t.iloc[1:])
    assert (lost.invariant, "was planned, and is not in empirical.csv" in lost.problem) == ("rows", True)
    (extra,) = found("summary", lambda t: pd.concat([t, t.iloc[[0]].assign(defense="jpeg")]))
    assert (extra.row, extra.problem) == ("linear | jpeg | noise", "the row was not planned, and is in summary.csv")
    (twice,) = found("summary", lambda t: pd.concat([t, t.iloc[[0]]]))
    assert twice.problem == "the row is in summary.csv twice"
    (many,) = found("certified", lambda t: t.assign(n_ok=[13, *t["n_ok"][1:]]))
    assert many.problem == "13 results of 12 planned, in certified.csv"
    worst = found("summary", lambda t: t.assign(worst_gain_mean=t["worst_gain_mean"] - 0.01))
    assert {one.invariant for one in worst} == {"ensemble"}
    assert "is above that of the worst case of all attacks" in worst[0].problem


def _weaker(rows: Any) -> None:
    """The standard attack gains 5 % less than at a smaller budget and than a member: searches are not exact."""
    small = rows[attack_rows(rows, eps=2 / 255)].set_index("image")["gain"]
    for attack, share in (("auto-iqa", 0.95), ("pgd[steps=100]", 1.0)):
        mine = attack_rows(rows, attack)
        move(rows, mine, rows.loc[mine, "image"].map(small) * share)


def _rounded(rows: Any) -> None:
    """Another machine's last digits."""
    rows.loc[rows["kind"] == "attack", "clean"] *= 1 + 1e-6


def _on_a_gpu(rows: Any) -> None:
    """What TF32 does to scores of `dms-iqa`, emulated on a CPU: attacks ran on another machine than the scores."""
    for name in ("clean", "attacked", "attacked_8bit"):
        rows.loc[rows["kind"] == "attack", name] *= 1 + 1.2e-3
    for gain, score in (("gain", "attacked"), ("gain_8bit", "attacked_8bit")):
        rows.loc[rows["kind"] == "attack", gain] = rows[score] - rows["clean"]


@pytest.mark.parametrize("change", [_weaker, _rounded, _on_a_gpu])
def test_little_less_is_no_violation(planted: Callable[[Change], Board], change: Change) -> None:
    assert planted(change).broken == []


def test_an_entrant_that_is_flagged_as_random_stops_no_other(linear_plugin: Path, tmp_path: Path) -> None:
    """Its scores differ from cell to cell: the check says so, and takes its place on the board, not everybody's."""
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    registry.load_file(linear_plugin.with_name("broken.py"))
    attack = {"attack": "pgd[steps=2]", "linf": ["4/255"]}
    suite = SUITE | {"defenses": ["none", "broken-dice"], "attacks": [attack], "checks": {"images": 2, "ladder": False}}
    out = tmp_path / "run"
    run_suite(Suite.model_validate(suite), out, progress=False)
    (out / "cells" / next(path for path in (out / "cells").iterdir() if "attack-linear-broken" in path.name)).unlink()
    result = run_suite(Suite.model_validate(suite), out, progress=False)  # another process would draw other noise, too
    summary = pd.read_csv(result.tables["summary"]).set_index("defense")
    assert result.computed == 1
    assert "random-undeclared" in summary["flags"]["broken-dice"]
    assert pd.isna(summary["rank"]["broken-dice"])
    assert summary["rank"]["none"] == 1


def test_a_budget_may_be_written_in_two_ways(linear_plugin: Path, tmp_path: Path) -> None:
    """4/255 and its decimals differ in the last bit: two cells, and each counts its own images."""
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    attack = {"attack": "pgd[steps=2]", "linf": ["4/255", 0.0156862745098039]}
    suite = Suite.model_validate(SUITE | {"defenses": ["none"], "attacks": [attack]})
    result = run_suite(suite, tmp_path / "run", progress=False)
    empirical = pd.read_csv(result.tables["empirical"])
    assert empirical["n_ok"].tolist() == empirical["n_planned"].tolist() == [12, 12]


def test_copies_of_one_photograph_are_one(honest: Honest) -> None:
    """A folder with one image under eight names: what is missed on it is missed eight times by the same draws."""
    (group,) = (g for g in read_results(honest.root).groups if g.defense == "none")
    gains = np.where(group.rows["attack"] == "auto-iqa", 0.1, 0.3) * group.unit
    copies = standard_trials(replace(group, rows=group.rows.assign(gain=gains)))
    assert max(trial.p for trial in copies) == 1.0
    apart = gains * (1 + 0.01 * np.arange(len(gains)))
    others = standard_trials(replace(group, rows=group.rows.assign(gain=apart)))
    assert min(trial.p for trial in others) < STOP_P


def test_chance_alone_stops_no_board(honest: Honest) -> None:
    """Gains of two budgets that are the same but for noise: the larger one finds less on half of the boards."""
    (group,) = (g for g in read_results(honest.root).groups if g.defense == "none")
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        gains = rng.normal(0.3, 0.3, len(group.rows)) * group.unit
        found += standard_trials(replace(group, rows=group.rows.assign(gain=gains)))
    assert {trial.rule for trial in found} == {"monotone", "ensemble"}
    assert len(found) == 400
    # Each of these boards would have two trials.
    assert min(trial.p for trial in found) > STOP_P / 2


@pytest.mark.parametrize("defense", ["none", "median-smoothing"])
def test_the_named_members_are_those_of_auto_iqa(defense: str) -> None:
    g = load_defense(defense, load_metric("tiny-iqa"))
    theirs = [{k: v for k, v in vars(m).items() if k not in ("spec", "_inner", "_loaded")} for m in members(g)]
    for text in MEMBERS[g.randomised]:
        from robustiqa.attacks import load_attack

        attack = load_attack(text)
        mine = {k: v for k, v in vars(attack).items() if k not in ("spec", "_inner", "_loaded")}
        same = [m for m, d in zip(members(g), theirs, strict=True) if type(m) is type(attack) and d == mine]
        assert same, text


def test_the_command_writes_nothing_and_names_the_row(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    before = {p: p.read_bytes() for p in (out / "leaderboard").iterdir()}
    store = Store(out)
    cell = next(c for c in read_results(out).plan.cells if c.attack == "pgd[steps=100]")
    good = (store.root / "cells" / f"{cell.id}.arrow.gz").read_bytes()
    rows = store.read_rows([cell.id]).to_dict("records")
    for row in rows:
        row |= {"linf": 0.1} | {k: None for k, v in row.items() if v is pd.NA or v != v}
    store.write_cell(cell.id, [{str(k): v for k, v in row.items()} for row in rows])
    with pytest.raises(BrokenInvariant, match=r"budget: linear \| none \| noise \| pgd\[steps=100\] linf 4/255 up"):
        collect(out)
    refused = CliRunner().invoke(cli, ["collect", str(out)])
    assert refused.exit_code == 1
    assert "1 row cannot be right" in refused.output
    assert {p: p.read_bytes() for p in (out / "leaderboard").iterdir()} == before
    assert not (out / "leaderboard-violated").exists()
    shown = CliRunner().invoke(cli, ["collect", str(out), "--despite-violations"])
    assert shown.exit_code == 1
    violated = out / "leaderboard-violated"
    assert "**This is no board" in (violated / "board.md").read_text()
    (violation,) = pd.read_csv(violated / "violations.csv").to_dict("records")
    assert violation["invariant"] == "budget"
    assert {p: p.read_bytes() for p in (out / "leaderboard").iterdir()} == before
    (store.root / "cells" / f"{cell.id}.arrow.gz").write_bytes(good)
    assert CliRunner().invoke(cli, ["collect", str(out)]).exit_code == 0
    assert not violated.exists()


SMOOTHED = "median-smoothing[m=51,n=600]"


@pytest.fixture
def one_false(run: Path, tmp_path: Path) -> Path:
    """The run, in which one entrant's record cannot be right: no number where there should be one."""
    root = tmp_path / "run"
    shutil.copytree(run, root)
    cell = next(c.id for c in read_plan(root)[1].cells if c.defense == SMOOTHED and c.kind == "score")
    rows = Store(root).read_cell(cell).to_pylist()
    Store(root).write_cell(cell, [row | {"clean": np.inf} for row in rows])
    return root


def test_one_entrant_is_left_out_and_the_board_says_so(one_false: Path, run: Path) -> None:
    """The others' figures are as without it; its row stays, empty, and the next board has it again."""
    with pytest.raises(BrokenInvariant, match="finite"):
        collect(one_false)
    words = ["collect", str(one_false), "--without", "median-smoothing", "--because", "J. Doe: a <b>bug</b> | in it"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0
    assert f"{SMOOTHED}: left out by whoever wrote this board" in done.stdout
    assert "these tables replace those with all entrants" in done.stdout
    folder = one_false / "leaderboard"
    board = (folder / "board.md").read_text()
    assert f"**{SMOOTHED}: left out by whoever wrote this board (`robustiqa collect --without`)" in board
    assert "J. Doe: a &lt;b&gt;bug&lt;/b&gt; \\| in it" in board
    assert Store(one_false).read_json("run.json")["board"]["without"] == [SMOOTHED]
    honest, found = (_summary(root) for root in (run, one_false))
    assert found["none"] == honest["none"] | {"rank": "1"}
    gone = {name: text for name, text in found[SMOOTHED].items() if text}
    assert gone.pop("flags") == "left-out"
    assert gone.pop("n_ok") == gone.pop("n_planned") == honest[SMOOTHED]["n_ok"] == "48"
    assert set(gone) <= {"metric", "defense", "dataset", "threat", "standard", "rules", "row"}, "no figure"
    for name in ("empirical", "certified", "threats", "tracks"):
        assert SMOOTHED not in (folder / f"{name}.csv").read_text()
    page = report(one_false).read_text()
    assert "left-out" in page
    assert "left out by whoever wrote this board" in page
    again = CliRunner().invoke(cli, ["reproduce", gone["row"], "--from", str(one_false)])
    assert "left out of this board by whoever wrote it" in again.output
    with pytest.raises(BrokenInvariant, match="finite"):
        collect(one_false)
    assert "left out by" in (folder / "board.md").read_text(), "what is there stays as it was"
    collect(run)
    assert "board" not in Store(run).read_json("run.json")


def _summary(root: Path) -> dict[str, dict[str, str]]:
    """Rows by defence, as they are written."""
    table = pd.read_csv(root / "leaderboard" / "summary.csv", dtype=str, keep_default_na=False)
    return {str(row["defense"]): {str(k): str(v) for k, v in row.items()} for row in table.to_dict("records")}


@pytest.mark.parametrize(("without", "only", "words"), [
    (["median-smothing"], [], "did you mean 'median-smoothing'\\?"),
    (["none"], [], "the unit of all rows"),
    (["median-smoothing"], ["none"], "exclude each other"),
])  # fmt: skip
def test_who_cannot_be_left_out(run: Path, without: list[str], only: list[str], words: str) -> None:
    with pytest.raises(RobustIQAError, match=words):
        collect(run, without=without, only=only)


def test_only_some_entrants(one_false: Path) -> None:
    collect(one_false, only=["none"])
    found = _summary(one_false)
    assert [found[name]["flags"] == "left-out" for name in ("none", SMOOTHED)] == [False, True]


def test_failed_images_of_no_planned_cell_are_listed_last(honest: Honest, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(honest.root, root)
    rows = honest.rows.copy()
    k = first_of(rows, attack_rows(rows))
    rows.loc[k, ["cell", "status", "message"]] = ["nobodys", "error", "made up"]
    write(root, rows)
    with pytest.raises(BrokenInvariant, match="a cell that the plan does not have"):
        collect(root)
    assert pd.read_csv(collect(root, despite_violations=True)["errors"])["cell"].tolist() == ["nobodys"]
