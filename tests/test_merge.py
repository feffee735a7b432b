"""`collect A B --out D`: every cell once, and nothing that does not belong together."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from robustiqa.bench import run_suite
from robustiqa.bench.agreement import agreement
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.merge import MAP, merge_runs
from robustiqa.bench.plan import plan_from_json
from robustiqa.bench.records import decode, encode
from robustiqa.bench.registry import registry
from robustiqa.bench.status import status
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite
from robustiqa.leaderboard import collect

BASE = {
    "name": "whole",
    "metrics": ["linear"],
    "datasets": ["noise"],
    "defenses": ["none", "jpeg", "median-smoothing[n=60,m=11]"],
    "certify": {"eps": [0.05]},
    "attacks": [{"attack": "random-noise", "linf": ["4/255"]}, {"attack": "fgsm", "linf": ["4/255"]}],
    "chunk": 5,
}


def run(out: Path, **changes: Any) -> Path:
    run_suite(Suite.model_validate(BASE | changes), out, progress=False)
    return out


@pytest.fixture(scope="module")
def runs(linear_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of everything, and the same on two machines: their plans share the undefended scores."""
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    folder = tmp_path_factory.mktemp("runs")
    return {
        "whole": run(folder / "whole"),
        "a": run(folder / "a", defenses=["none", "jpeg"]),
        "b": run(folder / "b", defenses=["median-smoothing[n=60,m=11]"]),
    }


def tables(root: Path) -> dict[str, pd.DataFrame]:
    found = {p.stem: pd.read_csv(p) for p in (root / "leaderboard").glob("*.csv")}
    return {name: table.drop(columns="seconds", errors="ignore") for name, table in found.items()}


def assert_same_tables(first: Path, second: Path) -> None:
    a, b = tables(first), tables(second)
    assert a.keys() == b.keys()
    for name in a:
        pd.testing.assert_frame_equal(a[name], b[name], check_exact=True)


def copies(runs: dict[str, Path], tmp_path: Path, *names: str) -> list[Path]:
    return [Path(shutil.copytree(runs[name], tmp_path / name)) for name in names]


def some_cell(root: Path, **where: Any) -> str:
    plan = plan_from_json(Store(root).read_json("plan.json"))
    return next(c.id for c in plan.cells if all(getattr(c, k) == v for k, v in where.items()))


def test_parts_give_the_tables_of_the_whole(runs: dict[str, Path], tmp_path: Path) -> None:
    merged = merge_runs([runs["a"], runs["b"]], tmp_path / "d")
    collect(tmp_path / "d")
    assert_same_tables(tmp_path / "d", runs["whole"])
    assert set(merged.cells) == set(Store(runs["whole"]).snapshot().results)
    assert (merged.failed, merged.missing) == ({}, ())
    assert any("3 cells are in several" in note for note in merged.notes), merged.notes
    record = Store(tmp_path / "d").read_json("run.json")
    assert [Path(tmp_path / "d" / part["folder"]).resolve() for part in record["merged"]] == [runs["a"], runs["b"]]
    assert [part["run"]["suite"]["defenses"] for part in record["merged"]] == [
        BASE["defenses"][:2],
        BASE["defenses"][2:],
    ]
    assert json.loads((tmp_path / "d" / MAP).read_text())["cells"] == merged.cells
    # Again, now that the outcome is there; and with more than was there before.
    assert merge_runs([runs["a"], runs["b"]], tmp_path / "d").cells == merged.cells
    collect(tmp_path / "d")
    assert_same_tables(tmp_path / "d", runs["whole"])


def test_the_outcome_may_be_one_of_the_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    a, b = copies(runs, tmp_path, "a", "b")
    for _ in range(2):
        merge_runs([a, b, a], a)
        collect(a)
        assert_same_tables(a, runs["whole"])


def test_a_folder_with_another_run_is_not_overwritten(runs: dict[str, Path], tmp_path: Path) -> None:
    (whole,) = copies(runs, tmp_path, "whole")
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    with pytest.raises(BadData, match="not among those to be merged"):
        merge_runs([runs["a"], runs["b"]], whole)
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before


def _change(root: Path, cell: str, **values: Any) -> None:
    store = Store(root)
    store.write_cell(cell, [row | values for row in store.read_cell(cell).to_pylist()])


def test_results_that_do_not_agree_are_refused_and_nothing_is_written(runs: dict[str, Path], tmp_path: Path) -> None:
    a, b = copies(runs, tmp_path, "a", "b")
    cell = some_cell(a, kind="score", defense="none")
    clean = Store(a).read_cell(cell)["clean"].to_pylist()[0]
    _change(b, cell, clean=clean + 0.01)
    with pytest.raises(BadData, match=rf"cell {cell} in '.*a' and '.*b': column clean of image 'image-0' is {clean}"):
        merge_runs([a, b], tmp_path / "d")
    assert not (tmp_path / "d").exists()
    assert (
        merge_runs([a, b], tmp_path / "d", tolerance=1.0).notes[-1].startswith("1 results of the same cell differ by")
    )


