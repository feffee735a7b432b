"""The README's promises: its plug-in and its Python example run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from robustiqa.bench.cli.main import cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _block(containing: str) -> str:
    (block,) = [b for b in BLOCKS if containing in b]
    return block


def test_own_defence_runs_as_printed(tmp_path: Path, photo: Path) -> None:
    source = _block("register_defense")
    assert len(source.splitlines()) <= 21
    plugin = tmp_path / "my_defense.py"
    plugin.write_text(source)
    arguments = ["--metric", "linear", "--plugin", str(plugin), "--defense", "average-pool[factor=2]"]
    for command in (["score"], ["attack", "--attack", "pgd"]):
        result = CliRunner().invoke(cli, [command[0], str(photo), *command[1:], *arguments])
        assert result.exit_code == 0, result.output


def test_python_example_runs_as_printed() -> None:
    names: dict = {}
    # Fewer draws than the README's: the point is that the calls exist.
    exec(_block("load_attack").replace("n=500", "n=20,m=3").replace("eot-pgd", "eot-pgd[steps=2,draws=2]"), names)
    assert names["certificate"].lo.shape == (2, 2)
    assert names["result"].gain.shape == (2,)


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (Path(__file__).parents[1] / path).exists()
