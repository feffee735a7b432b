"""A run as pandas frames: types, figures, filters, what a notebook shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from robustiqa.attacks import load_attack
from robustiqa.bench import L2, load_metric
from robustiqa.bench.errors import BadData, BadParameter, UnknownName
from robustiqa.bench.records import SUFFIX
from robustiqa.bench.run import RunResult
from robustiqa.bench.store import Store
from robustiqa.defenses import load_defense
from robustiqa.leaderboard import LoadedResults, collect, load_results
from support import example

DEFENSES = ("none", "dms-iqa[sigma=0.12]", "jpeg[quality=50]")
EVIL = "<script>alert(1)</script>"
FAILED = "attack-0-2-2"
UNSCORED = "score-1-2-0"
"""Cells in which an image has no result."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up run of two metrics in which an image of an attack failed, and one of the clean scores."""
    root = tmp_path_factory.mktemp("loaded") / "run"
    example("made_up_board").make(root, DEFENSES, ("tiny-iqa", "lip-iqa"), 7, 20, name=EVIL)
    store = Store(root)
    keep = ("cell", "kind", "metric", "defense", "dataset", "attack", "norm", "eps", "direction", "image", "reference",
            "truth", "truth_name")  # fmt: skip
    for cell in (FAILED, UNSCORED):
        rows = store.read_cell(cell).to_pylist()
        rows[3] = {name: rows[3][name] for name in keep} | {"status": "error", "message": "it was broken"}
        store.write_cell(cell, rows)
    collect(root)
    return root


@pytest.fixture(scope="module")
def results(root: Path) -> LoadedResults:
    return load_results(root)


def test_every_table_has_its_figures_as_numbers(results: LoadedResults, root: Path) -> None:
    assert results.names == sorted(p.stem for p in (root / "leaderboard").glob("*.csv"))
    for name in results.names:
        frame = results.table(name)
        text = pd.read_csv(root / "leaderboard" / f"{name}.csv", dtype=str, keep_default_na=False)
        assert list(frame.columns) == list(text.columns)
        assert {str(t) for t in frame.dtypes} <= {"string", "Int64", "boolean", "float64"}
        for column in frame:
            for value, written in zip(frame[column], text[column], strict=True):
                if written in ("", "nan"):
                    assert pd.isna(value) or value == ""
                elif str(frame[column].dtype) in ("Int64", "float64"):
                    assert float(value) == float(written)
                else:
                    assert str(value) == written


def test_kinds_of_columns(results: LoadedResults) -> None:
    summary = results.summary.dtypes.astype(str)
    assert summary[["rank", "n_ok", "n_planned", "worst_gain_mean", "flags", "standard"]].tolist() == [
        "Int64", "Int64", "Int64", "float64", "string", "boolean",
    ]  # fmt: skip
    assert results.certified["violations"].dtype == "Int64"
    assert results.certified["eps"].tolist()[0] == 0.03
    assert results.tracks["reason"].isna().sum() == 0, "text that does not apply is empty"
    assert results.checks["raised"].dtype == "boolean"
    assert results.errors["message"].tolist() == ["it was broken"] * 2
    assert results.errors["eps"].isna().tolist() == [False, True], "a score has no budget"
    assert not results.threats.empty
    assert not results.neighbours.empty
    assert not results.stability.empty


def test_frames_are_copies(results: LoadedResults) -> None:
    frame = results.summary
    frame["rank"] = 0
    assert (results.summary["rank"].dropna() > 0).all()


def test_tables_that_are_written_only_at_need_are_empty_frames(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "leaderboard", tmp_path / "leaderboard")
    for name in ("run.json", "plan.json"):
        shutil.copy(root / name, tmp_path)
    for name in ("errors", "checks"):
        (tmp_path / "leaderboard" / f"{name}.csv").unlink()
    results = load_results(tmp_path)
    assert (len(results.errors), len(results.checks)) == (0, 0)
    assert results.checks["raised"].dtype == "boolean"
    assert results.errors["message"].dtype == "string"


def test_rows_have_the_figures_of_the_tables(results: LoadedResults) -> None:
    """The mean of the rows in units of R is what `empirical.csv` says, over the images that have a result."""
    rows = results.rows("attack")
    assert len(rows) == 2 * 3 * 7 * 20
    keys = ["metric", "defense", "dataset", "attack", "norm", "eps", "direction"]
    means = (rows["gain"] / rows["unit"]).groupby([rows[k] for k in keys]).mean().rename("again").reset_index()
    both = results.empirical.merge(means, on=keys, validate="one_to_one")
    assert len(both) == len(results.empirical) == 42
    np.testing.assert_allclose(both["gain_mean"], both["again"], rtol=1e-5)
    assert rows.dtypes.astype(str)[["gain", "forwards", "message"]].tolist() == ["float64", "Int64", "string"]


def test_an_image_that_failed_is_a_row_without_figures(results: LoadedResults) -> None:
    rows = results.rows("attack")
    failed = rows[rows["status"] != "ok"]
    assert failed[["cell", "message"]].to_numpy().tolist() == [[FAILED, "it was broken"]]
    assert failed["gain"].isna().all()


def test_filters(results: LoadedResults) -> None:
    jpeg = results.rows("attack", defense="jpeg", metric="tiny-iqa", attack=["eot-pgd", "fgsm"])
    assert set(jpeg["defense"]) == {"jpeg[quality=50]"}
    assert set(jpeg["attack"]) == {"eot-pgd", "fgsm"}
    assert set(jpeg["metric"]) == {"tiny-iqa"}
    assert len(jpeg) == 3 * 20
    assert len(results.rows("attack", eps="4/255", defense="none")) == 2 * 4 * 20
    assert set(results.rows("attack", eps=[0.05, "0.12"], norm="l2")["eps"]) == {0.05, 0.12}
    assert len(results.rows("attack", defense=["none", "dms-iqa[sigma=0.12]"], direction="up")) == 2 * 2 * 7 * 20