def test_rounding_is_no_disagreement_and_times_are_none(runs: dict[str, Path], tmp_path: Path) -> None:
    a, b = copies(runs, tmp_path, "a", "b")
    cell = some_cell(a, kind="score", defense="none")
    store = Store(b)
    rows = store.read_cell(cell).to_pylist()
    store.write_cell(cell, [row | {"clean": row["clean"] * (1 + 1e-7), "seconds": 99.0, "batch": 1} for row in rows])
    merged = merge_runs([a, b], tmp_path / "d")
    assert any("differ by rounding, by 1e-07 of the scale" in note for note in merged.notes)
    assert Store(tmp_path / "d").read_cell(cell).equals(Store(a).read_cell(cell))
    with pytest.raises(BadData, match="do not agree"):
        merge_runs([a, b], tmp_path / "exact", tolerance=0)
    with pytest.raises(BadParameter, match="tolerance"):
        merge_runs([a, b], tmp_path / "exact", tolerance=-1)


def test_a_result_takes_the_place_of_an_error(runs: dict[str, Path], tmp_path: Path) -> None:
    a, b = copies(runs, tmp_path, "a", "b")
    shared, lost = some_cell(a, kind="score", defense="none"), some_cell(a, kind="score", defense="jpeg")
    for cell in (shared, lost):
        Store(a).forget(cell)
        Store(a).write_error(cell, {"error": "out of memory"})
    merged = merge_runs([a, b], tmp_path / "d")
    assert merged.failed == {lost: "out of memory"}
    store = Store(tmp_path / "d")
    assert store.done(shared)
    assert store.snapshot().errors == {lost}
    summary = pd.read_csv(collect(tmp_path / "d")["summary"]).set_index("defense")
    assert "incomplete" in str(summary.loc["jpeg", "flags"])
    # The missing one is computed elsewhere later on.
    merged = merge_runs([a, b, runs["whole"]], tmp_path / "d")
    assert (merged.failed, store.snapshot().errors) == ({}, frozenset())
    collect(tmp_path / "d")
    assert_same_tables(tmp_path / "d", runs["whole"])


def test_a_cell_with_fewer_failed_images_is_preferred(runs: dict[str, Path], tmp_path: Path) -> None:
    a, b = copies(runs, tmp_path, "a", "b")
    cell = some_cell(a, kind="score", defense="none")
    rows = Store(a).read_cell(cell).to_pylist()
    bad = {"status": "error", "message": "no answer", "clean": None, "clean_lo": None, "clean_hi": None}
    Store(a).write_cell(cell, [rows[0] | bad, *rows[1:]])
    assert merge_runs([a, b], tmp_path / "d").cells[cell] == 1
    assert Store(tmp_path / "d").read_cell(cell)["status"].to_pylist() == ["ok"] * len(rows)


def test_damaged_and_missing_results_are_said(runs: dict[str, Path], tmp_path: Path) -> None:
    a, b = copies(runs, tmp_path, "a", "b")
    damaged, missing = some_cell(a, kind="score", defense="jpeg"), some_cell(b, kind="certify")
    path = Store(a).path(damaged)
    path.write_bytes(path.read_bytes()[:-9])
    Store(b).forget(missing)
    merged = merge_runs([a, b], tmp_path / "d")
    assert set(merged.missing) == {damaged, missing}
    assert any("1 results in" in note and damaged in note for note in merged.notes)


