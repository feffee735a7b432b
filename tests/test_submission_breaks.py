"""Breaks: packed with their images, and what is best known of a row that they speak of, by arithmetic."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from robustiqa.bench import load_dataset, load_metric, run_suite
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadSubmission, RobustIQAError
from robustiqa.bench.images import save_png
from robustiqa.bench.registry import registry
from robustiqa.bench.submission.packing import check_archive, pack, unpack_sources
from robustiqa.bench.submission.template import write_template
from robustiqa.bench.suite import Suite
from robustiqa.leaderboard.results import read_results
from robustiqa.leaderboard.submissions import accept, look, write_tables
from robustiqa.leaderboard.submissions.gains import listed_gains
from submissions import archive_of, changed_json, contents, manifest_of

EPS = 3 / 255
TARGET = {"metric": "linear", "defense": "none", "dataset": "eight-bit", "norm": "linf", "eps": EPS, "direction": "up"}
DATASET = '''
import torch
from robustiqa.bench import Dataset, Item, register_dataset

@register_dataset("eight-bit")
class EightBit(Dataset):
    """Images that a PNG file holds exactly."""

    def __init__(self) -> None:
        self.items = [Item(f"image-{i}", f"photo-{i}", float(i)) for i in range(12)]

    def load(self, index: int) -> torch.Tensor:
        """(3,20,24)."""
        random = torch.Generator().manual_seed(index)
        return torch.randint(60, 190, (3, 20, 24), generator=random).float() / 255
'''


def signs(x: torch.Tensor) -> torch.Tensor:
    return load_metric("linear").module.weights(x[None]).sign()  # type: ignore[operator]


def step() -> float:
    """What 3 grey levels gain, in units of the spread of the clean scores."""
    images = torch.stack([load_dataset("eight-bit").load(k) for k in range(12)])
    weights = load_metric("linear").module.weights(images).double()  # type: ignore[operator]
    low, high = np.percentile(3.0 + (images.double() * weights).sum((1, 2, 3)).numpy(), [1, 99])
    return EPS * float(weights.abs().sum()) / float(high - low)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verified break of ten of twelve images."""
    parent = tmp_path_factory.mktemp("break")
    (parent / "eight_bit.py").write_text(DATASET)
    registry.load_file(parent / "eight_bit.py")
    folder = write_template("three-levels", "break", parent)
    dataset = load_dataset("eight-bit")
    for k, item in enumerate(dataset.items[:-2]):
        save_png(dataset.load(k) + EPS * signs(dataset.load(k)), folder / "images" / f"{item.id}.png")
    metadata = yaml.safe_load((folder / "submission.yml").read_text())
    words = {
        "title": "Three levels",
        "description": "The optimum.",
        "method": "Signs.",
        "code": "https://example.org/a",
    }
    mine = {"target": TARGET, "gain": 10 / 12 * step(), "authors": [{"name": "Ada Example"}]}
    (folder / "submission.yml").write_text(yaml.safe_dump(metadata | words | mine))
    done = CliRunner().invoke(cli, ["submit", "verify", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def archive(broken: Path) -> Path:
    return pack(broken, out=broken.parent / "a.zip")[0]


@pytest.fixture(scope="module")
def board(broken: Path) -> Path:
    """A run that lists the target, by random noise."""
    attacks = [{"attack": "random-noise", "linf": ["3/255"]}]
    row = {"metrics": ["linear"], "defenses": ["none"], "datasets": ["eight-bit"]}
    suite = Suite.model_validate(row | {"name": "board", "attacks": attacks})
    assert run_suite(suite, broken.parent / "board", progress=False).ok
    return broken.parent / "board"


def rows_of(into: Path, table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((into / f"{table}.csv").read_text())))


def test_the_images_are_packed_and_come_back(archive: Path, broken: Path, tmp_path: Path) -> None:
    packed = check_archive(archive)
    assert packed.submission.kind == "break"
    assert len([name for name in contents(archive) if name.startswith("images/")]) == 10
    unpack_sources(archive, tmp_path / "new")
    for path in (broken / "images").iterdir():
        assert (tmp_path / "new" / "images" / path.name).read_bytes() == path.read_bytes()


def test_best_known_is_the_larger_gain_of_every_image(archive: Path, broken: Path, board: Path, tmp_path: Path) -> None:
    """Before the maintainers' run, the break stands beside; afterwards it counts, ours where it has no image."""
    into = tmp_path / "registry"
    accept(archive, into, boards=[board])
    ours = listed_gains(check_archive(archive).submission.target, [read_results(board)])  # type: ignore[union-attr]
    assert ours is not None
    expected = (10 * step() + sum(max(0.0, ours.by_image[f"image-{k}"]) for k in (10, 11))) / 12
    assert ours.by_image.max() < step(), "noise is weaker than the step along the signs"
    (best,) = rows_of(into, "best_known")
    assert float(best["listed"]) == pytest.approx(ours.by_image.mean(), rel=1e-4)
    assert float(best["best_known"]) == float(best["listed"])
    assert float(best["not_verified"]) == pytest.approx(expected, rel=1e-4)
    assert best["not_verified_by"] == "three-levels"
    accept(archive, into, verified=broken / "verified", boards=[board])
    (best,) = rows_of(into, "best_known")
    assert float(best["best_known"]) == pytest.approx(expected, rel=1e-4)
    assert (best["best_known_by"], best["not_verified"]) == ("three-levels", "")
    (row,) = rows_of(into, "submissions")
    assert float(row["verified"]) == pytest.approx(10 / 12 * step(), rel=1e-4)
    assert float(row["best_known"]) == float(best["best_known"])
    assert row["verdict"] == "confirmed"
    before = {path.name: path.read_bytes() for path in into.glob("*.*")}
    write_tables(into, [board])
    assert {path.name: path.read_bytes() for path in into.glob("*.*")} == before


def test_without_a_board_the_break_stands_alone(archive: Path, broken: Path, tmp_path: Path) -> None:
    accept(archive, tmp_path / "registry", verified=broken / "verified")
    (best,) = rows_of(tmp_path / "registry", "best_known")
    assert best["listed"] == ""
    assert float(best["best_known"]) == pytest.approx(10 / 12 * step(), rel=1e-4)


def test_other_images_than_those_that_were_verified(archive: Path, tmp_path: Path) -> None:
    """With manifest and verification edited as well: the attack in the records says which images it was."""
    files = contents(archive)
    names = [name for name in files if name.startswith("images/")]
    swapped = files | {names[0]: files[names[1]]}
    path = archive_of(tmp_path / "a.zip", swapped, manifest_of(swapped, name="three-levels", kind="break"))
    with pytest.raises(BadSubmission, match="is not what was verified"):
        look(path)
    digest = hashlib.sha256(files[names[1]]).hexdigest()
    told = changed_json(files["verification.json"], lambda data: data["files"].update({names[0]: digest}))
    swapped |= {"verification.json": told}
    archive_of(path, swapped, manifest_of(swapped, name="three-levels", kind="break"))
    with pytest.raises(BadSubmission, match="hold nothing of these images at the threat of the target"):
        look(path)


def test_links_that_a_verified_program_has_left(archive: Path, broken: Path, tmp_path: Path) -> None:
    """Nothing of the maintainers' machine is copied into the registry."""
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "1234"}')
    import shutil

    for name in ("runs/0002.json", "verification.json", "run.json"):
        left = shutil.copytree(broken / "verified", tmp_path / "left", dirs_exist_ok=True)
        (left / name).unlink(missing_ok=True)
        (left / name).symlink_to(secret)
        with pytest.raises(RobustIQAError, match="is a link"):
            accept(archive, tmp_path / "registry", verified=left)
        shutil.rmtree(left)
        assert not [p for p in (tmp_path / "registry").rglob("[!.]*") if p.is_file()]


def test_paths_of_this_machine_are_no_names(broken: Path, tmp_path: Path) -> None:
    """A data set that is named by a folder of one's own cannot be on a board."""
    from robustiqa.bench.plan import plan_from_json
    from robustiqa.bench.store import Store
    from robustiqa.bench.submission.scrubbed import check_names, scrubbed

    plan = Store(broken / "verified").read_json("plan.json")
    check_names(plan_from_json(plan))
    for root in ("/home/me/set", "~/set", "C:\\set\\a", "../../set"):
        for cell in plan["cells"]:
            cell["dataset"] = f"folder[root={root}]"
        with pytest.raises(BadSubmission, match="names a path of this machine"):
            check_names(plan_from_json(plan))
    record = {"arguments": ["run", "--out=/tmp/x/out", "~/a/b.yml", "../c/d.py", "4/255", "https://example.org/a/b"]}
    assert scrubbed(record) == {"arguments": ["run", "--out=out", "b.yml", "d.py", "4/255", "https://example.org/a/b"]}
