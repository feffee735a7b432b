"""The board in this repository: its tables, picture and README section are what its records give."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from robustiqa.leaderboard.publish import KEPT, PICTURE, texts, write_brief
from robustiqa.leaderboard.report.frames import read_table
from robustiqa.leaderboard.results import read_results

ROOT = Path(__file__).parents[1]
PRESENT = ROOT / "leaderboard" / "results" / "2026-11"


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed records, and what is made of them anew; the README as it is."""
    folder = tmp_path_factory.mktemp("present")
    board = folder / PRESENT.relative_to(ROOT)
    board.mkdir(parents=True)
    for name in KEPT:
        copy: Any = shutil.copytree if (PRESENT / name).is_dir() else shutil.copyfile
        copy(PRESENT / name, board / name)
    (folder / "README.md").write_bytes((ROOT / "README.md").read_bytes())
    write_brief(board, folder / "README.md")
    return folder


def test_the_present_board_is_what_its_records_give(again: Path) -> None:
    made, there = files(again / PRESENT.relative_to(ROOT)), files(PRESENT)
    for found in (made, there):
        found.pop(PICTURE)
    assert made == there
    assert (again / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()


def test_the_picture_of_the_present_board_is_what_its_records_give(again: Path) -> None:
    wanted = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    if mpl.__version__ != wanted["matplotlib"]:
        pytest.skip(f"another matplotlib ({mpl.__version__}) may draw other pixels")
    assert (again / PRESENT.relative_to(ROOT) / PICTURE).read_bytes() == (PRESENT / PICTURE).read_bytes()


def test_the_present_board_is_whole() -> None:
    """Every planned image has a result, from a clean revision; what it measures itself by is told."""
    results = read_results(PRESENT)
    assert results.errors.empty
    for one in results.groups:
        assert len(one.clean) == one.n_planned("score")
    record = json.loads((PRESENT / "run.json").read_text())
    for part in record["merged"]:
        assert part["run"]["code"]["git"]["dirty"] is False
        assert part["run"]["failed"] == 0
    summary = read_table(PRESENT / "leaderboard" / "summary.csv")
    assert (summary["n_ok"] == summary["n_planned"]).all()


def test_the_present_board_holds_no_name_of_a_machine() -> None:
    for where, text in texts(PRESENT):
        assert not re.search(r"(?<![\w.~])/(?:work|tmp|home|root|mnt|Users)\b", text), where
    kinds = {path.suffix for path in PRESENT.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".gz", ".csv", ".md", ".png"}
    assert [path.name for path in PRESENT.rglob("*.png")] == [PICTURE], "no photographs"
