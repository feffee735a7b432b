"""Every loader of an official release on a small one: scores and their orientation, splits, absent and broken files."""

from __future__ import annotations

import csv
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from click.testing import CliRunner
from PIL import Image
from releases import RELEASES, Made, live, photo, references
from robustiqa.bench.cli.main import cli
from robustiqa.bench.datasets import load_dataset, split
from robustiqa.bench.datasets.release import Release
from robustiqa.bench.errors import Absent, BadData, BadImage, BadParameter, UnknownName
from robustiqa.bench.registry import registry

Tree = dict[str, tuple[Path, Made]]
"""Name -> root and contents."""
Copy = tuple[str, Path, Made]
"""Name, root, contents."""
FIRST = {
    "kadid10k": ("I01_01_01.png", "4.57"),
    "tid2013": ("I01_24_1.bmp", "5.51429"),
    "csiq": ("1600", "0.0625"),
    "pipal": ("A0000_00_00.bmp", "1200.25"),
    "agiqa3k": ("AttnGAN_normal_000.jpg", "0.195283431"),
    "flive": ("AVA__1.jpg", "2.5"),
}
"""An image of each table and its score, which is the first of that value."""
PINNED = {"kadid10k": 81, "tid2013": 25, "csiq": 30, "live": 29}
TEXT = [name for name in RELEASES if name != "live"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Every release, to be read only."""
    roots = {name: tmp_path_factory.mktemp(name) for name in RELEASES}
    return {name: (roots[name], make(roots[name])) for name, make in RELEASES.items()}


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, made: Tree, tmp_path: Path) -> Copy:
    """A copy of one release that a test may spoil: name, root, what it holds."""
    name = request.param
    root, rows = made[name]
    shutil.copytree(root, tmp_path / name)
    return name, tmp_path / name, Made(rows.rows, tmp_path / name / rows.table.relative_to(root))


def load(name: str, root: Path, **options: object) -> Release:
    text = "".join(f",{key}={value}" for key, value in options.items())
    data = load_dataset(f"{name}[root={root}{text}]")
    assert isinstance(data, Release)
    return data


def found(data: Release) -> dict[str, tuple[float | None, str, float]]:
    return {item.id: (item.truth, item.reference, std) for item, std in zip(data.items, data.stds, strict=True)}


def broken(words: str, name: str, root: Path) -> None:
    """It is an error in these words, and not one that a suite may skip."""
    with pytest.raises(BadData, match=words) as error:
        load(name, root, split="all")
    assert not isinstance(error.value, Absent)


def test_scores_references_and_deviations_are_the_tables(release: Copy) -> None:
    name, root, made = release
    data = load(name, root, split="all")
    rows = found(data)
    assert rows.keys() == made.rows.keys()
    for image, (truth, reference, std) in rows.items():
        assert (truth, reference) == made.rows[image][:2]
        assert std == made.rows[image][2] or (math.isnan(std) and math.isnan(made.rows[image][2]))
    assert data.truth_name == {
        "kadid10k": "MOS (the release's DMOS, larger = better)", "csiq": "DMOS (negated)", "pipal": "Elo score",
        "live": "DMOS (negated), realigned", "nips2017": None,
    }.get(name, "MOS")  # fmt: skip
    assert data.load(0).shape == (3, 20, 24)
    assert data.n_absent == (0 if name != "live" else 982 - np.count_nonzero(np.arange(982) % 5 == 3) - len(rows))


@pytest.mark.parametrize(("name", "better", "worse"), [
    ("kadid10k", "I01_01_01.png", "I01_01_05.png"),
    ("tid2013", "I01_24_1.bmp", "i01_24_5.bmp"),
    ("csiq", "awgn/1600.AWGN.1.png", "awgn/1600.AWGN.5.png"),
    ("live", "jp2k/img11.bmp", "fastfading/img163.bmp"),
    ("pipal", "A0000_03_00.bmp", "A0000_00_00.bmp"),
    ("agiqa3k", "xl2.2_normal_000.jpg", "AttnGAN_normal_000.jpg"),
])  # fmt: skip
def test_larger_is_better(name: str, better: str, worse: str, made: Tree) -> None:
    """Whatever the release calls its score: light distortions above strong ones, good generators above poor ones."""
    truth = {item.id: item.truth for item in load(name, made[name][0], split="all").items}
    first, second = truth[better], truth[worse]
    assert first is not None
    assert second is not None
    assert first > second


def test_no_reference_is_in_two_splits(release: Copy) -> None:
    name, root, made = release
    parts = {part: load(name, root, split=part) for part in ("train", "val", "test")}
    contents = [{item.reference for item in data.items} for data in parts.values()]
    assert sum(map(len, contents)) == len(set.union(*contents))
    assert {i.id for data in parts.values() for i in data.items} == made.rows.keys()
    for part, data in parts.items():
        for reference in {item.reference for item in data.items}:
            rule = split.pinned(name)[reference] if name in PINNED else split.split_of(reference)
            assert rule == part


@pytest.mark.parametrize(("name", "count"), PINNED.items())
def test_pinned_splits_are_the_documented_rule(name: str, count: int) -> None:
    with (Path(split.__file__).parent / "splits" / f"{name}.csv").open(newline="") as file:
        table = {row["reference"]: row["split"] for row in csv.DictReader(file)}
    ranked = sorted(table, key=split.order)
    assert len(ranked) == count
    test, val = round(count / 5), round(count / 10)
    expected = ["test"] * test + ["val"] * val + ["train"] * (count - test - val)
    assert [table[reference] for reference in ranked] == expected


def test_a_limit_is_a_prefix_and_the_environment_is_asked(release: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    name, root, _ = release
    monkeypatch.setenv("ROBUSTIQA_DATA", str(root.parent))
    whole = load_dataset(f"{name}[split=all]").items
    assert list(load_dataset(f"{name}[split=all,limit=5]").items) == list(whole[:5])
    assert [item.id for item in whole] == sorted((item.id for item in whole), key=split.order)


def test_crop_and_side_are_the_same_everywhere(release: Copy) -> None:
    name, root, _ = release
    photo(root / "large.png", 60, 40)
    whole = load(name, root, split="all", limit=1)
    shutil.copy(root / "large.png", whole._paths[0])
    reduced, cropped = load(name, root, split="all", limit=1, side=20), load(name, root, split="all", limit=1, crop=18)
    both = load(name, root, split="all", limit=1, side=20, crop=16)
    with Image.open(root / "large.png") as image:
        expected = np.asarray(image.resize((30, 20), Image.Resampling.BICUBIC))
    assert np.array_equal((reduced.load(0) * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    assert torch.equal(cropped.load(0), whole.load(0)[:, 11:29, 21:39])
    assert torch.equal(both.load(0), reduced.load(0)[:, 2:18, 7:23])
    assert len({data.content_hash for data in (whole, reduced, cropped, both)}) == 4
    if whole.truth_name:
        assert reduced.truth_name == f"{whole.truth_name} of the image before reduction"
        assert cropped.truth_name == f"{whole.truth_name} of the whole image"
        assert both.truth_name == f"{whole.truth_name} of the whole image before reduction"
    with pytest.raises(BadImage, match="at least 50x50"):
        load(name, root, split="all", limit=1, crop=50).load(0)
    for option in ("crop", "side"):
        with pytest.raises(BadParameter, match=f"{option}=8"):
            load(name, root, **{option: 8})


def test_images_that_are_absent_are_counted(release: Copy) -> None:
    name, root, _ = release
    before = load(name, root, split="all")
    for path in before._paths[:3]:
        path.unlink()
    after = load(name, root, split="all")
    assert (after.n_absent, len(after)) == (before.n_absent + 3, len(before) - 3)
    assert after.content_hash != before.content_hash
    for path in after._paths:
        path.unlink()
    with pytest.raises(Absent, match=r"none of the \d+ images of split 'all' is in"):
        load(name, root, split="all")


def test_what_is_not_there_is_absent_in_one_sentence(release: Copy, tmp_path: Path) -> None:
    name, root, made = release
    made.table.unlink()
    if name == "pipal":
        shutil.rmtree(made.table.parent)
    for place in (root, tmp_path / "nowhere"):
        with pytest.raises(Absent, match=r"no .* in '.*': expected .* in it; unpack the official archives there"):
            load(name, place)
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        load(name, root, split="trian")
    with pytest.raises(BadParameter, match="limit=-1"):
        load(name, root, limit=-1)


@pytest.mark.parametrize("release", TEXT, indirect=True)
def test_bom_and_line_ends_do_not_matter(release: Copy) -> None:
    name, root, made = release
    before = load(name, root, split="all")
    text = made.table.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    made.table.write_bytes(b"\xef\xbb\xbf" + text)
    after = load(name, root, split="all")
    assert (after.items, after.content_hash) == (before.items, before.content_hash)


@pytest.mark.parametrize(
    ("release", "value"),
    [(name, value) for name in FIRST for value in ("?", "nan", "inf", "")]
    # Outside the scale, where that has published ends.
    + [(name, "1e9") for name in FIRST if name not in ("pipal", "agiqa3k")],
    indirect=["release"],
)
def test_a_score_that_is_no_number_is_named(release: Copy, value: str) -> None:
    name, root, made = release
    image, score = FIRST[name]
    made.table.write_text(made.table.read_text().replace(score, value, 1))
    # A line of TID2013 without its score is one word.
    words = f"{image}.* the score {re.escape(value)}" if value or name != "tid2013" else f"the line '{image}'"
    broken(words, name, root)


@pytest.mark.parametrize("release", TEXT, indirect=True)
def test_an_image_that_is_listed_twice_is_an_error(release: Copy) -> None:
    name, root, made = release
    lines = made.table.read_text().splitlines()
    made.table.write_text("\n".join([*lines, lines[-1]]))
    if name == "tid2013":
        deviations = root / "mos_std.txt"
        deviations.write_text(deviations.read_text() + "0.1\n")
    broken("lists '.*' twice", name, root)


@pytest.mark.parametrize("release", TEXT, indirect=True)
def test_a_table_that_is_no_table(release: Copy) -> None:
    name, root, made = release
    made.table.write_bytes(b"\xff\xfe\x00 broken")
    broken("cannot be read", name, root)
    made.table.write_text("one\ntwo\n")
    broken("has no column|has no row|has the line", name, root)


def test_references_are_no_items(made: Tree) -> None:
    """KADID's pristine photographs lie among the images, LIVE's are copied into the folders of distortions."""
    data = load("kadid10k", made["kadid10k"][0], split="all")
    assert not {f"{name}.png" for name in references("kadid10k")} & {item.id for item in data.items}
    assert len(data) == 2 * 81
    copies = {f"jp2k/img{k + 1}.bmp" for k in range(0, 227, 10) if k % 5 == 3}
    assert not copies & {item.id for item in load("live", made["live"][0], split="all").items}


def test_a_reference_without_any_version_is_only_counted(made: Tree, tmp_path: Path) -> None:
    shutil.copytree(made["kadid10k"][0], tmp_path / "k")
    for path in (tmp_path / "k" / "images").glob("I01_*.png"):
        path.unlink()
    data = load("kadid10k", tmp_path / "k", split="all")
    assert data.n_absent == 2
    assert "I01" not in {item.reference for item in data.items}


def test_a_reference_that_the_split_does_not_know(made: Tree, tmp_path: Path) -> None:
    shutil.copytree(made["kadid10k"][0], tmp_path / "k")
    with (tmp_path / "k" / "dmos.csv").open("a") as file:
        file.write("I82_01_01.png,I82.png,3.5,0.5\n")
    with pytest.raises(BadData, match="no reference 'I82'"):
        load("kadid10k", tmp_path / "k")


def test_tid_names_in_another_case_and_deviations(made: Tree, tmp_path: Path) -> None:
    root = tmp_path / "t"
    shutil.copytree(made["tid2013"][0], root)
    data = load("tid2013", root, split="all")
    assert {path.suffix for path in data._paths} == {".bmp", ".BMP"}
    # The published deviation of 16 votes of 38 is that of the mean.
    assert math.sqrt(16 / 38 * 22 / 38 / 38) == pytest.approx(0.08009, abs=1e-5)
    (root / "mos_std.txt").write_text("0.1\n")
    broken("have 50 and 1 rows", "tid2013", root)
    (root / "mos_std.txt").unlink()
    assert all(map(math.isnan, load("tid2013", root, split="all").stds))
    photo(root / "distorted_images" / "i01_24_1.bmp")
    broken("may be 'I01_24_1.BMP' and 'i01_24_1.bmp'", "tid2013", root)
    photo(root / "distorted_images" / "I01_24_1.bmp")
    assert len(load("tid2013", root, split="all")) == 50
    with (root / "mos_with_names.txt").open("a") as file:
        file.write("3.5 I01_24_1.BMP\n3.5\n")
    broken("has the line '3.5'", "tid2013", root)


def test_a_file_that_answers_to_two_names(made: Tree, tmp_path: Path) -> None:
    root = tmp_path / "p"
    shutil.copytree(made["pipal"][0], root)
    with (root / "Train_Label" / "A0000.txt").open("a") as file:
        file.write("a0000_00_00.BMP,1400\n")
    broken("lists the file '.*A0000_00_00.bmp' twice, as '[aA]0000_00_00", "pipal", root)


def test_csiq_reads_the_official_xlsx(made: Tree, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    root = tmp_path / "c"
    shutil.copytree(made["csiq"][0], root)
    expected = found(load("csiq", root, split="all"))
    book = openpyxl.Workbook()
    book.active.append(["another sheet"])
    sheet = book.create_sheet("all_by_image")
    with (root / "csiq.DMOS.csv").open(newline="") as file:
        for line in csv.reader(file):
            sheet.append([None, None, *(float(c) if c.replace(".", "").isdigit() and c != "1600" else
                                        int(c) if c == "1600" else c or None for c in line)])  # fmt: skip
    book.save(root / "csiq.DMOS.xlsx")
    (root / "csiq.DMOS.csv").unlink()
    assert found(load("csiq", root, split="all")) == expected
    book.remove(sheet)
    book.save(root / "csiq.DMOS.xlsx")
    broken("cannot be read.*all_by_image", "csiq", root)


def test_csiq_distortion_that_is_unknown(made: Tree, tmp_path: Path) -> None:
    shutil.copytree(made["csiq"][0], tmp_path / "c")
    table = tmp_path / "c" / "csiq.DMOS.csv"
    table.write_text(table.read_text().replace("fnoise", "pink"))
    broken("the distortion 'pink': expected noise", "csiq", tmp_path / "c")


def test_live_without_the_realigned_scores(tmp_path: Path) -> None:
    made = live(tmp_path, "dmos.mat", shift=1.5)
    data = load("live", tmp_path, split="all")
    assert {image: row[0] for image, row in found(data).items()} == {image: row[0] for image, row in made.rows.items()}
    assert data.truth_name == "DMOS (negated)"
    assert all(map(math.isnan, data.stds))


@pytest.mark.parametrize(
    "content",
    [b"broken", b"", b"MATLAB 5.0 MAT-file".ljust(128) + b"\x00" * 64, None],
    ids=["text", "empty", "zeros", "cut"],
)
@pytest.mark.parametrize("file", ["dmos_realigned.mat", "refnames_all.mat"])
def test_a_broken_mat_is_named(file: str, content: bytes | None, tmp_path: Path) -> None:
    table = live(tmp_path).table.with_name(file)
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2] if content is None else content)
    broken(f"{file}' cannot be read", "live", tmp_path)


def test_live_tables_that_do_not_belong_together(tmp_path: Path) -> None:
    table = live(tmp_path).table
    columns = {name: np.zeros((1, 982)) for name in ("dmos_new", "dmos_std", "orgs")}
    scipy.io.savemat(table, {**columns, "orgs": np.full((1, 982), 2.0)})
    broken(r"the value 2\.0 in orgs", "live", tmp_path)
    scipy.io.savemat(table, {name: column[:, :900] for name, column in columns.items()})
    broken("have 900 and 982", "live", tmp_path)
    scipy.io.savemat(table, {**columns, "dmos_std": np.zeros((1, 5))})
    broken("have 982 and 5 and 982 rows", "live", tmp_path)
    scipy.io.savemat(table, {"dmos_new": columns["dmos_new"]})
    broken("no variable 'dmos_std'", "live", tmp_path)


def test_pipal_images_in_one_folder_or_in_two(made: Tree, tmp_path: Path) -> None:
    root = tmp_path / "p"
    shutil.copytree(made["pipal"][0], root)
    before = load("pipal", root, split="all").content_hash
    shutil.copy(root / "Distortion_1" / "A0000_00_00.bmp", root / "Distortion_3")
    broken("'A0000_00_00.bmp' is both '.*Distortion_1.*' and '.*Distortion_3", "pipal", root)
    (root / "Distortion_3" / "A0000_00_00.bmp").unlink()
    for k in range(1, 5):
        shutil.copytree(root / f"Distortion_{k}", root / "Dist_Imgs", dirs_exist_ok=True)
        shutil.rmtree(root / f"Distortion_{k}")
    assert load("pipal", root, split="all").content_hash == before


def test_agiqa_images_beside_the_table(made: Tree, tmp_path: Path) -> None:
    root = tmp_path / "AGIQA-3K"
    shutil.copytree(made["agiqa3k"][0] / "images", root)
    shutil.copy(made["agiqa3k"][1].table, root)
    for place in (root, tmp_path):
        assert found(load("agiqa3k", place, split="all")) == made["agiqa3k"][1].rows


def test_flive_takes_the_authors_split(made: Tree, tmp_path: Path) -> None:
    root = tmp_path / "FLIVE_Database"
    shutil.copytree(made["flive"][0], root)
    names = sorted(made["flive"][1].rows)
    assert not load("flive", tmp_path).official_split  # type: ignore[attr-defined]
    (root / "labels640.csv").write_text("mos_image,name_image\n" + "".join(f"1,{n}\n" for n in names[:6]))
    valid = "".join(f"{n},{k % 2 == 0}\n" for k, n in enumerate(names[6:30]))
    (root / "labels=640_padded.csv").write_text("name_image,is_valid\n" + valid)
    expected = {"test": names[:6], "val": names[6:30:2], "train": names[7:30:2] + names[30:]}
    for part, images in expected.items():
        data = load("flive", tmp_path, split=part)
        assert data.official_split  # type: ignore[attr-defined]
        assert {item.id for item in data.items} == set(images)
    (root / "labels=640_padded.csv").write_text("name_image,is_valid\nx,2\n")
    broken("says is_valid '2' of 'x'", "flive", tmp_path)


def test_a_grey_file_of_a_release_is_no_failure(made: Tree, tmp_path: Path) -> None:
    """AVA and COCO, whose photographs FLIVE has, hold grey ones: one failure would leave a whole row without rank."""
    root = tmp_path / "flive"
    shutil.copytree(made["flive"][0], root)
    data = load("flive", root, split="all")
    (index,) = (k for k, item in enumerate(data.items) if item.id.endswith("AVA__3.jpg"))
    Image.new("L", (24, 20), 77).save(root / "database" / data.items[index].id)
    assert data.load(index).unique().tolist() == pytest.approx([77 / 255])
    assert data.load(index).shape == (3, 20, 24)


def test_nips_takes_all_and_the_table_of_the_repository(made: Tree, tmp_path: Path) -> None:
    root = tmp_path / "n"
    shutil.copytree(made["nips2017"][0], root)
    (root / "images.csv").rename(root / "dev_dataset.csv")
    data = load("nips2017", root)
    assert len(data) == 24
    assert all(item.truth is None for item in data.items)


def test_the_page_of_the_data_sets_has_them_all() -> None:
    page = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    built_in = [name for name in registry.names("dataset") if registry.get("dataset", name).origin == "built-in"]
    sources = page.split("## Sources")[1]
    for name in built_in:
        assert f"\n| `{name}` | " in page
        assert f"\n| `{name}` | " in sources or name in ("photos", "folder")


def test_they_are_listed_and_their_absence_is_said_by_a_plan(
    made: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = CliRunner().invoke(cli, ["list", "datasets"]).output
    assert "BROKEN" not in listed
    assert all(f"\n{name} " in listed for name in RELEASES)
    suite = tmp_path / "s.yml"
    suite.write_text(
        f"schema: 1\nname: s\nmetrics: [linear]\ndatasets: ['live[root={made['live'][0]},split=all]', 'csiq']\n"
        "defenses: [none]\nattacks: []\nabsent: skip\n"
    )
    monkeypatch.delenv("ROBUSTIQA_DATA", raising=False)
    plan = CliRunner().invoke(cli, ["plan", "--suite", str(suite)])
    assert plan.exit_code == 0, plan.output
    assert re.search(r"left out: images of live\[.*\]: not on this machine: 687\n", plan.output)
    assert "the data set 'csiq' needs its files: give csiq[root=FOLDER] or set ROBUSTIQA_DATA" in plan.output
