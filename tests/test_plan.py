"""From a suite to cells: what their ids are made of, and what is done only once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from robustiqa.bench import plan as planning
from robustiqa.bench.datasets import load_dataset
from robustiqa.bench.plan import make_plan, read_plan, write_plan
from robustiqa.bench.registry import checks_digest, code_digest, identity_of, package_versions, registry
from robustiqa.bench.store import SCHEMA_VERSION, Store
from robustiqa.bench.suite import Suite

SUITE = {
    "name": "planned",
    "metrics": ["linear"],
    "datasets": ["noise[count=5]"],
    "defenses": ["none", "median-smoothing[n=600,m=51]"],
    "certify": {"eps": [0.05]},
    "attacks": [{"attack": "pgd[steps=2]", "linf": ["4/255"]}, {"attack": "square[queries=5]", "l2": [0.1]}],
    "checks": {"images": 2, "ladder": False},
    "chunk": 2,
}


@pytest.fixture(scope="module", autouse=True)
def tiny_bench(linear_plugin: Path) -> None:
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))


def test_an_id_is_the_digest_of_all_that_decides_the_result() -> None:
    """Computed here from its definition, without what `make_plan` does to be fast."""
    cells = make_plan(Suite.model_validate(SUITE)).cells
    assert {c.kind for c in cells} == {"score", "check", "certify", "attack"}
    for cell in cells:
        identity = {
            "schema": SCHEMA_VERSION,
            "code": code_digest(),
            "packages": package_versions(),
            "dataset_plugin": identity_of("dataset", cell.dataset),
            "metric": identity_of("metric", cell.metric),
            "defense": identity_of("defense", cell.defense),
            "attack": identity_of("attack", cell.attack) if cell.attack else None,
            "dataset": load_dataset(cell.dataset).content_hash,
        }
        if cell.kind == "check":
            identity["checks"] = checks_digest()
        parts = json.dumps(asdict(cell) | {"id": "", "identity": identity}, sort_keys=True)
        assert cell.id.endswith("-" + hashlib.sha256(parts.encode()).hexdigest()[:16])


def test_plug_ins_are_identified_once_however_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[tuple[str, str]] = Counter()

    def counted(kind: str, text: str) -> str:
        asked[kind, text] += 1
        return identity_of(kind, text)

    monkeypatch.setattr(planning, "identity_of", counted)
    few = make_plan(Suite.model_validate(SUITE | {"chunk": 5}))
    after_few = sum(asked.values())
    asked.clear()
    many = make_plan(Suite.model_validate(SUITE | {"chunk": 1}))
    assert len(many.cells) > 3 * len(few.cells)
    assert sum(asked.values()) == after_few
    assert max(asked.values()) == 1


def test_the_file_of_a_plan_has_a_line_a_cell(tmp_path: Path) -> None:
    """And none of what a cell leaves at its default, which older files have."""
    plan = make_plan(Suite.model_validate(SUITE))
    write_plan(tmp_path, plan)
    text = (tmp_path / "plan.json").read_text()
    assert len(text.splitlines()) == len(plan.cells) + 2
    assert "null" not in text
    assert read_plan(Store(tmp_path)) == plan
    whole = plan.to_json() | {"cells": [vars(cell) for cell in plan.cells]}
    (tmp_path / "plan.json").write_text(json.dumps(whole, indent=2))
    assert read_plan(Store(tmp_path)) == plan
