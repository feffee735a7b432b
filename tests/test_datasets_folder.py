"""A user's own folder: columns by name, splits, deviations, names that are written otherwise, and clear errors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from releases import photo
from robustiqa.bench.datasets import load_dataset
from robustiqa.bench.datasets.folder import Folder
from robustiqa.bench.datasets.split import order
from robustiqa.bench.errors import BadData, BadImage, BadParameter, UnknownName
from robustiqa.bench.training.pool import held_out

TABLE = """file;photo;dmos;sd;part
a1;A;10;1.5;train
A2.PNG;A;30;2.5;train
b1.jpg;B;0.5;0;test
c1.png;C;7;1;val
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a1.png", "A2.png", "b1.JPG", "c1.png"):
        photo(tmp_path / "pictures" / name, 40, 32)
    (tmp_path / "t.csv").write_bytes(("\ufeff" + TABLE.replace("\n", "\r\n")).encode())
    return tmp_path


def folder(root: Path, **options: object) -> Folder:
    columns = {"image": "file", "score": "dmos", "reference": "photo", "std": "sd", "split_column": "part"}
    given = {"table": "t.csv", "images": "pictures", "lower_better": "true"} | columns | options
    data = load_dataset(f"folder[root={root}," + ",".join(f"{k}={v}" for k, v in given.items()) + "]")
    assert isinstance(data, Folder)
    return data


def test_every_column_by_its_name(root: Path) -> None:
    data = folder(root)
    assert [tuple(vars(item).values()) for item in data.items] == [
        ("a1", "A", -10.0), ("A2.PNG", "A", -30.0), ("b1.jpg", "B", -0.5), ("c1.png", "C", -7.0),
    ]  # fmt: skip
    assert data.stds == [1.5, 2.5, 0.0, 1.0]
    assert data.truth_name == "DMOS (negated)"
    assert folder(root, lower_better="false").truth_name == "MOS"
    assert all(data.load(i).shape == (3, 32, 40) for i in range(4))
    assert folder(root, split="test").items[0].id == "b1.jpg"
    assert [item.reference for item in folder(root, split="train").items] == ["A", "A"]


def test_a_table_without_scores_or_deviations(root: Path) -> None:
    data = folder(root, score="", std="")
    assert [item.truth for item in data.items] == [None] * 4
    assert data.truth_name is None
    assert all(map(math.isnan, data.stds))


def test_without_a_table_the_images_of_the_folder(root: Path) -> None:
    data = load_dataset(f"folder[root={root},images=pictures,crop=20]")
    assert [item.id for item in data.items] == ["A2.png", "a1.png", "b1.JPG", "c1.png"]
    assert data.truth_name is None
    assert data.load(0).shape == (3, 20, 20)
    (root / "pictures" / "._a1.png").write_bytes(bytes(99))
    (root / "pictures" / "folder.png").mkdir()
    assert load_dataset(f"folder[root={root},images=pictures]").items == data.items


def test_crop_and_side(root: Path) -> None:
    whole, part = folder(root), folder(root, side=24, crop=16)
    assert part.load(0).shape == (3, 16, 16)
    assert torch.equal(folder(root, crop=20).load(0), whole.load(0)[:, 6:26, 10:30])
    assert part.truth_name == "DMOS (negated) of the whole image before reduction"
    assert len({data.content_hash for data in (whole, part, folder(root, side=24))}) == 3


def test_the_content_hash_sees_references(root: Path) -> None:
    assert folder(root).content_hash != folder(root, reference="").content_hash


def test_an_image_that_is_not_there_fails_when_it_is_loaded(root: Path) -> None:
    (root / "pictures" / "c1.png").unlink()
    data = folder(root)
    assert len(data) == 4
    with pytest.raises(BadImage, match="does not exist"):
        data.load(3)
    assert data.content_hash


def test_a_training_is_watched_on_the_split_val() -> None:
    assert "split=val" in held_out("folder[root=x,split=train,split_column=part,table=t.csv]", "auto")


@pytest.mark.parametrize(("old", "new", "error", "words"), [
    ("10;", ";", BadData, "gives 'a1' no score"),
    ("10;", "ten;", BadData, "gives 'a1' the score 'ten': expected a number"),
    ("10;", "nan;", BadData, "gives 'a1' the score 'nan': expected a number"),
    ("1.5", "?", BadData, "gives 'a1' the standard deviation"),
    ("A2.PNG", "a1.png", BadData, "names a file twice, as 'a1' and as 'a1.png'"),
    ("A2.PNG", "a1", BadData, "names a file twice, as 'a1' and as 'a1'"),
    ("A2.PNG", "../t.csv", BadData, "outside the folder"),
    ("30;2.5;train", "30;2.5;test", BadData, "has 'A' in the splits 'train' and 'test'"),
    ("dmos", "mos", UnknownName, "did you mean 'mos'"),
    ("file;photo;dmos;sd", "file;photo;dmos;dmos", BadData, "several columns 'dmos'"),
    ("file;photo;dmos;sd", "file;photo;dmos ;Dmos", BadData, "has the columns 'dmos ' and 'Dmos'"),
    ("dmos", "DMOZ", UnknownName, "did you mean 'DMOZ'"),
    ("test\n", "final\n", UnknownName, "unknown split of t.csv 'test'"),
])  # fmt: skip
def test_wrong_tables(root: Path, old: str, new: str, error: type[Exception], words: str) -> None:
    (root / "t.csv").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(error, match=words):
        folder(root, split="test" if "split" in words else "all")


