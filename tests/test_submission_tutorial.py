"""The tutorial's defence, metadata and commands, as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from robustiqa.bench import load_metric
from robustiqa.bench.cli.main import cli
from robustiqa.bench.registry import registry
from robustiqa.bench.submission.metadata import DefenseSubmission, parse_submission, placeholders, read_submission
from robustiqa.defenses import load_defense
from robustiqa.leaderboard.submissions.tables import SHOWN

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "tutorial.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return found


def commands() -> list[list[str]]:
    """What is to be typed, without comments."""
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    return [line.split("#")[0].split() for text in blocks for line in text.splitlines()]


def test_the_metadata_are_sound_and_complete() -> None:
    submission = parse_submission(block("yaml").encode())
    assert isinstance(submission, DefenseSubmission)
    assert placeholders(submission) == []
    printed = re.findall(r"^  - (\{table: .*\})$", TEXT, re.MULTILINE)
    claims = [claim.model_dump(include={"measure", "value"}) for claim in submission.claims]
    assert claims == [{key: yaml.safe_load(line)[key] for key in ("measure", "value")} for line in set_of(printed)]


def set_of(lines: list[str]) -> list[str]:
    return list(dict.fromkeys(lines))


@pytest.mark.usefixtures("plugins_of_this_test")
def test_the_defence_is_what_it_says(tmp_path: Path) -> None:
    """With weight 1 it is the mean of 5x5 pixels, with weight 0 nothing."""
    (tmp_path / "defense.py").write_text(block("python"))
    registry.load_file(tmp_path / "defense.py")
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    metric = load_metric("tiny-iqa")
    assert torch.equal(load_defense("calm[pull=0]", metric)(x), load_defense("none", metric)(x))
    (means,) = [load_defense("calm[pull=1]", metric).step(x, None)]  # type: ignore[operator]
    assert torch.allclose(means[0, :, 30, 40], x[0, :, 28:33, 38:43].mean((1, 2)), atol=1e-6)


def test_the_pytest_is_that_of_robustiqa() -> None:
    typed = [words for words in commands() if "pytest" in words]
    assert typed == [["python", "-m", "pytest", "calm"]]


def test_the_printed_board_has_the_columns_of_a_board() -> None:
    (header,) = re.findall(r"^\| submission .*\|$", TEXT, re.MULTILINE)
    assert [cell.strip() for cell in header.strip("|").split("|")] == list(SHOWN.values())


@pytest.mark.slow
def test_from_nothing_to_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the tutorial but `pytest`, in its order; the figures come out as printed, to rounding."""
    monkeypatch.chdir(tmp_path)
    for words in commands():
        if words[0] != "robustiqa" or words[1] == "report":
            continue
        result = CliRunner().invoke(cli, words[1:])
        assert result.exit_code == 0, result.output
        if words[2] == "new":
            Path("calm/defense.py").write_text(block("python"))
        if words[2] == "verify" and not read_submission("calm").claims:  # type: ignore[union-attr]
            Path("calm/submission.yml").write_text(block("yaml"))
    table = pd.read_csv("my-board/submissions.csv")
    assert table["verdict"].tolist() == ["confirmed", "confirmed"]
    assert table["measured"].tolist() == pytest.approx([0.4695, 1.0508], abs=0.002)


@pytest.mark.parametrize("page", ["tutorial", "submitting"])
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    for path in re.findall(r"\]\(((?!http)[^)#]+)[^)]*\)", text):
        assert (DOCS / path).exists(), path
