"""KonIQ-10k and SPAQ: synthetic releases in the official layouts, splits, absent files, clear errors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from robustiqa.bench.datasets import Dataset, load_dataset
from robustiqa.bench.datasets.koniq import SCORES, SETS, Koniq10k
from robustiqa.bench.datasets.spaq import TABLE, Spaq
from robustiqa.bench.datasets.split import order, split_of
from robustiqa.bench.errors import Absent, BadData, BadImage, BadParameter, UnknownName

COUNT = 40
VOTES = np.random.default_rng(1).integers(1, 40, (COUNT, 5))
MOS = (VOTES * np.arange(1, 6)).sum(1) / VOTES.sum(1)
NAMES = [f"{i}.jpg" for i in range(500, 500 + COUNT)]


def save(path: Path, width: int = 48, height: int = 32) -> None:
    """A random photograph as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def koniq_scores(mos: np.ndarray = MOS) -> pd.DataFrame:
    votes = {f"c{k + 1}": VOTES[:, k] for k in range(5)}
    rest = {"c_total": VOTES.sum(1), "MOS": mos, "SD": np.full(COUNT, 0.5), "MOS_zscore": np.linspace(90, 5, COUNT)}
    return pd.DataFrame({"image_name": NAMES, **votes, **rest})


def koniq_sets() -> pd.DataFrame:
    """Proportions of votes, a normalised MOS, and the authors' split: every fourth image tests."""
    table = koniq_scores(np.linspace(1, 99, COUNT)).drop(columns="MOS_zscore")
    votes = [f"c{k + 1}" for k in range(5)]
    table[votes] = table[votes].div(table["c_total"], axis=0)
    return table.assign(set=[("test", "training", "training", "validation")[i % 4] for i in range(COUNT)])


@pytest.fixture
def koniq(tmp_path: Path) -> Path:
    """All tables and the 512x384 images, the last of which is absent."""
    for name in NAMES[:-1]:
        save(tmp_path / "512x384" / name)
    koniq_scores().to_csv(tmp_path / f"{SCORES}.csv", index=False)
    koniq_sets().to_csv(tmp_path / SETS, index=False)
    return tmp_path


@pytest.fixture
def spaq(tmp_path: Path) -> Path:
    """The table as CSV, and the images, the last of which is absent and the first of which is upright."""
    names = [f"{i:05d}.jpg" for i in range(1, COUNT + 1)]
    for i, name in enumerate(names[:-1]):
        save(tmp_path / "TestImage" / name, *((40, 60) if i == 0 else (60, 40)))
    (tmp_path / "Annotations").mkdir()
    table = pd.DataFrame({"Image name": names, "MOS": np.linspace(5, 95, COUNT), "Brightness": 50.0})
    table.to_csv(tmp_path / "Annotations" / f"{TABLE}.csv", index=False)
    return tmp_path


def truths(data: Dataset) -> dict[str, float | None]:
    return {item.id: item.truth for item in data.items}


def test_koniq_takes_the_authors_split(koniq: Path) -> None:
    expected = {"test": NAMES[::4], "train": NAMES[1::4] + NAMES[2::4], "val": NAMES[3::4]}
    for split, names in expected.items():
        data = Koniq10k(str(koniq), split=split)
        assert data.official_split
        assert truths(data).keys() == set(names) - {NAMES[-1]}
        assert data.n_absent == (NAMES[-1] in names)


def test_with_a_limit_only_the_absent_images_that_others_stand_in_for_are_counted(koniq: Path) -> None:
    listed = sorted(NAMES, key=order)
    before = listed.index(NAMES[-1])  # the one that is absent
    assert 0 < before < COUNT - 1
    for limit in range(1, COUNT + 1):
        data = Koniq10k(str(koniq), split="all", limit=limit)
        assert data.n_absent == (limit > before)
        assert [item.id for item in data.items] == [name for name in listed if name != NAMES[-1]][:limit]


def test_koniq_without_it_splits_by_name_and_says_so(koniq: Path) -> None:
    (koniq / SETS).unlink()
    for split in ("train", "val", "test"):
        data = Koniq10k(str(koniq), split=split)
        assert not data.official_split
        assert truths(data).keys() == {n for n in NAMES[:-1] if split_of(n) == split}
    assert "split_of" in (Koniq10k.__doc__ or "")