def test_names_of_columns_may_differ_in_case(root: Path) -> None:
    before = folder(root).items
    (root / "t.csv").write_text(TABLE.replace("file;photo;dmos", "File; Photo;DMOS"))
    assert folder(root).items == before
    (root / "t.csv").write_text(TABLE.replace("dmos;sd", "dmos;DMOS"))
    assert folder(root, std="").items == before, "the one that is written so"
    (root / "u.csv").write_text("Image,MOS\na1,3\n")
    assert load_dataset(f"folder[root={root},table=u.csv,images=pictures]").items[0].truth == 3


@pytest.mark.parametrize("option", ["image=file", "score=mos", "reference=photo", "std=sd", "split_column=part",
                                    "lower_better=true"])  # fmt: skip
def test_options_of_a_table_need_one(root: Path, option: str) -> None:
    with pytest.raises(BadParameter, match=f"{option.split('=')[0]}= would have no effect: name the CSV"):
        load_dataset(f"folder[root={root},images=pictures,{option}]")
    assert len(load_dataset(f"folder[root={root},images=pictures,score=,lower_better=false]")) == 4


def test_a_limit_takes_a_fair_sample_in_the_order_of_the_table(root: Path) -> None:
    for number in range(40):
        photo(root / "many" / f"{number:02}.png", 20, 20)
    whole = [item.id for item in load_dataset(f"folder[root={root},images=many]").items]
    parts = [[item.id for item in load_dataset(f"folder[root={root},images=many,limit={n}]").items] for n in (10, 20)]
    assert [len(part) for part in parts] == [10, 20]
    assert all(part == [name for name in whole if name in part] for part in parts)
    assert set(parts[0]) < set(parts[1])
    assert parts[0] != whole[:10]
    assert parts[0] == sorted(sorted(whole, key=order)[:10])
    assert len(folder(root, limit=9)) == 4
    with pytest.raises(BadParameter, match=r"folder\[limit=-1\]: expected 0"):
        folder(root, limit=-1)


def test_a_table_outside_the_folder_or_not_there(root: Path) -> None:
    (root / "x.csv").write_text("image,mos\na1,3\n")
    pictures = root / "pictures"
    for name in ("../x.csv", str(root / "x.csv"), "a/../../x.csv"):
        with pytest.raises(BadData, match=r"outside the folder .*give as root= a folder that holds both, and as"):
            load_dataset(f"folder[root={pictures},table={name}]")
    (pictures / "linked.csv").symlink_to(root / "x.csv")
    assert len(load_dataset(f"folder[root={pictures},table=linked.csv]")) == 1
    with pytest.raises(BadData, match=r"no table 'nofile\.csv': there are t\.csv, x\.csv; give table= relative"):
        folder(root, table="nofile.csv")
    with pytest.raises(BadData, match=r"no table 'pictures'"):
        folder(root, table="pictures")


def test_a_root_that_is_no_folder(root: Path) -> None:
    with pytest.raises(BadData, match=r"t\.csv' is a file: give the folder that holds it"):
        load_dataset(f"folder[root={root / 't.csv'}]")
    with pytest.raises(BadData, match=r"root=\] names no folder"):
        load_dataset("folder[root=]")
    (root / "empty").mkdir()
    with pytest.raises(BadData, match=r"holds no image files \(\.bmp"):
        load_dataset(f"folder[root={root / 'empty'}]")
    with pytest.raises(BadParameter, match="names no column"):
        folder(root, image="")


def test_wrong_options(root: Path) -> None:
    with pytest.raises(BadParameter, match="needs the column that says so"):
        folder(root, split="test", split_column="")
    with pytest.raises(BadParameter, match="crop=4"):
        folder(root, crop=4)
    with pytest.raises(BadData, match=r"images names '\.\.'"):
        folder(root, images="..")
    with pytest.raises(BadData, match=r"nowhere.* does not exist"):
        folder(root, images="nowhere")
    for named, words in (("t.csv", "is a file: give the folder"), ("nowhere", "does not exist: give the folder")):
        with pytest.raises(BadData, match=words):
            load_dataset(f"folder[root={root / named}]")
    with pytest.raises(UnknownName, match=r"column of t\.csv"):
        folder(root, std="spread")
    (root / "t.csv").write_text(TABLE.split("\n")[0] + "\n")
    with pytest.raises(BadData, match="has no rows"):
        folder(root)
    (root / "t.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(BadData, match="cannot be read as CSV"):
        folder(root)
