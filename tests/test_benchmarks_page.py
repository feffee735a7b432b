"""The page docs/speed.md, from made-up figures: every row there, nothing of a name taken for Markdown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.interleave import Readings, as_told
from benchmarks.page import BEGIN, END, write_page
from benchmarks.session import Session, about
from benchmarks.tables import Settings, Table, series, table_of
from benchmarks.text import figure

EVIL = "a|b <script>x</script>\n# $y$ [l](http://n)"


def tables(quick: bool = False) -> list[Table]:
    settings = Settings(quick=quick)
    base = np.array([1.0, 2.0, 3.0])
    speeds = [
        table_of(Readings({"bare": base, EVIL: base / 0.953}, {"peer|": "gone | away"}), f"one-{k}", f"Attack: {k}",
                 "How | it was.", baseline="bare", reads="speed", settings=settings, notes=["A <note>."])
        for k in ("first", "second")
    ]  # fmt: skip
    cost = table_of(Readings({"bare": base, "runner": 12.34 * base}), "two", EVIL, "Otherwise.", baseline="bare",
                    reads="cost", settings=settings)  # fmt: skip
    works = {x: lambda x=x: x for x in (1.0, 10.0, 100.0)}
    grown = series(works, "three", "Cost: against the number of images", "In turns.", expected=1.0, settings=settings,
                   read=as_told)  # fmt: skip
    return [*speeds, cost, grown]


def made_up(quick: bool = False, **machine: object) -> Session:
    facts = about(Settings(quick=quick))
    facts["hardware"] |= {"processor": "Made-up | CPU"} | machine
    return Session(facts, tables(quick), {}, {"one": 1.0})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "speed.md"
    gpu = made_up(True, gpu="Made-up GPU", gpu_memory_gb=1.5, driver="1", cuda="13")
    gpu.errors["memory"] = "RuntimeError: <no> memory"
    write_page([made_up(), gpu], path)
    return path


def test_every_figure_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    threads = torch.get_num_threads()
    assert text.count("0.953 [0.953, 0.953]") == 4
    assert text.count("12.3 [12.3, 12.3]") == 2
    assert text.count("Grows as x to the power 1.00 [1.00, 1.00]; linear is 1.") == 2
    assert text.count("FAILED: peer\\|: gone \\| away") == 4
    assert text.count("FAILED: memory: RuntimeError: &lt;no&gt; memory") == 1
    assert f"## On Made-up \\| CPU, {threads} thread" in text
    assert f"## On Made-up GPU, {threads} thread" in text
    assert text.count("Quick settings") == 1, "only where they were"
    assert text.count("### Attack\n") == 2, "tables that were measured alike share a heading"
    assert text.count("**first**") == text.count("**second**") == 2
    assert "torch 2" in text


def test_no_name_is_taken_for_markdown(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "](http" not in text
    assert [line for line in text.splitlines() if re.fullmatch(r"# .*", line)] == ["# Speed"]
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) == 8
    for block in blocks:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert columns == {6}


def test_pictures_are_linked_and_are_pictures(page: Path) -> None:
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert linked == [f"img/speed-{kind}{suffix}.png" for suffix in ("", "-2") for kind in ("ratios", "growth")]
    for name in linked:
        with Image.open(page.parent / name) as image:
            assert min(image.size) > 150


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    page, session = tmp_path / "speed.md", replace(made_up(), tables=[])
    write_page([session], page)
    first = page.read_text(encoding="utf-8")
    assert f"{BEGIN}\n{END}\n" in first
    by_hand = "Memory bandwidth: the first convolution.\n\n- one\n"
    page.write_text(first.replace(END, by_hand + END), encoding="utf-8")
    for _ in range(2):
        write_page([session], page)
        assert f"{BEGIN}\n{by_hand}{END}\n" in page.read_text(encoding="utf-8")


def test_the_command_writes_it_from_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up().write(tmp_path / "bench.json")
    assert main(["page", str(tmp_path / "bench.json"), "--to", str(tmp_path / "docs" / "speed.md")]) == 0
    said = capsys.readouterr().out.split()
    assert said == [
        str(tmp_path / "docs" / name) for name in ("speed.md", "img/speed-ratios.png", "img/speed-growth.png")
    ]


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"schema": 99}', '{"schema": 1, "tables": [{}]}'])
def test_another_file_is_refused(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    if content is not None:
        path.write_text(content)
    assert main(["page", str(path), "--to", str(tmp_path / "speed.md")]) == 1
    assert "bench.json" in capsys.readouterr().err
    assert not (tmp_path / "speed.md").exists()


@pytest.mark.parametrize(("value", "text"), [
    (0.0, "0"), (-1.6e-16, "0"), (0.9534, "0.953"), (1.0, "1.00"), (12.34, "12.3"), (812.0, "812"),
    (0.00123, "0.00123"), (-0.6441, "-0.644"), (2.5e7, "2.5e+07"), (1e-6, "1e-06"), (123456.0, "123456"),
])  # fmt: skip
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text
