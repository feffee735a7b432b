"""`robustiqa rescore`: the images of a run scored again, without attacking."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from robustiqa.bench import run_suite
from robustiqa.bench.build import load_attack
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData
from robustiqa.bench.plan import Cell, plan_from_json
from robustiqa.bench.registry import registry
from robustiqa.bench.rescore import rescore
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite
from robustiqa.leaderboard import collect

METRIC = """
import torch
from robustiqa.bench import register_metric

@register_metric("changing")
class Changing(torch.nn.Module):
    '''FACTOR times the mean of the image along a ramp.'''

    def forward(self, x):
        return FACTOR * (x * torch.linspace(0, 1, x.shape[3])).mean((1, 2, 3))
"""
SUITE = {
    "name": "kept",
    "metrics": ["changing"],
    "datasets": ["noise[broken=1,large=3]"],
    "defenses": ["none", "median-smoothing[n=60,m=11]"],
    "certify": {"eps": [0.05]},
    "attacks": [{"attack": "eot-pgd[steps=2,draws=2]", "linf": ["4/255"], "directions": ["up", "down"]}],
    "chunk": 5,
}


def load(folder: Path, factor: float) -> None:
    (folder / "changing.py").write_text(METRIC.replace("FACTOR", str(factor)))
    registry.load_file(folder / "changing.py")


@pytest.fixture(scope="module")
def kept(linear_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that kept its images, one of which is broken."""
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    folder = tmp_path_factory.mktemp("kept")
    load(folder, 10)
    run_suite(Suite.model_validate(SUITE), folder / "run", progress=False, save_images=True)
    return folder / "run"


@pytest.fixture(autouse=True)
def no_attack(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    """Scoring again does not attack."""

    def forbidden(*_: object) -> None:
        raise AssertionError("attacked again")

    for attack in {c.attack for c in cells(kept) if c.attack}:
        monkeypatch.setattr(type(load_attack(attack)), "candidates", forbidden)


def cells(root: Path) -> tuple[Cell, ...]:
    return plan_from_json(Store(root).read_json("plan.json")).cells


def test_unchanged_code_gives_the_same_bits(kept: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in kept.rglob("*") if p.is_file() and p.name != ".lock"}
    found = rescore(kept, tmp_path / "new")
    scored = [c for c in cells(kept) if c.kind in ("score", "attack")]
    assert (found.equal, found.rounded, found.changed, found.failed) == (len(scored), 0, 0, {})
    assert set(found.table["largest"]) == {0.0}
    assert len(found.table) == 2 * (1 + 2 * 9)  # a score has one column, an attack nine each way, behind two defences
    collect(tmp_path / "new")
    for path in (kept / "leaderboard").iterdir():
        assert (tmp_path / "new" / "leaderboard" / path.name).read_bytes() == path.read_bytes()
    assert {p: p.read_bytes() for p in kept.rglob("*") if p.is_file() and p.name != ".lock"} == before
    record = Store(tmp_path / "new").read_json("run.json")["rescored"]
    assert record["run"] == Store(kept).read_json("run.json")
    assert any(note.startswith("3 cells of certificates stay") for note in record["notes"])


def test_a_changed_metric_changes_scores_and_not_distances(kept: Path, tmp_path: Path) -> None:
    """Three times the metric: three times every score and gain, to the last bits; the images are the same."""
    load(kept.parent, 30)
    try:
        found = rescore(kept, tmp_path / "new")
    finally:
        load(kept.parent, 10)
    table = found.table.set_index(["defense", "kind", "column"])
    scores = ["clean", "attacked", "attacked_8bit", "gain", "gain_8bit"]
    moved = table[table.index.get_level_values("column").isin(scores)]
    np.testing.assert_allclose(moved["now"], 3 * moved["stored"], rtol=1e-4, atol=1e-6)
    assert (moved["largest"] > 0).all()
    assert set(table.drop(moved.index)["largest"]) == {0.0}
    assert found.equal == 0
    old, new = (Store(p).read_rows([c.id for c in cells(kept)]) for p in (kept, tmp_path / "new"))
    same = ["image", "status", "message", "forwards", "backwards", "queries", "seconds", "linf", "lo", "hi"]
    pd.testing.assert_frame_equal(old[same], new[same])
    assert (old["status"] == "error").any()
    assert rescore(kept).changed == 0


def test_without_images_only_clean_scores_are_new(kept: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(kept, bare, ignore=shutil.ignore_patterns("images"))
    found = rescore(bare, tmp_path / "new")
    assert set(found.table["column"]) == {"clean"}
    assert found.notes[0].endswith("(`robustiqa run --save-images`)")
    collect(tmp_path / "new")
    for path in (kept / "leaderboard").glob("*.csv"):
        assert (tmp_path / "new" / "leaderboard" / path.name).read_bytes() == path.read_bytes()


def test_damaged_images_are_a_failure_and_not_an_old_score(kept: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(kept, copy)
    victim = next((copy / "images").glob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-3])
    found = rescore(copy, tmp_path / "new")
    assert list(found.failed) == [victim.stem]
    assert "corrupt" in found.failed[victim.stem]
    assert Store(tmp_path / "new").failed([victim.stem]) == found.failed


def test_folders_are_not_mixed_up(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="is the run itself"):
        rescore(kept, kept)
    (tmp_path / "other").mkdir()
    shutil.copy(kept / "run.json", tmp_path / "other")
    with pytest.raises(BadData, match="holds another run"):
        rescore(kept, tmp_path / "other")
    other = tmp_path / "images"
    shutil.copytree(kept, other)
    plan = json.loads((other / "plan.json").read_text())
    plan["datasets"] = [[name, "0"] for name, _ in plan["datasets"]]
    (other / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(BadData, match="are not those of the run"):
        rescore(other)


def test_the_command(kept: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["rescore", str(kept), "--out", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert "| attacked_8bit " in done.output
    assert "0 changed, 0 failed" in done.output
    assert str(tmp_path / "new" / "leaderboard" / "summary.csv") in done.output
    # Once more into the same folder: it is the outcome of this very run.
    assert CliRunner().invoke(cli, ["rescore", str(kept), "--out", str(tmp_path / "new"), "--csv"]).exit_code == 0