@pytest.mark.parametrize("gone", [[], [SETS], [f"{SCORES}.csv"]])
def test_koniq_mos_is_from_1_to_5_whichever_table_is_there(koniq: Path, gone: list[str]) -> None:
    for name in gone:
        (koniq / name).unlink()
    data = Koniq10k(str(koniq), split="all")
    assert truths(data) == pytest.approx(dict(zip(NAMES[:-1], MOS[:-1], strict=True)))
    assert data.stds == [0.5] * (COUNT - 1)
    assert (data.n_absent, data.truth_name) == (1, "MOS")


def test_koniq_normalised_scores_are_those_of_their_own_table(koniq: Path) -> None:
    for mos, values, table in (("zscore", (90, 5), f"{SCORES}.csv"), ("sets", (1, 99), SETS)):
        data = Koniq10k(str(koniq), split="all", mos=mos)
        assert truths(data) == pytest.approx(dict(zip(NAMES[:-1], np.linspace(*values, COUNT)[:-1], strict=True)))
        assert all(map(math.isnan, data.stds))
        assert data.official_split
        assert "0 to 100" in (data.truth_name or "")
        (koniq / table).rename(koniq / "away")
        with pytest.raises(Absent, match=re.escape(table)):
            Koniq10k(str(koniq), split="all", mos=mos)
        (koniq / "away").rename(koniq / table)
    with pytest.raises(UnknownName, match="votes"):
        Koniq10k(str(koniq), mos="mean")


def test_koniq_table_in_the_folder_of_its_archive(koniq: Path) -> None:
    (koniq / SCORES).mkdir()
    (koniq / f"{SCORES}.csv").rename(koniq / SCORES / f"{SCORES}.csv")
    assert len(Koniq10k(str(koniq), split="all")) == COUNT - 1


