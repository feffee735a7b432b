"""Names of tables and files of folders; CSV files as users and releases write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from robustiqa.bench.datasets.names import Finder
from robustiqa.bench.datasets.tables import read_csv, read_lines, read_table, scores
from robustiqa.bench.errors import BadData


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "B.BMP", "sub/C.Jpg", "sub/c.txt", "D.png", "d.png", "e.png", "e.jpg", "f.tar.png", "plain"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "out.png").touch()
    return tmp_path / "in"


@pytest.mark.parametrize(("name", "file"), [
    ("a.png", "a.png"), ("A.PNG", "a.png"), ("b.bmp", "B.BMP"), ("a", "a.png"), ("b", "B.BMP"), ("SUB/c", "sub/C.Jpg"),
    ("sub/c.jpg", "sub/C.Jpg"), ("sub\\c.jpg", "sub/C.Jpg"), ("./a.png", "a.png"), ("D.png", "D.png"),
    ("d.png", "d.png"), ("e.jpg", "e.jpg"), ("f.tar", "f.tar.png"), ("plain", "plain"), ("sub", "sub"),
])  # fmt: skip
def test_names_are_found(folder: Path, name: str, file: str) -> None:
    assert Finder(folder)(name) == folder / file


@pytest.mark.parametrize("name", ["", "g.png", "a.jpg", "f", "sub/../a.png", "../out.png", "nowhere/a.png", "a.png/a"])
def test_names_that_are_not_there_or_lead_out(folder: Path, name: str) -> None:
    assert Finder(folder)(name) is None


def test_absolute_names_and_folders_that_are_not_there(folder: Path) -> None:
    assert Finder(folder)(str(folder / "a.png")) is None
    assert Finder(folder / "nowhere")("a.png") is None


@pytest.mark.parametrize(("name", "words"), [("D.PNG", "'D.png' and 'd.png'"), ("e", "'e.jpg' and 'e.png'")])
def test_names_that_may_be_two_files(folder: Path, name: str, words: str) -> None:
    with pytest.raises(BadData, match=f"may be {words}"):
        Finder(folder)(name)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_of_any_kind(tmp_path: Path, separator: str, bom: str, end: str) -> None:
    rows = [["image", "mos"], ["007", "1.50"], ["NA", "2"], ["\u00e4 b.png", "3"]]
    text = bom + end.join(separator.join(row) for row in rows) + end
    (tmp_path / "t.csv").write_bytes(text.encode())
    frame = read_csv(tmp_path / "t.csv")
    assert [list(frame.columns), *frame.to_numpy().tolist()] == rows


@pytest.mark.filterwarnings("error")
def test_a_separator_at_the_end_of_the_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,mos\na.png,1,\nb.png,2,\n")
    assert read_csv(tmp_path / "t.csv").to_numpy().tolist() == [["a.png", "1"], ["b.png", "2"]]


@pytest.mark.parametrize(("text", "line"), [
    ("image,mos\na.png,3,5\nb.png,4,0\n", 2),  # all rows alike: pandas reads 3 and 4, with a warning
    ("image,mos\na.png,3,5,\nb.png,4,0,\n", 2),
    ("\nimage,mos\r\na.png,3\r\nb,c.png,4\r\n", 4),
])  # fmt: skip
def test_no_value_of_a_row_is_dropped(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    with pytest.raises(ValueError, match=f"line {line} has . values for 2 columns: write numbers with a point"):
        read_csv(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text('image,mos\n"b,c.png",3.5\n')
    assert read_csv(tmp_path / "t.csv").to_numpy().tolist() == [["b,c.png", "3.5"]]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_text("image,mos\n\u00e4.png,1\n", encoding=encoding)
    with pytest.raises(ValueError, match="save it again as CSV in UTF-8"):
        read_csv(tmp_path / "t.csv")


def test_numbers_are_read_to_the_last_bit(tmp_path: Path) -> None:
    values = ["75.44372347614072", "0.1", "1e-3", "  4 ", "-0.30000000000000004"]
    assert scores(values, values, tmp_path) == [float(value) for value in values]
    with pytest.raises(BadData, match="gives 'b' the score 5: expected a number from 0 to 4;"):
        scores(["1", "5"], ["a", "b"], tmp_path, 0, 4)
    with pytest.raises(BadData, match="the score inf: expected a number;"):
        scores(["inf"], ["a"], tmp_path)


def test_a_table_below_empty_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(";;;\n;;;\n;b;x;a\n;2;;1\n;;;\n;4;;3\n")
    assert read_table(tmp_path / "t.csv", "a", "b", sheet="s").to_numpy().tolist() == [["1", "2"], ["3", "4"]]
    with pytest.raises(BadData, match="no row with the column names a, c"):
        read_table(tmp_path / "t.csv", "a", "c", sheet="s")


def test_lines_of_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfone \r\n\r\n two\r\n")
    assert read_lines(tmp_path / "t.txt") == ["one", "two"]
    for content in (b"\xff\xfe", None):
        (tmp_path / "t.txt").unlink() if content is None else (tmp_path / "t.txt").write_bytes(content)
        with pytest.raises(BadData, match="cannot be read"):
            read_lines(tmp_path / "t.txt")
