"""A board in other forms: the same figures, and no text that a spreadsheet, LaTeX or Markdown would run."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from robustiqa.bench import run_suite
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData, BadParameter, UnknownName
from robustiqa.bench.registry import registry
from robustiqa.bench.suite import Suite
from robustiqa.leaderboard import collect
from robustiqa.leaderboard.exports import export
from robustiqa.leaderboard.exports.latex import escaped
from robustiqa.leaderboard.exports.spreadsheet import neutralised
from robustiqa.leaderboard.exports.units import UNITS

SUITE = {
    "name": "exported",
    "metrics": ["linear"],
    "datasets": ["noise[broken=3]", "noise"],
    "defenses": ["none", "median-smoothing[n=600,m=51]"],
    "certify": {"eps": [0.05]},
    "attacks": [
        {"attack": "random-noise", "linf": ["4/255"]},
        {"attack": "eot-pgd[steps=2,draws=2]", "linf": ["4/255"]},
    ],
    "checks": {"images": 1, "ladder": False},
}
NASTY = [
    "=HYPERLINK(1)", "+1", "-2+3", "@SUM(A1)", "\tx", "\rx", "  =1+1", "plain", r"\input{/etc/passwd}",
    r"%&$#_{}~^|<>\"'`",
    "[x](javascript:alert(1)) | <script>alert(1)</script>", "caf\u00e9 \u4e2d\n\\\\[2cm]", "--",
]  # fmt: skip


@pytest.fixture(scope="module")
def board(linear_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    registry.load_file(linear_plugin.with_name("tiny_bench.py"))
    out = tmp_path_factory.mktemp("exports") / "run"
    run_suite(Suite.model_validate(SUITE), out, progress=False)
    return out


@pytest.fixture
def hostile(board: Path, tmp_path: Path) -> Path:
    """A board of which every text field holds something nasty, as a table edited by hand might."""
    out = tmp_path / "run"
    shutil.copytree(board, out)
    path = out / "leaderboard" / "empirical.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = [row | {"defense": text, "attack": text} for text in NASTY for row in table.iloc[:1].to_dict("records")]
    pd.DataFrame(rows).to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    return out


def test_every_column_has_a_unit_and_every_unit_a_column(board: Path) -> None:
    found = {c for path in (board / "leaderboard").glob("*.csv") for c in pd.read_csv(path, nrows=0).columns}
    assert found <= {*UNITS}
    known = {"invariant", "problem", "row"}  # of violations.csv, and the row ids
    assert {*UNITS} - found <= known


def test_tables_are_the_same_bytes_again(board: Path, tmp_path: Path) -> None:
    shutil.copytree(board, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "leaderboard")
    collect(tmp_path / "run")
    names = sorted(p.name for p in (board / "leaderboard").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "run" / "leaderboard").iterdir())
    for name in names:
        assert (board / "leaderboard" / name).read_bytes() == (tmp_path / "run" / "leaderboard" / name).read_bytes()
    for form in ("csv", "markdown", "latex", "json"):
        assert export(board, form) == export(tmp_path / "run", form)


def test_json_has_the_figures_with_units_and_null_for_what_is_no_number(board: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    document = json.loads(export(board, "json"), parse_constant=refuse)
    assert document["schema"] == 1
    assert document["rules"] == 1
    assert document["suite"] == {"name": "exported", "seed": 0}
    summary = document["tables"]["summary"]
    assert list(summary["columns"]) == list(pd.read_csv(board / "leaderboard" / "summary.csv", nrows=0).columns)
    assert summary["columns"]["worst_gain_mean"]["unit"].startswith("R (")
    frame = pd.read_csv(board / "leaderboard" / "summary.csv")
    for row, expected in zip(summary["rows"], frame.to_dict("records"), strict=True):
        assert row["worst_gain_mean"] == expected["worst_gain_mean"]
        assert isinstance(row["n_ok"], int)
        assert isinstance(row["standard"], bool)
    ranks = [row["rank"] for row in summary["rows"]]
    assert ranks == [None if pd.isna(r) else int(r) for r in frame["rank"]]
    assert None in ranks
    only = json.loads(export(board, "json", "tracks", ["defense", "value"]))["tables"]
    assert {name: list(table["columns"]) for name, table in only.items()} == {"tracks": ["defense", "value"]}


def test_infinite_fields_are_null_in_json_and_said_in_tables(board: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(board, out)
    path = out / "leaderboard" / "certified.csv"
    table = pd.read_csv(path)
    table.assign(certified_delta_mean=np.inf, srocc_clean=-0.5, plcc_clean=np.nan).to_csv(path, index=False)
    row = json.loads(export(out, "json", "certified"))["tables"]["certified"]["rows"][0]
    assert (row["certified_delta_mean"], row["srocc_clean"], row["plcc_clean"]) == (None, -0.5, None)
    assert "& inf &" in export(out, "latex", "certified")
    assert "& $-$0.500 & --" in export(out, "latex", "certified")


def test_csv_fields_never_begin_like_a_formula(hostile: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(export(hostile, "csv", "empirical"), newline="")))
    fields = [row[name] for row in rows for name in ("defense", "attack")]
    assert not [f for f in fields if f.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "plain" in fields
    assert [neutralised(v) for v in ("=1", -1.5, "a=1", None)] == ["'=1", -1.5, "a=1", None]
    gains = [row["gain_mean"] for row in rows]
    assert all(float(g) > -100 for g in gains)


def test_the_tables_of_collect_are_safe_too(board: Path, tmp_path: Path) -> None:
    """Names of images come from files."""
    from robustiqa.leaderboard.exports.spreadsheet import csv_text

    text = csv_text(pd.DataFrame({"image": NASTY, "eps": [0.05] * len(NASTY), "gain": [-0.25] * len(NASTY)}))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[0]["image"] == "'=HYPERLINK(1)"
    assert {(row["eps"], row["gain"]) for row in rows} == {("0.05", "-0.25")}
    assert not [r for r in rows if r["image"].lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))]


def unescaped(text: str) -> str:
    """What LaTeX prints of escaped text, by another route: commands replaced one by one."""
    names = {"textbackslash": "\\", "textasciicircum": "^", "textasciitilde": "~", "textless": "<", "textgreater": ">",
             "textbar": "|", "textquotedbl": '"', "textquotesingle": "'", "textasciigrave": "`"}  # fmt: skip
    text = re.sub(r"\\(text[a-z]+)\{\}", lambda m: f"\0{ord(names[m[1]])}\0", text)
    text = re.sub(r"\\([{}$&#%_])", lambda m: f"\0{ord(m[1])}\0", text)
    text = text.replace("{[}", "[").replace("{]}", "]").replace("{}", "")
    assert not re.search(r"[\\{}$&#%_^~]", text), text
    return re.sub("\0(\\d+)\0", lambda m: chr(int(m[1])), text)


@pytest.mark.parametrize("text", NASTY)
def test_latex_prints_text_as_it_is(text: str) -> None:
    expected = re.sub(r"[\s\x00-\x1f]+", " ", text)
    expected = "".join(c if c.isascii() else f"[U+{ord(c):04X}]" for c in expected)
    assert unescaped(escaped(text)) == expected


def test_latex_has_the_shape_of_a_table(hostile: Path) -> None:
    """As many columns in each row as the preamble says, whatever the fields hold; environments closed in order."""
    for table in ("summary", "tracks", "empirical", "certified", "neighbours", "stability", "errors"):
        text = export(hostile, "latex", table)
        stack = []
        for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
            assert kind == "begin" or stack.pop() == name
            stack += [name] if kind == "begin" else []
        assert not stack
        for part in text.split(r"\begin{tabular}")[1:]:
            align = re.match(r"\{([lr]+)\}", part)
            assert align
            body = [line for line in part.splitlines() if line.endswith(r" \\")]
            assert body
            for line in body:
                assert len(re.findall(r"(?<!\\)&", line)) + 1 == len(align[1]), line
                assert not re.search(r"(?<!\\)[#%]", line)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles(hostile: Path, tmp_path: Path) -> None:
    tables = "\n".join(export(hostile, "latex", name) for name in ("summary", "tracks", "empirical"))
    packages = r"\usepackage{booktabs}\usepackage{graphicx}\usepackage{textcomp}\usepackage[T1]{fontenc}"
    head = rf"\documentclass{{article}}{packages}\begin{{document}}"
    (tmp_path / "paper.tex").write_text(head + "\n" + tables + "\n\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, "a table runs into the margin"


def test_markdown_fields_stay_in_their_cells(hostile: Path) -> None:
    text = export(hostile, "markdown", "empirical")
    assert "<script>" not in text
    assert "](javascript" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1


def test_the_command(board: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.tex"
    call = ["export", str(board), "--format", "latex", "--table", "tracks", "--out", str(target)]
    assert CliRunner().invoke(cli, call).exit_code == 0
    assert target.read_text() == export(board, "latex", "tracks")
    printed = CliRunner().invoke(cli, ["export", str(board), "--format", "csv", "--columns", "rank,defense"])
    assert printed.output.splitlines()[0] == "rank,defense"
    for wrong, message in ((["--format", "latx"], "did you mean 'latex'"),
                           (["--format", "csv", "--table", "trac"], "did you mean 'tracks'"),
                           (["--format", "csv", "--columns", "rnk"], "did you mean 'rank'")):  # fmt: skip
        result = CliRunner().invoke(cli, ["export", str(board), *wrong])
        assert result.exit_code == 1
        assert message in result.output
    with pytest.raises(BadParameter, match="which one"):
        export(board, "json", None, ["rank"])
    with pytest.raises(BadData, match="has no tables"):
        export(tmp_path, "csv")
    with pytest.raises(UnknownName):
        export(board, "csv", "../run")
