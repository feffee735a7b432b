"""docs/python.md and examples/notebook.ipynb: every block of code runs as it is printed, one after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from robustiqa.bench import unregister
from robustiqa.bench.registry import registry
from robustiqa.bench.session import SESSION

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which what runs may write, with the examples beside it as in a checkout."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for kind in ("metric", "defense", "attack"):
        for name in [n for n, p in registry._loaded[kind].items() if p.origin == SESSION]:
            unregister(kind, name)


def run(blocks: list[str]) -> dict:
    """The blocks one after the other, as the cells of one session."""
    names: dict = {}
    for block in blocks:
        # Not in the way that this file is compiled, with annotations as text.
        exec(compile(block, "block", "exec", dont_inherit=True), names)
    return names


def test_every_block_of_the_guide_runs(elsewhere: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) >= 8
    names = run(blocks)
    assert set(names["best"]["metric"]) == {"tiny-iqa", "contrast"}
    assert names["curve"].shape == (2, 6)
    assert set(names["rows"]["defense"]) == {"none", "average-pool"}
    assert names["gains"]["count"].tolist() == [5, 5]
    assert (elsewhere / "runs" / "mine" / "report.html").is_file()


def test_the_notebook_runs_and_holds_nothing_of_a_machine(elsewhere: Path) -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/home/|/tmp/|/work/|/Users/", text)
    # Fewer photographs than the notebook's: the point is that the calls exist.
    cells = json.loads(text.replace("subset=quick", "subset=references"))["cells"]
    run(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"])


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)]+)\)", GUIDE))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / "docs" / path).exists()
