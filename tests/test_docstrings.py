"""What `make docs` is made of: every public name says what it is. The pages themselves are made where pdoc is there."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support import script

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "build.py"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return script(REFERENCE)


def test_every_public_name_has_a_docstring(reference: ModuleType) -> None:
    assert reference.undocumented() == []


def test_a_name_without_one_is_found(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    defenses = importlib.import_module("robustiqa.defenses")
    monkeypatch.setattr(defenses, "silent", lambda: None, raising=False)
    monkeypatch.setattr(defenses, "__all__", [*defenses.__all__, "silent"])
    assert reference.undocumented() == ["robustiqa.defenses.silent"]


@pytest.mark.slow
def test_the_pages_have_every_public_name(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    done = subprocess.run([sys.executable, str(REFERENCE), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "robustiqa" / "leaderboard.html").is_file()
