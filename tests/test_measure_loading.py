"""The script examples/measure_loading.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from robustiqa.bench.cache import FOLDER
from support import example


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv(FOLDER, "")  # restored afterwards: the script changes it
    script = example("measure_loading")
    (tmp_path / "images").mkdir()
    script.write_images(tmp_path / "images", 6)
    return script.image_files(tmp_path / "images")


def test_every_way_is_timed_on_every_image(files: list[Path], tmp_path: Path) -> None:
    script = example("measure_loading")
    found = script.times(files, tmp_path / "cache", rounds=2)
    assert [len(values) for values in found.values()] == [12, 12, 12]
    table = list(script.time_rows(files, tmp_path / "cache"))
    assert [row[0] for row in table[1:]] == ["Pillow", "loading", "loading, cached"]
    assert table[1][2] == "1.00"
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == len(files)


def test_memory_is_told_as_it_goes(files: list[Path], tmp_path: Path) -> None:
    table = list(example("measure_loading").memory_rows(files, tmp_path / "cache", loads=20, every=10))
    assert [row[0] for row in table[1:]] == ["10", "20"]
    assert all(float(value) > 10 for row in table[1:] for value in row[1:])


@pytest.mark.slow
def test_memory_is_flat_over_many_loads(files: list[Path], tmp_path: Path) -> None:
    """Were every image held, each load would take 61 kB: over 100 MB."""
    table = list(example("measure_loading").memory_rows(files, tmp_path / "cache", loads=3000, every=1000))
    for column in (1, 2):
        assert float(table[-1][column]) - float(table[1][column]) < 5


def test_a_run_is_watched(tmp_path: Path) -> None:
    table = list(example("measure_loading").run_rows(6, tmp_path))
    assert [row[0] for row in table[1:5]] == ["1/4", "2/4", "3/4", "4/4"]
    assert all(float(row[1]) > 50 for row in table[1:])
    assert (tmp_path / "run" / "leaderboard" / "summary.csv").is_file()
