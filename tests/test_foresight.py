"""What a plan foresees: images that are missing, unusable or too small, before anything is scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from releases import photo
from robustiqa.bench import load_metric
from robustiqa.bench.build import load_defense
from robustiqa.bench.cli.main import cli
from robustiqa.bench.datasets import load_dataset
from robustiqa.bench.errors import BadImage
from robustiqa.bench.foresight import Foresight
from robustiqa.bench.plan import make_plan
from robustiqa.bench.suite import load_suite

SIZES = {"a": (96, 96), "b": (80, 70), "c": (40, 90), "d": (70, 200)}
DEFENSES = ["none", "resize[scale=0.8]", "random-crop[size=72]", "ensemble[others=lip-iqa]"]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Four images, one of them too small for tiny-iqa, one grey, and one that is only in the table."""
    for name, size in SIZES.items():
        photo(tmp_path / "in" / f"{name}.png", *size)
    Image.fromarray(np.zeros((99, 99), np.uint8)).save(tmp_path / "in" / "grey.png")
    (tmp_path / "in" / "t.csv").write_text("image,mos\n" + "".join(f"{name},1\n" for name in [*SIZES, "grey", "gone"]))
    content = {"name": "mine", "metrics": ["tiny-iqa"], "defenses": DEFENSES,
               "datasets": [f"folder[root={tmp_path / 'in'},table=t.csv]"]}  # fmt: skip
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_plan_says_what_will_fail_and_why(suite: Path) -> None:
    plan = make_plan(load_suite(str(suite)))
    assert [what.replace(plan.cells[0].dataset, "IT") for what, _ in plan.foreseen] == [
        "2 of 6 images of IT",
        "1 of 6 images of IT for tiny-iqa",
        "2 of 6 images of IT for resize[scale=0.8] on tiny-iqa",
        "2 of 6 images of IT for random-crop[size=72] on tiny-iqa",
    ]
    files, metric, resized, cropped = [why for _, why in plan.foreseen]
    assert "grey.png' is grey, 8-bit (1 channel): expected 8-bit RGB; convert it first" in files
    assert files.endswith(" (the first of 2)")
    assert "is 40x90 px: expected at least 64x64" in metric
    assert "leaves of 80x70 px for the metric 'tiny-iqa' is 64x56 px" in resized
    assert "random-crop[size=72]" in cropped


def test_what_it_foresees_comes_true(suite: Path) -> None:
    """The images of which it says nothing are scored, the others refused with the same sentence."""
    (name,) = load_suite(str(suite)).datasets
    dataset = load_dataset(name)
    metric = load_metric("tiny-iqa")
    for defense in DEFENSES:
        g = load_defense(defense, metric)
        for index in range(len(SIZES)):
            size = dataset.image_size(index)
            assert size is not None
            x = dataset.load(index)[None]
            assert x.shape[2:] == size
            try:
                g(x)
                said = None
            except BadImage as error:
                said = str(error)
            if said is None:
                g.check_takes(*size)
            else:
                with pytest.raises(BadImage) as foreseen:
                    g.check_takes(*size)
                assert str(foreseen.value) == said


@pytest.mark.parametrize("options", ["side=50", "crop=30", "side=60,crop=35", "side=500"])
def test_sizes_are_those_that_are_loaded(suite: Path, options: str) -> None:
    (name,) = load_suite(str(suite)).datasets
    dataset = load_dataset(name[:-1] + f",{options}]")
    for index in range(len(SIZES)):
        assert dataset.image_size(index) == dataset.load(index).shape[1:]
    if "crop" in options:
        whole = load_dataset(name[:-1] + ",crop=75]")
        with pytest.raises(BadImage, match="at least 75x75"):
            whole.image_size(2)


def test_the_commands_say_it_before_the_work(suite: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli, ["plan", "--suite", str(suite), "--defense", "none"])
    assert shown.exit_code == 1
    assert shown.output.count("will fail: ") == 2
    out = tmp_path / "out"
    ran = CliRunner().invoke(cli, ["run", "--suite", str(suite), "--defense", "none", "--out", str(out)])
    assert ran.exit_code == 1
    assert ran.output.index("will fail: ") < ran.output.index("[1/1]")
    assert "3 results are errors, not scores" in ran.output, "as many as were foreseen"
    assert len(json.loads((out / "run.json").read_text())["foreseen"]) == 2
    (tmp_path / "in" / "gone.png").write_bytes((tmp_path / "in" / "a.png").read_bytes())
    good = ["--dataset", f"folder[root={tmp_path / 'in'},table=good.csv]", "--defense", "none"]
    (tmp_path / "in" / "good.csv").write_text("image,mos\na,1\ngone,2\n")
    fine = CliRunner().invoke(cli, ["plan", "--suite", str(suite), *good])
    assert fine.exit_code == 0, fine.output


def test_a_data_set_or_defence_that_does_not_tell_stops_nothing() -> None:
    class Silent:
        spec = "mine"
        metric = load_metric("tiny-iqa")

        def check_takes(self, height: int, width: int) -> None:
            raise ZeroDivisionError

    ahead = Foresight("photos", load_dataset("photos[subset=references]"))
    assert list(ahead.files()) == []
    assert list(ahead.sizes(Silent())) == []  # type: ignore[arg-type]
