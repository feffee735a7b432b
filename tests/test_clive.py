"""CLIVE: the recorded split, the official tables, absent files, clear errors."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from robustiqa.bench.datasets import clive
from robustiqa.bench.datasets.clive import Clive
from robustiqa.bench.datasets.split import split_of
from robustiqa.bench.errors import BadData, BadImage, BadParameter, UnknownName

CSV = Path(clive.__file__).parent / "splits" / "clive.csv"


def data_root() -> Path:
    """Folder of the public data files, or skip: they are never part of the repository."""
    beside = Path(clive.__file__).resolve().parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("ROBUSTIQA_DATA", beside))
    if not (root / "clive" / clive.RELEASE).is_dir():
        pytest.skip("CLIVE is not here: set ROBUSTIQA_DATA")
    return root


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of 40 tiny images in the official layout, one of them absent."""
    rng = np.random.default_rng(0)
    names = [f"t{i}.bmp" for i in range(1, 8)] + [f"{i}.JPG" for i in range(500, 540)]
    for folder in ("Images/trainingImages", "Data"):
        (tmp_path / clive.RELEASE / folder).mkdir(parents=True)
    for name in names[:-1]:
        where = "Images/trainingImages" if name.startswith("t") else "Images"
        Image.fromarray(rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(
            tmp_path / clive.RELEASE / where / name, format="JPEG"
        )
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = [np.array([n]) for n in names]
    for column, values in (("Images", cells), ("MOS", np.arange(47.0)[None]), ("StdDev", np.full((1, 47), 9.0))):
        scipy.io.savemat(
            tmp_path / clive.RELEASE / "Data" / f"All{column}_release.mat", {f"All{column}_release": values}
        )
    return tmp_path


def recorded() -> dict[str, str]:
    with CSV.open(newline="") as file:
        return {row["image"]: row["split"] for row in csv.DictReader(file)}


def test_the_recorded_split_is_the_documented_rule() -> None:
    table = recorded()
    assert len(table) == 1162
    assert table == {image: split_of(image) for image in table}
    shares = {s: sum(v == s for v in table.values()) / len(table) for s in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.03)


def test_training_rows_are_left_out_and_scores_stay_with_their_image(release: Path) -> None:
    data = Clive(str(release), split="all")
    assert len(data) == 39
    assert data.n_absent == 1
    assert data.truth_name == "MOS"
    assert {item.id: item.truth for item in data.items} == {f"{i}.JPG": i - 500 + 7.0 for i in range(500, 539)}
    assert data.stds == [9.0] * 39
    image = data.load(0)
    assert image.shape == (3, 64, 80)
    assert image.dtype == torch.float32
    assert 0 <= float(image.min()) < float(image.max()) <= 1


def test_splits_are_disjoint_and_a_limit_is_a_prefix(release: Path) -> None:
    parts = [{i.id for i in Clive(str(release), split=s).items} for s in ("train", "val", "test")]
    assert set.union(*parts) == {i.id for i in Clive(str(release), split="all").items}
    assert sum(map(len, parts)) == 39
    whole = Clive(str(release), split="train")
    assert [i.id for i in Clive(str(release), split="train", limit=3).items] == [i.id for i in whole.items[:3]]


def test_a_crop_is_the_middle_and_another_data_set(release: Path) -> None:
    whole, part = Clive(str(release), split="all"), Clive(str(release), split="all", crop=40)
    assert torch.equal(part.load(3), whole.load(3)[:, 12:52, 20:60])
    assert part.content_hash != whole.content_hash
    assert part.truth_name == "MOS of the whole image"
    with pytest.raises(BadImage, match="at least 70x70"):
        Clive(str(release), split="all", crop=70).load(0)
    with pytest.raises(BadParameter, match="crop"):
        Clive(str(release), crop=8)


def test_content_hash_sees_the_bytes_of_the_files(release: Path) -> None:
    first = Clive(str(release), split="all")
    assert first.content_hash == Clive(str(release / clive.RELEASE), split="all").content_hash
    assert first.content_hash != Clive(str(release), split="test").content_hash
    Image.new("RGB", (64, 80)).save(release / clive.RELEASE / "Images" / first.items[0].id, format="JPEG")
    assert first.content_hash != Clive(str(release), split="all").content_hash


def test_errors_say_what_to_do(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        Clive(str(release), split="trian")
    with pytest.raises(BadParameter, match="limit"):
        Clive(str(release), limit=-1)
    with pytest.raises(BadData, match="unpack"):
        Clive(str(tmp_path / "nowhere"))
    monkeypatch.delenv("ROBUSTIQA_DATA", raising=False)
    with pytest.raises(BadData, match="ROBUSTIQA_DATA"):
        Clive()
    data = Clive(str(release), split="all")
    (release / clive.RELEASE / "Images" / data.items[0].id).write_bytes(b"broken")
    with pytest.raises(BadImage, match="corrupt"):
        data.load(0)
    (release / clive.RELEASE / "Data" / "AllMOS_release.mat").write_bytes(b"broken")
    with pytest.raises(BadData, match="unpack the release again"):
        Clive(str(release))


def test_the_real_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTIQA_DATA", str(data_root()))
    data = Clive(split="all")
    assert len(data) + data.n_absent == 1162
    assert {i.id for i in data.items} <= recorded().keys()
    truth = [i.truth for i in data.items if i.truth is not None]
    assert 3 < min(truth) < max(truth) < 93
    known = {i.id: i.truth for i in data.items}
    if "533.JPG" in known:
        assert known["533.JPG"] == pytest.approx(73.62352941176471)