@pytest.mark.parametrize(("changes", "why"), [
    ({"seed": 1}, "seeds 0 and 1"), ({"chunk": 4}, r"other chunks \(5 and 4 images\)"),
])  # fmt: skip
def test_the_same_work_under_other_ids_is_refused(
    runs: dict[str, Path], tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    other = run(tmp_path / "other", **(changes | {"defenses": ["none"]}))
    with pytest.raises(BadData, match=f"count images twice .*{why}"):
        merge_runs([runs["a"], other], tmp_path / "d")


def test_code_of_another_version_is_told_from_a_seed(runs: dict[str, Path], tmp_path: Path) -> None:
    """As after an update of the program: all ids of one of the runs are others, and its record says the code."""
    (a,) = copies(runs, tmp_path, "a")
    for name in ("plan.json", "run.json"):
        data = json.loads((a / name).read_text())
        for cell in data["cells"] if name == "plan.json" else ():
            cell["id"] += "-old"
        if name == "run.json":
            data["code"]["digest"] = "0123"
        (a / name).write_text(json.dumps(data))
    with pytest.raises(BadData, match=r"count images twice.*code of robustiqa that decides scores has changed"):
        merge_runs([runs["a"], a], tmp_path / "d")


def test_a_folder_that_no_run_has_written_is_no_target(runs: dict[str, Path], tmp_path: Path) -> None:
    for content in ("[]", '{"merged": [7]}', '{"merged": 7}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(BadData, match=r"run\.json.* is damaged"):
            merge_runs([runs["a"], runs["b"]], tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "leaderboard").symlink_to(runs["whole"] / "leaderboard")
    with pytest.raises(BadData, match="leaderboard' is a link"):
        collect(tmp_path)


def test_one_name_for_other_images_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    """Folders of the same path on two machines need not hold the same images."""
    (b,) = copies(runs, tmp_path, "b")
    plan = json.loads((b / "plan.json").read_text())
    plan["datasets"] = [[name, "0" * 16] for name, _ in plan["datasets"]]
    (b / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(BadData, match="data set 'noise' is not the same"):
        merge_runs([runs["a"], b], tmp_path / "d")


def test_other_suites_are_united(runs: dict[str, Path], tmp_path: Path) -> None:
    """Another metric with another defence and seed: its undefended scores stay the unit only, and the rest is said."""
    pair = {"metrics": ["linear[scale=2.0]"], "defenses": ["jpeg"], "certify": None, "name": "other", "seed": 3}
    other = run(tmp_path / "other", **pair)
    merged = merge_runs([runs["a"], other], tmp_path / "d")
    assert any("seed: 0, now 3" in note for note in merged.notes)
    summary = pd.read_csv(collect(tmp_path / "d")["summary"])
    wanted = {("linear", "none"), ("linear", "jpeg"), ("linear[scale=2.0]", "jpeg")}
    assert set(zip(summary["metric"], summary["defense"], strict=True)) == wanted
    assert "# whole + other" in (tmp_path / "d" / "leaderboard" / "board.md").read_text()


def test_what_was_absent_on_one_machine_is_not_left_out(runs: dict[str, Path], tmp_path: Path) -> None:
    (a,) = copies(runs, tmp_path, "a")
    plan = json.loads((a / "plan.json").read_text())
    plan["skipped"] = [["median-smoothing[m=11,n=60] on linear", "not here"], ["metric gone", "nowhere"]]
    (a / "plan.json").write_text(json.dumps(plan))
    merge_runs([a, runs["b"]], tmp_path / "d")
    assert Store(tmp_path / "d").read_json("plan.json")["skipped"] == [["metric gone", "nowhere"]]


def test_images_travel_along(runs: dict[str, Path], tmp_path: Path) -> None:
    a, b = copies(runs, tmp_path, "a", "b")
    cell = some_cell(b, kind="score", defense="median-smoothing[m=11,n=60]")
    image = np.random.default_rng(0).random((3, 16, 16), np.float32)
    Store(b).write_images(cell, {"x": image})
    for _ in range(2):
        merge_runs([a, b], tmp_path / "d")
        assert np.array_equal(Store(tmp_path / "d").read_images(cell)["x"], image)
        # A stranger's link is not followed into what is passed on.
        (tmp_path / "secret").write_text("mine")
        with contextlib.suppress(FileExistsError):
            (b / "images" / cell / "link.png").symlink_to(tmp_path / "secret")
    assert len(list((tmp_path / "d" / "images" / cell).iterdir())) == 1


def test_the_command(runs: dict[str, Path], tmp_path: Path) -> None:
    both = [str(runs["a"]), str(runs["b"])]
    done = CliRunner().invoke(cli, ["collect", *both])
    assert done.exit_code == 1
    assert "say with --out" in done.output
    done = CliRunner().invoke(cli, ["collect", *both, "--out", str(tmp_path / "d")])
    assert done.exit_code == 0, done.output
    assert "note: 3 cells are in several of the runs" in done.output
    assert str(tmp_path / "d" / "leaderboard" / "summary.csv") in done.output
    assert status(tmp_path / "d").total("done") == len(Store(tmp_path / "d").snapshot().results)
    done = CliRunner().invoke(cli, ["collect", str(tmp_path / "nowhere"), *both, "--out", str(tmp_path / "e")])
    assert "holds no run.json" in done.output


ROWS = [{"cell": "c", "image": str(k), "status": "ok", "clean": 50.0 + k, "gain": 1e-5 * k, "eps": 0.1, "queries": k,
         "hi": float("inf"), "psnr": None} for k in range(4)]  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), [
    ({}, ""),
    ({"gain": 1e-4}, ""),  # small beside the scores it is a difference of
    ({"gain": 0.1}, "column gain of image '1'"),
    ({"eps": 0.1001}, "column eps"),
    ({"queries": 7}, "column queries of image '1' is 1 and 7"),
    ({"hi": 99.0}, "column hi of image '1' is inf and 99.0"),
    ({"psnr": 3.0}, "column psnr of image '1' is empty and 3.0"),
    ({"image": "x"}, "column image of image '1' is '1' and 'x'"),
    ({"status": "error"}, ""),
])  # fmt: skip
def test_agreement_by_column(change: dict[str, Any], problem: str) -> None:
    other = [row | (change if k == 1 else {}) for k, row in enumerate(ROWS)]
    found = agreement(*(decode(encode(rows), "c.arrow.gz") for rows in (ROWS, other)))
    assert found.problem.startswith(problem)
    assert bool(found.problem) == bool(problem)
    assert (found.largest == 0) == (change in ({}, {"status": "error"}))
