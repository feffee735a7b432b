"""The house rules that a machine can check: who imports whom, packaging, file length, no machine paths."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("bench", "attacks", "defenses", "leaderboard")
ALLOWED = {
    "bench": {"bench"},
    "attacks": {"attacks", "bench"},
    "defenses": {"defenses", "bench"},
    "leaderboard": {"leaderboard", "bench"},
}


def _sources() -> list[Path]:
    """Our Python files; a template is the user's, and imports as a user does."""
    found = (p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
    return sorted(p for p in found if p.parent.name != "templates")


def _imported(path: Path) -> set[str]:
    """Our own modules that a file imports, as dotted paths below the root, e.g. `bench.api`."""
    here = path.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            found.add(".".join([*base, *(node.module or "").split(".")]).strip("."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robustiqa."):
            found.add((node.module or "").removeprefix("robustiqa."))
    return found


def test_packages_import_in_one_direction() -> None:
    wrong = []
    for path in _sources():
        package = path.relative_to(ROOT).parts[0]
        if path.relative_to(ROOT).parts[:2] == ("bench", "cli"):
            continue  # the composition root knows every package
        wrong += [f"{path}: {name}" for name in _imported(path) if name.split(".")[0] not in ALLOWED[package]]
    assert not wrong


def test_attacks_and_defences_use_little_of_the_bench() -> None:
    small = {"align", "api", "build", "calibration", "distortions", "errors", "faults", "files", "foreign_weights",
             "images", "intervals", "jpeg", "judge", "objective", "registry", "seeds", "spec", "training", "datasets",
             "measures", "memory", "metrics", "threads", "weights"}  # fmt: skip
    wrong = [
        f"{path}: {name}"
        for path in _sources()
        if path.relative_to(ROOT).parts[0] in ("attacks", "defenses")
        for name in _imported(path)
        if name.startswith("bench.") and name.split(".")[1] not in small
    ]
    assert not wrong


def test_the_product_does_not_know_its_benchmarks() -> None:
    assert not [
        p for p in _sources() if re.search(r"^(from|import) (benchmarks|examples)\b", p.read_text("utf-8"), re.M)
    ]


def test_pyproject_lists_every_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {
        "robustiqa." + ".".join(p.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for p in (ROOT / package).rglob("__init__.py")
    }
    assert listed == present


BOARDS = ROOT / "leaderboard" / "results"
"""Records of published boards and their suites: the repository's, not the package's."""


def test_every_data_file_is_packed() -> None:
    """Suites, weights, cards and splits reach an installed copy: each matches a pattern of package-data."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    folders = {p.parent for package in PACKAGES for p in (ROOT / package).rglob("__init__.py")}
    packed = {found for folder in folders for pattern in patterns for found in folder.glob(pattern)}
    data = {
        p
        for package in PACKAGES
        for p in (ROOT / package).rglob("*")
        if p.is_file()
        and (p.suffix not in (".py", ".pyc") or p.parent.name == "templates")
        and not p.is_relative_to(BOARDS)
    }
    assert data
    assert data <= packed


def test_files_are_short() -> None:
    benchmarks = (ROOT / "benchmarks").glob("*.py")
    lengths = sorted(len(p.read_text(encoding="utf-8").splitlines()) for p in (*_sources(), *benchmarks))
    assert lengths[-1] <= 600
    assert lengths[len(lengths) // 2] <= 150


def test_every_constraint_is_exact() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    assert "torch==2.13.0" in lines