def test_only_the_cells_that_fit_are_read(results: LoadedResults, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Store.read_rows
    monkeypatch.setattr(Store, "read_rows", lambda self, cells: original(self, read.extend(cells) or list(read)))
    results.rows("score", defense="none", metric="lip-iqa")
    assert read == ["score-1-0-0"]


def test_certificates_join_with_their_table(results: LoadedResults) -> None:
    rows = results.rows("certify")
    assert set(rows["kind"]) == {"population", "deployed"}
    shifts = pd.DataFrame({"up": rows["hi"] - rows["score"], "down": rows["score"] - rows["lo"]})
    delta = shifts.max(axis=1) / rows["unit"]
    keys = ["metric", "defense", "dataset", "norm", "eps", "kind"]
    mean = delta.groupby([rows[k] for k in keys]).mean().rename("again").reset_index()
    both = results.certified.merge(mean, on=keys, validate="one_to_one")
    assert len(both) == len(results.certified) == 2 * 5 * 2
    np.testing.assert_allclose(both["certified_delta_mean"], both["again"], rtol=1e-5)


def test_scores_and_checks(results: LoadedResults) -> None:
    assert len(results.rows("score")) == 2 * 3 * 20
    checks = results.rows("check", defense="jpeg")
    assert checks["raised"].dtype == "boolean"
    assert set(checks.loc[checks["raised"], "check"]) == {"order-broken"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"defense": "dms"}, "unknown defence of this run's attack rows 'dms': did you mean 'dms-iqa"),
        ({"metric": "tiny"}, "tiny-iqa"),
        ({"kind": "images"}, "kind of rows"),
        ({"kind": "score", "attack": "pgd"}, "known are none"),
    ],
)
def test_what_is_not_there_is_met_with_the_nearest(results: LoadedResults, given: dict, says: str) -> None:
    with pytest.raises(UnknownName, match=says):
        results.rows(**given)


def test_budgets_that_are_not_there(results: LoadedResults) -> None:
    with pytest.raises(BadParameter, match=r"no row has the budget 0.3: there are 0.0156863, 0.05, 0.12"):
        results.rows("attack", eps=0.3)
    with pytest.raises(BadParameter, match="no budget"):
        results.rows("score", eps=0.3)
    with pytest.raises(UnknownName, match="did you mean 'tracks'"):
        results.table("track")


def test_folders_that_are_no_results(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"run\.json"):
        load_results(tmp_path)
    for name in ("run.json", "plan.json"):
        shutil.copy(root / name, tmp_path)
    with pytest.raises(BadData, match="has no tables"):
        load_results(tmp_path)
    shutil.copytree(root / "leaderboard", tmp_path / "leaderboard")
    (tmp_path / "leaderboard" / "summary.csv").write_text("rank,metric\none,tiny-iqa\n")
    with pytest.raises(BadData, match=r"summary\.csv' cannot be read"):
        load_results(tmp_path).summary  # noqa: B018


def test_what_a_notebook_shows_is_escaped(results: LoadedResults, root: Path) -> None:
    shown = results._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "dms-iqa[sigma=0.12]" in shown
    assert "<NA>" not in shown
    assert "summary" in repr(results)
    run = RunResult(root, {}, 3, 1, {"a": f"bad {EVIL}"}, 2, (("x", EVIL),) * 20)
    assert "<script>" not in run._repr_html_()
    assert "1 failed" in run._repr_html_()
    assert "and 11 more" in run._repr_html_()
    assert load_results(run).names == results.names


def test_attacked_images_are_found_by_their_row(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "run")
    image = np.full((3, 4, 5), 0.25, dtype=np.float32)
    results = load_results(tmp_path / "run")
    row = results.rows("attack", defense="jpeg").iloc[0]
    with pytest.raises(BadData):
        results.adversarial(row["cell"], row["image"])
    Store(tmp_path / "run").write_images(row["cell"], {row["image"]: image})
    np.testing.assert_array_equal(results.adversarial(row["cell"], row["image"]), image)
    with pytest.raises(BadData, match="has no image 'other'"):
        results.adversarial(row["cell"], "other")


def test_a_damaged_cell_is_an_error(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "run")
    (tmp_path / "run" / "cells" / f"score-0-0-0{SUFFIX}").write_bytes(b"no record")
    results = load_results(tmp_path / "run")
    with pytest.raises(BadData, match="corrupt"):
        results.rows("score")


def test_certificates_and_attacks_as_frames(images: torch.Tensor) -> None:
    g = load_defense("median-smoothing[n=40,m=9]", load_metric("linear"))
    certificate = g.certify(images, eps=[0.05, 0.12])
    frame = certificate.to_frame()
    assert certificate.deployed is not None
    assert len(frame) == 3 * 2 * 2
    for row in frame.to_dict("records"):
        of = certificate if row["kind"] == "population" else certificate.deployed
        place = row["image"], of.eps.index(row["eps"])
        assert (row["lo"], row["hi"], row["delta"]) == (of.lo[place], of.hi[place], of.delta[place])
    plain = load_defense("none", load_metric("linear"))
    result = load_attack("fgsm")(plain, images, L2(0.1))
    found = result.to_frame()
    assert found["image"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(found["attacked"], result.attacked.score)
    np.testing.assert_array_equal(found["clean_lo"], result.clean.lo)
    np.testing.assert_array_equal(found["l2"], result.l2)
    assert "<table" in result._repr_html_()
    assert "<table" in certificate._repr_html_()
