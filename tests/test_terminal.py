"""Text of others on a terminal: shown, not obeyed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from robustiqa.bench.cli.main import cli
from robustiqa.bench.display import Display
from robustiqa.bench.terminal import echo_data, printable

GOLDEN = Path(__file__).parent / "golden" / "schema-2"
ORDERS = "\x1b]0;mine\x07\x1b[2J\x1b[31mred\r\x9b1A\u202egnp\u2066\x08\x7f\u200b\ud800"
"""To retitle the window, to clear it, to colour, to write over the line, to turn the direction, to hide."""


def test_orders_become_their_codes() -> None:
    shown = printable(ORDERS)
    assert shown.isprintable()
    assert shown == "\\x1b]0;mine\\x07\\x1b[2J\\x1b[31mred\\r\\x9b1A\\u202egnp\\u2066\\x08\\x7f\\u200b\\ud800"
    shown.encode()
    for text in ("plain", "é ü 漢字 ½ δ ≤ 😀", "", 'a\\b "c"'):
        assert printable(text) == text
    assert printable("two\nlines\tand a tab") == "two\nlines\tand a tab"
    assert printable("two\nlines\t", lines=False) == "two\\nlines\\t"


def test_data_for_programs_stay_exact_unless_a_person_reads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    echo_data("a\x1b[2J\n")
    assert capsys.readouterr().out == "a\x1b[2J\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    echo_data("a\x1b[2J\n")
    assert capsys.readouterr().out == "a\\x1b[2J\n"


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """A run whose plan, record and logs give orders."""
    root = shutil.copytree(GOLDEN, tmp_path / "run")
    orders = ORDERS.replace("\ud800", "")
    plan = json.loads((root / "plan.json").read_text())
    for cell in plan["cells"]:
        cell["defense"] += orders
        cell["metric"] += "\n| forged | row |"
    (root / "plan.json").write_text(json.dumps(plan))
    (root / "errors").mkdir(exist_ok=True)
    (root / "errors" / f"{plan['cells'][0]['id']}.json").write_text(json.dumps({"error": orders}))
    return root


def harmless(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in text)


@pytest.mark.parametrize(
    "words", [["status"], ["collect"], ["compare"], ["report", "--no-images"], ["status", "--json"]]
)
def test_commands_that_read_a_strangers_folder(strangers: Path, words: list[str]) -> None:
    done = CliRunner().invoke(cli, [words[0], str(strangers), *words[1:]])
    assert harmless(done.output), done.output
    assert "Traceback" not in done.output
    if words == ["status"]:
        assert "\\x1b]0;mine\\x07" in done.output
        assert "\n| forged" not in done.output


def test_uniting_a_strangers_folder_with_ones_own(strangers: Path, tmp_path: Path) -> None:
    own = shutil.copytree(GOLDEN, tmp_path / "own")
    done = CliRunner().invoke(cli, ["collect", str(own), str(strangers), "--out", str(tmp_path / "both")])
    assert harmless(done.output), done.output


def test_errors_and_warnings(tmp_path: Path) -> None:
    for words in (["collect", f"/nowhere/{ORDERS[:-1]}"], ["list", ORDERS[:-1]], [f"{ORDERS[:-1]}"]):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code != 0
        if "robustiqa:" in done.output:
            assert harmless(done.output), words


def test_progress_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Display(1, [], progress=False).say(f"FAILED {ORDERS}")
    assert harmless(capsys.readouterr().err)
