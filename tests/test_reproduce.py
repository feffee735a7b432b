"""A row of a board, by its id: the part of the suite that it needs, the command, and the comparison."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from robustiqa.bench import run_suite, trust
from robustiqa.bench.cli.main import cli
from robustiqa.bench.cli.reproduce import Call
from robustiqa.bench.plan import make_plan, read_run
from robustiqa.bench.store import Store
from robustiqa.bench.suite import load_suite
from robustiqa.leaderboard.rows import Row, compare_rows, find_row, read_rows, with_rows

SUITE = """
schema: 1
name: rows
metrics: [linear]
datasets: ["noise[count=10]"]
defenses: [none, "median-smoothing[n=300,m=15]", gaussian-blur]
certify: {eps: [0.05, 0.1], alpha: 0.01}
attacks:
  - {attack: random-noise, linf: [4/255], l2: [0.05]}
  - {attack: "pgd[steps=2]", linf: [2/255, 4/255], directions: [up, down]}
  - {attack: "eot-pgd[steps=2,draws=2]", l2: [0.05, 0.1], only: certified, directions: [up, down]}
chunk: 4
"""
PLUGINS = ("linear.py", "tiny_bench.py")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def run(linear_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in `work/out` of `work/suite.yml`, typed in `work`."""
    work = tmp_path_factory.mktemp("work")
    (work / "suite.yml").write_text(SUITE)
    plugins = [word for name in PLUGINS for word in ("--plugin", linear_plugin.parent / name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        result = call("run", "--suite", "suite.yml", "--out", "out", *plugins)
        assert result.exit_code == 0, result.output
    return work / "out"


@pytest.fixture
def copy(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run that a test may spoil; what is reproduced runs in this process, which is fast."""

    def inside(made: Call) -> int:
        options = dict(zip(made.words[1::2], made.words[2::2], strict=True))
        where = made.folder or Path.cwd()
        return (
            0
            if run_suite(load_suite(str(where / options["--suite"])), where / options["--out"], progress=False).ok
            else 1
        )

    monkeypatch.setattr(Call, "run", inside)
    shutil.copytree(run.parent, tmp_path / "work")
    return tmp_path / "work" / "out"


def row_of(out: Path, table: str, **values: str) -> Row:
    return next(r for r in read_rows(out) if r.table == table and values.items() <= r.values.items())


def change(out: Path, row: Row, column: str, text: str) -> None:
    """Put another text into a field of a stored table."""
    path = out / "leaderboard" / f"{row.table}.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[frame["row"] == row.id, column] = text
    frame.to_csv(path, index=False, lineterminator="\n")


SMOOTHED = "median-smoothing[m=15,n=300]"
ROWS: dict[str, tuple[dict[str, str], Callable[..., bool]]] = {
    "summary": ({"defense": SMOOTHED}, lambda c: c.defense == SMOOTHED),
    "empirical": (
        {"defense": "gaussian-blur", "attack": "pgd[steps=2]", "direction": "down", "eps": repr(4 / 255)},
        lambda c: (c.defense, c.attack, c.eps, c.direction) == ("gaussian-blur", "pgd[steps=2]", (4 / 255,), "down"),
    ),
    "threats": (
        {"defense": "none", "norm": "linf", "eps": repr(4 / 255), "direction": "up"},
        lambda c: (c.defense, c.norm, c.eps, c.direction) == ("none", "linf", (4 / 255,), "up"),
    ),
    "certified": (
        {"defense": SMOOTHED, "eps": "0.1", "kind": "deployed"},
        lambda c: c.defense == SMOOTHED and (c.kind == "certify" or (c.norm == "l2" and c.eps == (0.1,))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("table", ROWS)
def test_only_the_cells_that_a_row_needs_are_planned(copy: Path, table: str) -> None:
    """They keep their ids, so they are the same work; with them go the scores, also the undefended ones."""
    values, wanted = ROWS[table]
    row = row_of(copy, table, **values)
    result = call("reproduce", row.id, "--from", copy, "--dry-run")
    assert result.exit_code == 0
    planned = make_plan(load_suite(str(copy / "reproduced" / row.id / "suite.yml"))).cells
    scores = (values["defense"], "none")
    expected = {
        c.id for c in read_run(Store(copy))[2].cells if wanted(c) or (c.kind == "score" and c.defense in scores)
    }
    assert {cell.id for cell in planned} == expected


@pytest.mark.parametrize("table", ROWS)
def test_the_same_numbers_come_out(copy: Path, table: str) -> None:
    row = row_of(copy, table, **ROWS[table][0])
    result = call("reproduce", row.id, "--from", copy, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["same"]
    assert found["changed"] == []
    assert found["tolerance"] == 0
    compared = {column["column"]: column["again"] for column in found["columns"]}
    assert set(compared) == set(row.values) - {"row", "rank", "seconds"}
    assert compared == {name: row.values[name] for name in compared}


def test_the_printed_command_works_when_pasted(run: Path, tmp_path: Path) -> None:
    """In a shell, in another folder than the run's, with the plug-in files in it."""
    row = row_of(run, "certified", eps="0.05", kind="population")
    result = call("reproduce", row.id[:6], "--from", run, "--out", tmp_path / "again", "--dry-run")
    assert result.exit_code == 0
    (command,) = result.stdout.splitlines()
    assert all(name in command for name in PLUGINS)
    command = command.replace(" robustiqa run ", f" {sys.executable} -m robustiqa.bench.cli run ")
    done = subprocess.run(command, shell=True, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert find_row(tmp_path / "again", row.id).values == row.values


def test_another_number_is_named_and_fails(copy: Path) -> None:
    row = row_of(copy, "empirical", **ROWS["empirical"][0])
    mean = row.values["gain_mean"]
    change(copy, row, "gain_mean", f"{float(mean) + 1e-5:.8g}")
    result = call("reproduce", row.id, "--from", copy)
    assert result.exit_code == 1
    assert f"gain_mean  {float(mean) + 1e-5:.8g}" in result.stdout
    assert mean in result.stdout
    assert "1 of " in result.stdout
    assert "columns differ in every digit" in result.stdout
    again = call("reproduce", row.id, "--from", copy, "--tolerance", "1e-4")
    assert again.exit_code == 0
    assert (copy / "reproduced" / f"{row.id}-2" / "run.json").is_file()  # the first one's results are not taken


def test_what_is_not_as_it_was_is_said_and_widens_the_tolerance(copy: Path) -> None:
    row = row_of(copy, "empirical", **ROWS["empirical"][0])
    change(copy, row, "gain_mean", f"{float(row.values['gain_mean']) + 1e-5:.8g}")
    for path in (copy / "run.json", copy / "runs" / "0001.json"):
        record = json.loads(path.read_text())
        record["packages"]["torch"] = "1.0"
        record["code"]["digest"] = "older"
        path.write_text(json.dumps(record))
    result = call("reproduce", row.id, "--from", copy)
    assert result.exit_code == 0
    assert "not as in the run: package torch: 1.0, now " in result.stdout
    assert "not as in the run: the code of robustiqa that decides scores has changed" in result.stdout
    assert "columns agree to 0.001" in result.stdout


def test_runs_under_different_conditions_are_told(copy: Path) -> None:
    record = json.loads((copy / "run.json").read_text())
    record["numerics"]["threads"] = 77
    (copy / "runs" / "0000.json").write_text(json.dumps(record))
    row = row_of(copy, "empirical", **ROWS["empirical"][0])
    result = call("reproduce", row.id, "--from", copy)
    assert result.exit_code == 0
    assert "the 2 runs into" in result.stdout
    assert "were not under the same conditions" in result.stdout


def test_rows_of_merged_runs_are_reproduced(copy: Path, linear_plugin: Path) -> None:
    """The plug-in files and conditions are those of the runs that were merged; the rows may be of either suite."""
    merged, other = copy.parent / "merged" / "out", load_suite(str(copy.parent / "suite.yml"))
    other = other.model_copy(update={"defenses": ("none", "jpeg"), "certify": None, "name": "second"})
    run_suite(other, copy.parent / "second", progress=False)
    result = call("collect", copy, copy.parent / "second", "--out", merged)
    assert result.exit_code == 0, result.output
    for table, values in (("certified", ROWS["certified"][0]), ("summary", {"defense": "jpeg"})):
        row = row_of(merged, table, **values)
        found = call("reproduce", row.id, "--from", merged, "--json")
        assert found.exit_code == 0, found.output
        data = json.loads(found.stdout)
        assert data["changed"] == []
        assert {c["column"]: c["again"] for c in data["columns"]}["defense"] == values["defense"]
        assert [data["command"].count(name) for name in PLUGINS] == [1, 1]


def test_a_record_sets_no_other_variables_than_those_of_numbers(copy: Path) -> None:
    record = json.loads((copy / "run.json").read_text())
    record["environment"] |= {"LD_PRELOAD": "evil.so", "MKL_CBWR": "COMPATIBLE", "CUDA_VISIBLE_DEVICES": "7"}
    (copy / "run.json").write_text(json.dumps(record))
    command = call("reproduce", row_of(copy, "summary").id, "--from", copy, "--dry-run").stdout
    assert "MKL_CBWR=COMPATIBLE" in command
    assert "LD_PRELOAD" not in command
    assert "CUDA_VISIBLE_DEVICES" not in command


def test_no_program_comes_from_the_folder_that_a_record_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's record chooses the working folder: modules that lie there are not imported."""
    (tmp_path / "click.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*paths, "."]))
    assert Call(tmp_path, {}, ["--version"]).run() == 0
    assert not (tmp_path / "ran").exists()


def test_a_record_sets_no_variables_that_load_or_write_files(copy: Path) -> None:
    record = json.loads((copy / "run.json").read_text())
    bad = {"OMP_TOOL_LIBRARIES": "evil.so", "CUDNN_LOGDEST_DBG": "/home/me/.profile", "MKL_CBWR": "/tmp/x"}
    record["environment"] |= bad | {"OMP_PLACES": "{0:4}"}
    (copy / "run.json").write_text(json.dumps(record))
    command = call("reproduce", row_of(copy, "summary").id, "--from", copy, "--dry-run").stdout
    assert "OMP_PLACES='{0:4}'" in command
    assert not any(name in command for name in bad)


def test_programs_that_only_a_record_names_do_not_run(
    copy: Path, linear_plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_TRUSTED", set())
    row = row_of(copy, "empirical", **ROWS["empirical"][0])
    refused = call("reproduce", row.id, "--from", copy)
    assert refused.exit_code == 1
    assert "programs that only its record names" in refused.stderr
    assert all(f"/{name}" in refused.stderr for name in PLUGINS)
    assert not (copy / "reproduced" / row.id / "run.json").exists()
    trusting = [word for name in PLUGINS for word in ("--trust", linear_plugin.parent / name)]
    done = call("reproduce", row.id, "--from", copy, *trusting)
    assert done.exit_code == 0, done.output


def test_a_row_without_results_is_not_called_the_same(copy: Path) -> None:
    """Empty fields agree with empty fields."""
    row = row_of(copy, "empirical", **ROWS["empirical"][0])
    change(copy, row, "n_ok", "0")
    result = call("reproduce", row.id, "--from", copy)
    assert result.exit_code == 1
    assert "has no result of any image, so there is nothing to compare" in result.stderr


def test_rows_and_folders_that_are_none(copy: Path, tmp_path: Path) -> None:
    for text, words in (
        ("s-nothing", "is none of its rows"),
        ("e-", "begins several rows"),
        ("", "begins several rows"),
    ):
        result = call("reproduce", text, "--from", copy)
        assert result.exit_code == 1
        assert words in result.stderr
    row = row_of(copy, "summary", defense="none")
    result = call("reproduce", row.id, "--from", copy, "--out", copy)
    assert result.exit_code == 1
    assert "is not empty" in result.stderr
    assert "holds no run.json" in call("reproduce", row.id, "--from", tmp_path).stderr
    shutil.rmtree(copy / "leaderboard")
    assert "has no tables" in call("reproduce", row.id, "--from", copy).stderr


def test_ids_are_made_of_what_a_row_shows() -> None:
    """Not of its place or its figures; eps as a number and as text is the same."""
    key = {"metric": "m", "defense": "d", "dataset": "s", "norm": "l2", "eps": 4 / 255, "kind": "population"}
    (one,) = with_rows("certified", pd.DataFrame([key | {"rms": 1.0}]), 0)["row"]
    assert one == "c-0a2cedafbc"
    texts = pd.DataFrame([key | {"eps": "0.2"}, key | {"eps": repr(4 / 255), "rms": "7"}])
    assert with_rows("certified", texts, 0)["row"].tolist()[1] == one
    changes = {"metric": "x", "defense": "x", "dataset": "x", "norm": "linf", "eps": 0.1, "kind": "deployed"}
    others = pd.DataFrame([key | {name: value} for name, value in changes.items()])
    ids = {*with_rows("certified", others, 0)["row"], *with_rows("certified", pd.DataFrame([key]), 1)["row"]}
    assert len(ids) == 7
    assert one not in ids


def test_every_row_has_an_id_of_its_own_as_the_last_column(run: Path) -> None:
    ids = []
    for table in ("summary", "empirical", "threats", "certified"):
        frame = pd.read_csv(run / "leaderboard" / f"{table}.csv")
        assert frame.columns[-1] == "row"
        ids += frame["row"].tolist()
    assert len(set(ids)) == len(ids) > 20
    assert [row.id for row in read_rows(run)] == ids


def test_a_board_without_ids_gets_the_same_ones(copy: Path) -> None:
    before = {row.id for row in read_rows(copy)}
    for path in (copy / "leaderboard").glob("*.csv"):
        pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="row", errors="ignore").to_csv(
            path, index=False
        )
    assert {row.id for row in read_rows(copy)} == before


@pytest.mark.parametrize("schema", ["schema-1", "schema-2"])
def test_rows_of_older_runs_are_found(schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ids in their tables and without most of today's record; what has changed since is not known."""
    shutil.copytree(Path(__file__).parent / "golden" / schema, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    rows = list(read_rows(Path("run")))
    assert len({row.id for row in rows}) == len(rows) >= 5
    result = call("reproduce", rows[-1].id, "--from", "run", "--dry-run")
    folder = f"run/reproduced/{rows[-1].id}"
    assert f"robustiqa run --suite {folder}/suite.yml --out {folder}" in result.stdout
    assert load_suite(f"{folder}/suite.yml").defenses == (rows[-1].values["defense"],)


@pytest.mark.parametrize(("stored", "again", "tolerance", "same"), [
    ("0.5", "0.5", 0.0, True),
    ("0.5", "0.500001", 0.0, False),
    ("0.5", "0.5009", 1e-3, True),
    ("0.5", "0.5011", 1e-3, False),
    ("1000", "1000.9", 1e-3, True),
    ("1000", "1001.1", 1e-3, False),
    ("", "", 1e-3, True),
    ("", "0", 1e-3, False),
    ("inf", "inf", 0.0, True),
    ("inf", "5", 1e-3, False),
    ("incomplete", "", 1e-3, False),
])  # fmt: skip
def test_when_two_fields_are_the_same(stored: str, again: str, tolerance: float, same: bool) -> None:
    a, b = (Row("s-1", "summary", {"rank": rank, "x": text}) for rank, text in (("1", stored), ("2", again)))
    (column,) = compare_rows(a, b, tolerance)
    assert (column.column, column.same) == ("x", same)
    (missing,) = compare_rows(a, Row("s-1", "summary", {}), tolerance)
    assert missing.same == (stored == "")
