"""Boards that are published: what is copied, what is refused, and what a README shows of them."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from robustiqa.bench import run_suite
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.measures import srocc
from robustiqa.bench.registry import registry
from robustiqa.leaderboard.brief import brief, sections
from robustiqa.leaderboard.brief_plot import plot_brief
from robustiqa.leaderboard.compare import paired, srocc_interval
from robustiqa.leaderboard.publish import BEGIN, END, KEPT, publish, restore, write_brief
from robustiqa.leaderboard.report.frames import read_table
from robustiqa.leaderboard.results import Group
from small_runs import FAULTS, tiny
from support import example


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of two defences, made beside its results: published records name the folder as seen from those."""
    registry.load_file(FAULTS)
    out = tmp_path_factory.mktemp("finished") / "run"
    with contextlib.chdir(out.parent):
        run_suite(tiny(), out, progress=False)
    return out


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test publishes from the folder of this file, whose name is in the record as that of the plug-in."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


def readme(folder: Path) -> Path:
    path = folder / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    return path


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_only_records_are_published_and_they_give_the_same_tables(finished: Path, tmp_path: Path) -> None:
    assert (finished / "job.json").is_file(), "names hosts"
    out = publish([finished], tmp_path / "board")
    assert {path.name for path in out.iterdir()} == set(KEPT)
    assert {path.name for path in tmp_path.iterdir()} == {"board"}
    assert [path.name for path in (out / "runs" / "run").iterdir()] == ["0001.json"], "of the run, not of the union"
    result = CliRunner().invoke(cli, ["collect", str(out)])
    assert result.exit_code == 0, result.output
    for path in (finished / "leaderboard").glob("*.csv"):
        assert (out / "leaderboard" / path.name).read_bytes() == path.read_bytes()


def test_a_board_is_replaced_as_a_whole(finished: Path, tmp_path: Path) -> None:
    out = publish([finished], tmp_path / "board")
    (out / "cells" / "of-before.arrow.gz").write_bytes(b"")
    (out / "notes.md").write_text("mine")
    publish([finished], out)
    assert not (out / "cells" / "of-before.arrow.gz").exists()
    assert (out / "notes.md").read_text() == "mine"


def test_a_board_grows_from_what_was_published(finished: Path, tmp_path: Path) -> None:
    """Two runs, published and made two again, are published as before; so a third one can join them elsewhere."""
    other = tmp_path / "other"
    with contextlib.chdir(tmp_path):
        run_suite(tiny(name="second", defenses=["none", "jpeg"], attacks=[], certify=None), other, progress=False)
    board = publish([finished, other], tmp_path / "board")
    again = [restore(board, name, tmp_path / "again" / name) for name in ("run", "other")]
    for run, before in zip(again, (finished, other), strict=True):
        plan = json.loads((run / "plan.json").read_text())
        held = {path.name.removesuffix(".arrow.gz") for path in (run / "cells").iterdir()}
        assert {cell["id"] for cell in plan["cells"]} == held
        assert json.loads((run / "run.json").read_text()) == json.loads((before / "run.json").read_text())
    second = publish(again, tmp_path / "second")
    for folder in (board, second):
        assert CliRunner().invoke(cli, ["collect", str(folder)]).exit_code == 0
    tables = [files(folder / "leaderboard") for folder in (board, second)]
    assert tables[0].keys() == tables[1].keys()
    assert {name for name in tables[0] if name.endswith(".csv") and tables[0][name] != tables[1][name]} == set()
    assert files(board / "cells") == files(second / "cells")
    assert files(board / "runs") == files(second / "runs")


def test_restoring_says_what_there_is(finished: Path, tmp_path: Path) -> None:
    board = publish([finished], tmp_path / "board")
    with pytest.raises(BadParameter, match="no run 'clive': it unites run"):
        restore(board, "clive", tmp_path / "again")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.md").write_text("mine")
    with pytest.raises(BadData, match="not empty"):
        restore(board, "run", tmp_path / "full")


def test_what_is_not_finished_is_refused(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    next((run / "cells").iterdir()).unlink()
    with pytest.raises(BadData, match="1 cell of 15 without a result"):
        publish([run], tmp_path / "board")
    assert not any((tmp_path / "board").iterdir())


@pytest.mark.parametrize("name", ["home", "data"])
def test_paths_of_the_machine_are_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    monkeypatch.setenv("ROBUSTIQA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    record = json.loads((run / "run.json").read_text())
    record["arguments"] = ["run", "--metric", f"scnn[weights={tmp_path / name}/scnn.pkl]"]
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(BadData, match=f"run.json holds '{tmp_path / name}'"):
        publish([run], tmp_path / "board")


def test_a_run_made_far_from_its_results_is_refused(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"folder": str(Path.cwd())}))
    with pytest.raises(BadData, match="run again in a folder that holds the results"):
        publish([run], tmp_path / "board")


