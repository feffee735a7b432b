"""A run and what its disk and its clock can do to it: nothing is lost, the message says what to do."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from robustiqa.bench import run_suite
from robustiqa.bench.errors import RobustIQAError
from robustiqa.bench.registry import registry
from robustiqa.bench.store import Store
from robustiqa.bench.suite import Suite
from support import small_file_system

SUITE = {
    "name": "disk",
    "metrics": ["linear"],
    "datasets": ["noise"],
    "defenses": ["none", "jpeg"],
    "attacks": [{"attack": "random-noise", "linf": ["2/255", "4/255"]}],
    "chunk": 1,
}


def run(out: Path):
    return run_suite(Suite.model_validate(SUITE), out, progress=False)


@pytest.fixture(scope="module")
def whole(linear_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(out).ok
    return out


def tables(out: Path) -> dict[str, bytes]:
    """All tables but the one with measured times."""
    names = ("summary.csv", "threats.csv", "certified.csv", "board.md")
    return {name: (out / "leaderboard" / name).read_bytes() for name in names}


def test_a_disk_that_fills_in_the_middle_of_a_run(whole: Path, tmp_path: Path) -> None:
    """It stops with a sentence and every cell whole; with more room the same call does the rest."""
    with small_file_system(tmp_path / "disk", 160) as disk:
        out = disk / "out"
        with pytest.raises(RobustIQAError, match=r"No space left.*free some space and run again"):
            run(out)
        store = Store(out)
        kept = {name: (store.cells / name).read_bytes() for name in store.snapshot().results.values()}
        assert 0 < len(kept) < len(Store(whole).snapshot().results)
        assert store.completed(store.snapshot().results) == set(store.snapshot().results)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        result = run(out)
        assert (result.ok, result.resumed) == (True, len(kept))
        assert {name: (store.cells / name).read_bytes() for name in kept} == kept
        assert tables(out) == tables(whole)
        assert not list(out.rglob(".*.tmp"))


def test_a_folder_that_has_become_read_only(whole: Path, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", 8000) as disk:
        out = disk / "out"
        assert run(out).ok
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(RobustIQAError, match=r"Read-only file system.*choose another --out"):
            run(out)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert run(out).computed == 0
        assert tables(out) == tables(whole)


def test_a_clock_that_goes_backwards(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the results come from the future, and the clock goes an hour back at every look: the same run."""
    out = tmp_path / "out"
    run(out)
    store = Store(out)
    names = sorted(store.snapshot().results.values())
    for name in names[::2]:
        (store.cells / name).unlink()
    for path in out.rglob("*"):
        os.utime(path, (4e9, 4e9))
    now = [2e9]

    def back() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", back)
    result = run(out)
    assert (result.computed, result.resumed) == (len(names[::2]), len(names[1::2]))
    assert result.ok
    assert tables(out) == tables(whole)
    assert run(out).computed == 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_result_is_computed_again_and_only_that(whole: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    run(out)
    victim = next(iter(Store(out).cells.iterdir()))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes({"cut": bytes(content[:-1]), "flipped": bytes(content), "empty": b""}[damage])
    result = run(out)
    assert (result.ok, result.computed) == (True, 1)
    assert tables(out) == tables(whole)
