"""Plug-ins that stand in no file: what they are told from, cells run again, names taken twice, workers without."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from robustiqa.bench import load_metric, load_plugin, run_suite, unregister
from robustiqa.bench.errors import BadPlugin, UnknownName
from robustiqa.bench.registry import identity_of, registry
from robustiqa.bench.session import SESSION, session_digest
from robustiqa.defenses import load_defense

CELL = '''
import functools
import numpy as np
import torch
from robustiqa.bench import register_defense
from robustiqa.defenses.base import Purification

STRENGTH = 0.5
TABLE = {"a": (1, 2), "b": [np.arange(3.0), torch.ones(2)]}
net = torch.nn.Linear(2, 2, bias=False).requires_grad_(False)
net.weight.fill_(1)
def inner(x):
    return x * STRENGTH
def helper(x):
    return inner(x) + 0 * net.weight.sum() + 0 * len(TABLE)
@functools.cache
def cached(n):
    return n in {"one", "two", "three"}
unrelated = open

@register_defense("halved")
class Halved(Purification):
    """Half the light."""
    shades = 255

    def __init__(self, metric, factor: float = 1.0):
        super().__init__(metric)
        self.factor = factor

    @torch.no_grad()
    def note(self, x):
        return [x for _ in range(3)]

    def purify(self, x):
        cached(1)
        return helper(x) * self.factor
'''


@pytest.fixture(autouse=True)
def clean() -> Any:
    yield
    for name in [n for n, p in registry._loaded["defense"].items() if p.origin == SESSION]:
        unregister("defense", name)


def executed(text: str = CELL) -> dict[str, Any]:
    """What a session knows after a cell."""
    names: dict[str, Any] = {}
    exec(text, names)
    return names


def digest(text: str = CELL) -> str:
    return session_digest(executed(text)["Halved"], "it")


def test_the_same_text_is_the_same_plug_in() -> None:
    assert digest() == digest()
    assert digest(CELL.replace("\n\n", "\n\n\n# a comment\n").replace("unrelated = open", "other = 3")) == digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* self.factor", "/ self.factor"),
        ("shades = 255", "shades = 254"),
        ("STRENGTH = 0.5", "STRENGTH = 0.25"),
        ("return x * STRENGTH", "return x - STRENGTH"),
        ("(1, 2)", "(1, 3)"),
        ("np.arange(3.0)", "np.arange(4.0)"),
        ("torch.ones(2)", "torch.ones(2, dtype=torch.float64)"),
        ("weight.fill_(1)", "weight.fill_(2)"),
        ('"three"', '"four"'),
        ("range(3)", "range(4)"),
        ("factor: float = 1.0", "factor: float = 2.0"),
        ("class Halved(Purification)", "class Halved(type('Own', (Purification,), {'extra': 1}))"),
        ("@torch.no_grad()", "@torch.enable_grad()"),
    ],
)
def test_whatever_it_leans_on_makes_another_plug_in(old: str, new: str) -> None:
    assert CELL.count(old) == 1
    assert digest(CELL.replace(old, new)) != digest()


def test_a_change_of_a_constant_is_seen_without_running_the_class_again() -> None:
    names = executed()
    before = identity_of("defense", "halved")
    names["STRENGTH"] = 0.25
    assert identity_of("defense", "halved") != before
    names["STRENGTH"] = 0.5
    assert identity_of("defense", "halved") == before


def test_another_process_tells_the_same() -> None:
    code = f"{CELL}\nfrom robustiqa.bench.session import session_digest\nprint(session_digest(Halved, 'it'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONHASHSEED": "7"})  # fmt: skip
    assert done.stdout.strip() == digest()


def test_what_cannot_be_told_is_said_by_its_name() -> None:
    text = CELL.replace("STRENGTH = 0.5", "import threading\nSTRENGTH = {'key': [threading.Lock()]}")
    names = executed(text)
    assert load_defense("halved", load_metric("linear")) is not None, "it works, but has no results to keep"
    with pytest.raises(BadPlugin, match=r"defense 'halved' was written in this session and uses \"STRENGTH\['key'\]"):
        identity_of("defense", "halved")
    names["STRENGTH"] = 0.5
    assert identity_of("defense", "halved")


def test_modules_of_the_user_count_by_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "light_of_mine.py"
    path.write_text("def inner(x):\n    return x / 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = CELL.replace("def inner(x):\n    return x * STRENGTH\n", "from light_of_mine import inner\n")
    before = digest(text)
    assert digest(text) == before != digest()
    path.write_text("def inner(x):\n    return x / 3 \n")
    importlib.invalidate_caches()
    assert digest(text) != before
    del sys.modules["light_of_mine"]


def test_a_cell_that_runs_again_replaces_its_plug_in() -> None:
    executed()
    names = executed(CELL.replace("shades = 255", "shades = 3"))
    assert registry.get("defense", "halved").factory is names["Halved"]
    assert registry.get("defense", "halved").origin == SESSION


def test_another_class_of_the_same_name_is_refused_until_the_name_is_free() -> None:
    executed()
    other = CELL.replace("class Halved", "class Copied")
    with pytest.raises(BadPlugin, match=r"by Halved: give Copied another name, or call unregister\('defense'"):
        executed(other)
    unregister("defense", "halved")
    names = executed(other)
    assert registry.get("defense", "halved").factory is names["Copied"]


@pytest.mark.parametrize(("kind", "name"), [("defense", "jpeg"), ("defense", "halvd"), ("defence", "jpeg")])
def test_only_what_is_ones_own_is_taken_away(kind: str, name: str) -> None:
    executed()
    with pytest.raises(UnknownName):
        unregister(kind, name)


def test_names_of_files_and_of_the_package_stay_theirs(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(CELL.replace('"halved"', '"in-a-file"'))
    load_plugin(tmp_path / "own.py")
    assert registry.get("defense", "in-a-file").origin.startswith("file ")
    for name in ("in-a-file", "jpeg"):
        with pytest.raises(BadPlugin, match="already registered"):
            executed(CELL.replace('"halved"', f'"{name}"'))
    load_plugin(tmp_path / "own.py")


def test_a_module_that_was_imported_comes_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a script that registers a class of its own and then runs a suite."""
    path = tmp_path / "module_of_mine.py"
    path.write_text(CELL.replace('"halved"', '"imported"'))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("module_of_mine")
    assert registry.get("defense", "imported").origin == f"file {path}"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(BadPlugin, match="already registered"):
        executed(CELL.replace('"halved"', '"imported"'))
    del sys.modules["module_of_mine"]


def test_a_suite_of_a_session_resumes_and_knows_a_change(tmp_path: Path, linear_plugin: Path) -> None:
    load_plugin(linear_plugin.with_name("tiny_bench.py"))
    suite = {"name": "own", "metrics": ["linear"], "defenses": ["none", "chain[steps=halved;flip]"],
             "datasets": ["noise[count=2]"], "attacks": [{"attack": "fgsm", "linf": ["4/255"]}]}  # fmt: skip
    names = executed()
    first = run_suite(suite, tmp_path, progress=False)
    assert (first.computed, first.resumed, first.failed) == (4, 0, {})
    assert run_suite(suite, tmp_path, progress=False).computed == 0
    names["STRENGTH"] = 0.25
    again = run_suite(suite, tmp_path, progress=False)
    assert (again.computed, again.resumed) == (2, 2)
    assert "2 cells computed, 2 found complete" in again._repr_html_()
    with pytest.raises(BadPlugin, match="'halved' was registered by this session, which other processes do not load"):
        run_suite(suite, tmp_path, progress=False, executor="local", workers=1)