def test_koniq_by_its_plugin_string(koniq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(koniq / "1024x768" / NAMES[0], 96, 64)
    (koniq / "koniq10k").symlink_to(koniq)
    monkeypatch.setenv("ROBUSTIQA_DATA", str(koniq))
    small, large = load_dataset("koniq10k"), load_dataset("koniq10k[resolution=1024x768]")
    assert small.load(0).shape == (3, 32, 48)
    assert large.load(0).shape == (3, 64, 96)
    assert small.content_hash != large.content_hash
    whole = load_dataset("koniq10k[split=all]").items
    assert list(load_dataset("koniq10k[split=all,limit=7]").items) == list(whole[:7])
    assert [item.id for item in whole] != sorted(item.id for item in whole)


def test_content_hash_sees_bytes_and_scores(koniq: Path) -> None:
    first = Koniq10k(str(koniq), split="all").content_hash
    assert first == Koniq10k(str(koniq), split="all").content_hash
    koniq_scores(np.full(COUNT, 3.0)).to_csv(koniq / f"{SCORES}.csv", index=False)
    second = Koniq10k(str(koniq), split="all").content_hash
    Image.new("RGB", (48, 32)).save(koniq / "512x384" / NAMES[0])
    assert len({first, second, Koniq10k(str(koniq), split="all").content_hash}) == 3


def test_spaq_reduces_the_shorter_side(spaq: Path) -> None:
    data = Spaq(str(spaq), side=20, split="all")
    assert len(data) == COUNT - 1
    assert data.n_absent == 1
    assert all(math.isnan(std) for std in data.stds)
    shapes = {item.id: tuple(data.load(i).shape) for i, item in enumerate(data.items)}
    assert shapes.pop("00001.jpg") == (3, 30, 20)
    assert set(shapes.values()) == {(3, 20, 30)}
    index = [item.id for item in data.items].index("00002.jpg")
    with Image.open(spaq / "TestImage" / "00002.jpg") as image:
        expected = np.asarray(image.resize((30, 20), Image.Resampling.BICUBIC))
    assert torch.equal((data.load(index) * 255).round().byte(), torch.tensor(expected).permute(2, 0, 1))


def test_spaq_never_enlarges(spaq: Path) -> None:
    as_they_are = Spaq(str(spaq), side=0)
    same = Spaq(str(spaq))
    assert torch.equal(as_they_are.load(0), same.load(0))
    assert as_they_are.content_hash != same.content_hash


def test_crop_and_side_of_both(koniq: Path) -> None:
    data = Koniq10k(str(koniq), split="all", side=20, crop=16)
    assert data.load(0).shape == (3, 16, 16)
    assert data.truth_name == "MOS of the whole image before reduction"
    assert data.content_hash != Koniq10k(str(koniq), split="all", side=20).content_hash


def test_spaq_says_that_its_mos_is_of_larger_images(spaq: Path) -> None:
    assert Spaq(str(spaq)).truth_name == "MOS of the image before reduction"
    assert Spaq(str(spaq), side=0).truth_name == "MOS"
    assert Spaq(str(spaq), side=0, crop=24).load(0).shape == (3, 24, 24)


def test_spaq_splits_by_name(spaq: Path) -> None:
    found = truths(Spaq(str(spaq), split="all"))
    assert found["00001.jpg"] == 5.0
    for split in ("train", "val", "test"):
        assert truths(Spaq(str(spaq), split=split)) == {n: t for n, t in found.items() if split_of(n) == split}


def test_spaq_reads_the_official_xlsx(spaq: Path) -> None:
    pytest.importorskip("openpyxl")
    expected = truths(Spaq(str(spaq), split="all"))
    table = spaq / "Annotations" / f"{TABLE}.csv"
    pd.read_csv(table).to_excel(table.with_suffix(".xlsx"), index=False)
    table.unlink()
    assert truths(Spaq(str(spaq), split="all")) == pytest.approx(expected)
    table.with_suffix(".xlsx").write_bytes(b"broken")
    with pytest.raises(BadData, match="cannot be read"):
        Spaq(str(spaq))


def test_spaq_without_openpyxl_says_what_to_do(spaq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = spaq / "Annotations" / f"{TABLE}.csv"
    table.rename(table.with_suffix(".xlsx"))

    def no_openpyxl(path: Path) -> pd.DataFrame:
        raise ImportError("Missing optional dependency 'openpyxl'")

    monkeypatch.setattr(pd, "read_excel", no_openpyxl)
    with pytest.raises(Absent, match="pip install openpyxl, or save the table"):
        Spaq(str(spaq))


@pytest.mark.parametrize("build", [Koniq10k, Spaq])
def test_what_is_not_there_is_absent(
    build: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Absent, match="unpack the official archives"):
        build(str(tmp_path))
    monkeypatch.delenv("ROBUSTIQA_DATA", raising=False)
    with pytest.raises(Absent, match="set ROBUSTIQA_DATA"):
        build()
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        build(split="trian")
    with pytest.raises(BadParameter, match="limit"):
        build(limit=-1)


def test_tables_without_images_are_absent(koniq: Path) -> None:
    with pytest.raises(Absent, match="choose the other resolution"):
        Koniq10k(str(koniq), resolution="1024x768")
    (koniq / "1024x768").mkdir()
    with pytest.raises(Absent, match="none of the 10 images of split 'test'"):
        Koniq10k(str(koniq), resolution="1024x768")


def broken(error: type[Exception], words: str, make: Callable[[], object]) -> None:
    """It is an error in the words given, and not one that a suite may skip."""
    with pytest.raises(error, match=words) as found:
        make()
    assert not isinstance(found.value, Absent)


def test_broken_koniq_tables_are_an_error(koniq: Path) -> None:
    table, root = koniq / f"{SCORES}.csv", str(koniq)
    broken(UnknownName, "did you mean '512x384'", lambda: Koniq10k(root, resolution="512"))
    koniq_scores().drop(columns="MOS").to_csv(table, index=False)
    broken(BadData, "no column 'MOS', only image_name, c1", lambda: Koniq10k(root))
    koniq_sets().to_csv(table, index=False)
    broken(BadData, "'502.jpg' the score 6.0.*from 1 to 5", lambda: Koniq10k(root))
    table.write_bytes(b"\xff\xfe\x00")
    broken(BadData, "cannot be read", lambda: Koniq10k(root))
    koniq_scores().to_csv(table, index=False)
    koniq_sets().replace({"set": {"validation": "dev"}}).to_csv(koniq / SETS, index=False)
    broken(BadData, "the set 'dev'", lambda: Koniq10k(root))
    koniq_sets()[1:].to_csv(koniq / SETS, index=False)
    broken(BadData, "does not list '500.jpg'", lambda: Koniq10k(root))


def test_broken_spaq_is_an_error(spaq: Path) -> None:
    broken(BadParameter, "side", lambda: Spaq(str(spaq), side=4))
    data = Spaq(str(spaq))
    (spaq / "TestImage" / data.items[0].id).write_bytes(b"broken")
    broken(BadImage, "corrupt", lambda: data.load(0))
    table = spaq / "Annotations" / f"{TABLE}.csv"
    text = table.read_text()
    table.write_text(text.replace("5.0,", "?,", 1))
    broken(BadData, "'00001.jpg' the score", lambda: Spaq(str(spaq)))
    table.write_text(text.replace("Image name", "image"))
    broken(BadData, "no column 'Image name'", lambda: Spaq(str(spaq)))
