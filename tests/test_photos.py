"""The embedded data set: what it holds, that it is the same every time, and that its truth is named honestly."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from robustiqa.bench import load_dataset
from robustiqa.bench.errors import BadData, BadParameter, UnknownName
from robustiqa.bench.images import from_uint8, save_png, ssim, to_uint8


@pytest.mark.parametrize("size", [128, 256])
def test_every_photo_with_every_distortion_at_five_levels(size: int) -> None:
    photos = load_dataset(f"photos[size={size}]")
    assert len(photos) == 5 * (1 + 6 * 5)
    assert set(Counter(item.reference for item in photos.items).values()) == {31}
    kinds = Counter(item.id.split("/")[1].rsplit("-", 1)[0] for item in photos.items)
    assert kinds == {"reference": 5, "gaussian-blur": 25, "white-noise": 25, "jpeg": 25, "jpeg2000": 25,
                     "contrast": 25, "over-exposure": 25}  # fmt: skip
    x = photos.load(3)
    assert x.shape == (3, size, size)
    assert x.dtype == torch.float32
    assert torch.equal(from_uint8(to_uint8(x)), x)


def test_the_references_alone() -> None:
    alone, quick = load_dataset("photos[subset=references]"), load_dataset("photos[subset=quick]")
    assert [item.id for item in alone.items] == [i.id for i in quick.items if i.id.endswith("/reference")]
    assert torch.equal(alone.load(1), quick.load(5))


def test_truth_is_a_named_pseudo_mos() -> None:
    photos = load_dataset("photos[subset=quick]")
    assert photos.truth_name == "pseudo-MOS (SSIM)"
    for index, item in enumerate(photos.items):
        reference = next(i for i, other in enumerate(photos.items) if other.id == f"{item.reference}/reference")
        assert item.truth == pytest.approx(100 * ssim(photos.load(index), photos.load(reference)))


def test_stronger_levels_have_lower_truth() -> None:
    truth = {item.id: item.truth for item in load_dataset("photos").items}
    for name, value in truth.items():
        head, _, level = name.rpartition("-")
        if level.isdigit() and int(level) > 1:
            assert value is not None
            assert value < (truth[f"{head}-{int(level) - 1}"] or 0)


def test_same_pixels_every_time_and_a_subset_is_a_subset() -> None:
    first, second = load_dataset("photos"), load_dataset("photos")
    assert first.content_hash == second.content_hash
    quick = load_dataset("photos[subset=quick]")
    ids = {item.id: i for i, item in enumerate(first.items)}
    assert len(quick) == 25
    assert len({item.id.split("/")[1].rsplit("-", 1)[0] for item in quick.items}) == 7
    for index, item in enumerate(quick.items):
        assert torch.equal(quick.load(index), first.load(ids[item.id]))
    assert len({load_dataset(f"photos[{p}]").content_hash for p in ("size=128", "size=256", "subset=quick")}) == 3


def test_a_limit_takes_some_versions_as_they_are() -> None:
    whole = load_dataset("photos[subset=quick]")
    part = load_dataset("photos[subset=quick,limit=6]")
    assert len(part) == 6
    where = [whole.items.index(item) for item in part.items]
    assert where == sorted(where)
    assert where != list(range(6))
    assert torch.equal(part.load(3), whole.load(where[3]))
    assert len(load_dataset("photos[subset=quick,limit=99]")) == len(whole)
    assert part.content_hash != whole.content_hash


@pytest.mark.parametrize("text", ["photos[size=100]", "photos[subset=some]", "photos[limit=-1]"])
def test_bad_parameters(text: str) -> None:
    with pytest.raises(BadParameter, match="expected"):
        load_dataset(text)


def test_folder_with_a_table(tmp_path) -> None:
    for k in range(3):
        save_png(torch.full((3, 32, 32), 0.2 * k), tmp_path / f"{k}.png")
    (tmp_path / "t.csv").write_bytes("\ufeffname,dmos\r\n0.png,10\r\n2.png,30\r\n".encode())
    text = f"folder[root={tmp_path},table=t.csv,image=name,score=dmos,lower_better=true]"
    dataset = load_dataset(text)
    assert [(i.id, i.truth) for i in dataset.items] == [("0.png", -10.0), ("2.png", -30.0)]
    assert dataset.truth_name == "DMOS (negated)"
    before = dataset.content_hash
    save_png(torch.full((3, 32, 32), 0.9), tmp_path / "2.png")
    assert load_dataset(text).content_hash != before
    assert [i.id for i in load_dataset(f"folder[root={tmp_path}]").items] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(("table", "error", "words"), [
    ("name,mos\n../x.png,1\n", BadData, "outside the folder"),
    ("name,mos\n0.png,1\n0.png,2\n", BadData, "twice"),
    ("name,score\n0.png,1\n", UnknownName, "known are name, score"),
    ("", BadData, "cannot be read as CSV"),
])  # fmt: skip
def test_bad_tables(tmp_path, table: str, error: type[Exception], words: str) -> None:
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(error, match=words):
        _ = load_dataset(f"folder[root={tmp_path},table=t.csv,image=name,score=mos]").items


def test_missing_or_empty_folder(tmp_path) -> None:
    with pytest.raises(BadData, match="does not exist"):
        load_dataset(f"folder[root={tmp_path / 'absent'}]")
    with pytest.raises(BadData, match="no image files"):
        _ = load_dataset(f"folder[root={tmp_path}]").items