def test_the_readme_gets_the_rows_of_the_board(finished: Path, tmp_path: Path) -> None:
    out, page = publish([finished], tmp_path / "board"), readme(tmp_path)
    write_brief(out, page)
    text, once = page.read_text(encoding="utf-8"), files(tmp_path)
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    summary = pd.read_csv(out / "leaderboard" / "summary.csv", keep_default_na=False)
    tracks = pd.read_csv(out / "leaderboard" / "tracks.csv", keep_default_na=False)
    mine = tracks[tracks["track"] == "empirical-linf"]
    assert len(mine) == len(summary)
    for row in mine.to_dict("records"):
        (line,) = [line for line in text.splitlines() if line.startswith("|") and f"`{row['defense']}`" in line]
        assert f"{abs(row['value']):.2f}" in line
        assert line.split("|")[1].split()[0] == str(row["rank"])
    write_brief(out, page)
    assert files(tmp_path) == once, "the same bytes"


def test_a_readme_without_a_place_for_it_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"{BEGIN}\nno end\n")
    with pytest.raises(BadParameter, match="no place for the board"):
        write_brief(publish([finished], tmp_path / "board"), tmp_path / "README.md")


def group(photographs: int, versions: int, seed: int) -> Group:
    rng = np.random.default_rng(seed)
    n = photographs * versions
    truth = rng.normal(size=n).round(1)
    clean = pd.DataFrame({
        "image": [f"i{k}" for k in rng.permutation(n)], "reference": [f"r{k // versions}" for k in range(n)],
        "quality": truth + rng.normal(size=n).round(1), "truth": truth,
    })  # fmt: skip
    return Group("m", "none", "d", (0.0, 1.0), "", 1.0, clean, clean, ())


@pytest.mark.parametrize(("photographs", "versions"), [(40, 1), (8, 2)])
def test_the_interval_of_srocc_is_that_of_compare(photographs: int, versions: int) -> None:
    """All resamples at once, against one after the other."""
    one = group(photographs, versions, photographs)
    table = one.clean.set_index("image").sort_index()
    slow = paired(table, lambda t: srocc(t["quality"].to_numpy(), t["truth"].to_numpy()), "srocc")
    found = srocc_interval(one)
    ends = np.clip([slow.lo, slow.hi], -1, 1)
    assert (found.value, found.lo, found.hi) == pytest.approx((slow.value, *ends), abs=1e-12)


def test_a_board_without_certificates_has_half_a_picture(finished: Path, tmp_path: Path) -> None:
    table = brief(finished)
    certified = read_table(finished / "leaderboard" / "certified.csv")
    both = plot_brief(table, certified, tmp_path / "both.png")
    alone = plot_brief(table, certified.iloc[:0].astype(object), tmp_path / "alone.png")
    for path in (both, alone):
        with Image.open(path) as picture:
            assert picture.width > 1000
    assert both.read_bytes() != alone.read_bytes()


def test_hostile_names_stay_text(finished: Path, tmp_path: Path) -> None:
    out = publish([finished], tmp_path / "board")
    CliRunner().invoke(cli, ["collect", str(out)])
    table = brief(out)
    table["defense"] = "<script>|](x)"
    text = sections(table)
    assert "<script>" not in text
    assert "&lt;script&gt;\\|" in text


def test_what_is_absent_is_said_and_the_rest_is_run_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make board` in a folder with a suite that can run, one without its weights and one without its data."""
    registry.load_file(FAULTS)
    script = example("board")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTIQA_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(script, "SHIPPED", ())
    script.SUITES.mkdir(parents=True)
    absent = {"datasets": ["clive"], "absent": "skip"}
    for name, changes in (("specks", {}), ("clive", absent), ("scnn", absent)):
        (script.SUITES / f"{name}.yml").write_text(tiny(**changes).model_dump_json(by_alias=True))
    assert script.run(1, "inline") == 0
    said = capsys.readouterr().out
    assert "left out: scnn: there is no scnn.pkl" in said
    assert "left out: clive: suite 'tiny' has nothing to run on this machine: data set clive" in said
    assert "specks: 15 cells computed, 0 already complete, 0 failed" in said
    assert "| `median-smoothing[m=9,n=40]` |" in said
    assert (script.UNITED / "report.html").is_file()
    assert script.run(1, "inline") == 0
    assert "specks: 0 cells computed, 15 already complete" in capsys.readouterr().out


def test_weights_are_linked_from_the_folder_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = example("board")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTIQA_DATA", str(tmp_path / "data"))
    assert not script.has_weights("scnn.pkl")
    held = tmp_path / "data" / "weights" / "dbcnn_scnn" / "scnn.pkl"
    held.parent.mkdir(parents=True)
    held.write_bytes(b"weights")
    assert script.has_weights("scnn.pkl")
    assert Path("scnn.pkl").read_bytes() == b"weights"
