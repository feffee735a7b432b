"""Images that something was fitted on and is judged on: told by their content, before the run and on the board."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from robustiqa.bench import Dataset, Item, load_metric, register_dataset
from robustiqa.bench.cli.main import cli
from robustiqa.bench.images import save_png
from robustiqa.bench.overlap import FLAG, Judge, fitted_on, seen_of
from robustiqa.bench.plan import make_plan, plan_from_json
from robustiqa.bench.suite import Suite
from robustiqa.defenses import load_defense


class _Painted(Dataset):
    """Images of 8-bit noise, brighter and brighter; those from `first` on."""

    def __init__(self, first: int = 0, count: int = 20, flipped: bool = False) -> None:
        self.truth_name, self.flipped = "MOS", flipped
        self.items = [Item(f"{i}", f"{i}", float(i)) for i in range(first, first + count)]

    def load(self, index: int) -> torch.Tensor:
        number = int(self.items[index].id)
        noise = torch.randint(0, 128, (3, 32, 32), generator=torch.Generator().manual_seed(number))
        image = (noise + 4 * number).float().div_(255)
        return image.flip(2) if self.flipped else image


register_dataset("painted")(_Painted)
register_dataset("repainted")(lambda first=0, flipped=False: _Painted(first, flipped=flipped))  # under another name
OURS = "aligned[calibration=painted,metric=linear]"


def suite(dataset: str, *defenses: str, metrics: tuple[str, ...] = (OURS, "linear")) -> Suite:
    return Suite(schema=1, name="s", metrics=metrics, datasets=(dataset,), defenses=("none", *defenses))


@pytest.mark.parametrize(("judged", "shared"), [
    ("painted", "20 photographs"),
    ("painted[first=15]", "5 photographs"),
    ("painted[flipped=true]", "20 photographs"),  # as a crop: other pixels of the same photographs
    ("painted[first=20]", ""),
    ("repainted", "20 images"),
    ("repainted[first=18]", "2 images"),
    ("repainted[flipped=true]", ""),
])  # fmt: skip
def test_images_are_known_by_photograph_and_by_content(judged: str, shared: str) -> None:
    plan = make_plan(suite(judged))
    assert [(o.metric, o.shared) for o in plan.overlaps] == ([(OURS, shared)] if shared else [])
    for text in plan.warnings:
        assert text.startswith(f"{OURS} is judged on {shared} of {judged} that its scale was fitted on (painted)")


def test_files_with_the_same_pixels_are_the_same_images(tmp_path: Path) -> None:
    for index in range(2):
        save_png(_Painted().load(index), tmp_path / f"other-name-{index}.png")
    save_png(_Painted().load(0).flip(2), tmp_path / "0.png")  # a name says nothing
    (overlap,) = make_plan(suite(f"folder[root={tmp_path}]")).overlaps
    assert overlap.shared == "2 images"


def test_what_a_defence_was_fitted_on_is_told_of_the_defence() -> None:
    fitted = "ensemble[calibration=repainted,others=bounded]"
    plan = make_plan(suite("painted", fitted, "ensemble[align=none,others=bounded]", "jpeg", metrics=("linear",)))
    (overlap,) = plan.overlaps
    assert (overlap.defense, overlap.shared, overlap.by_defense) == (fitted, "20 images", True)
    assert overlap.sentence.startswith(f"{fitted} behind linear is judged on 20 images of painted")
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert plan_from_json({k: v for k, v in plan.to_json().items() if k != "overlaps"}).overlaps == ()


def test_fits_inside_of_others_are_found() -> None:
    inside = load_defense(f"ensemble[calibration=repainted,others={OURS}]", load_metric("linear"))
    assert set(fitted_on(inside)) == {"painted", "repainted"}
    twice = load_metric(f"aligned[metric={OURS},calibration=repainted[first=40]]")
    assert set(fitted_on(twice)) == {"painted", "repainted[first=40]"}
    assert fitted_on(load_metric("tiny-iqa")) == []


def test_a_module_of_a_user_may_say_what_it_was_fitted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTIQA_DATA", str(tmp_path))
    g = load_defense("none", load_metric("linear"))
    data = _Painted()
    for declared, count in ((("painted[first=19]", "clive"), 1), ("painted", 0), (3, 0)):
        g.metric.module.fitted_on = declared  # type: ignore[assignment]
        assert len(Judge().overlaps(g, "painted", data)) == count, "absent data, and other people's attributes"


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    save_png(_Painted().load(0), tmp_path / "0.png")
    (tmp_path / "cut.png").write_bytes(b"")
    assert len(seen_of([f"folder[root={tmp_path}]"]).images) == 1


@pytest.mark.filterwarnings("ignore:metric 'linear' follows")
def test_the_user_is_told_before_the_run_and_on_the_board(tmp_path: Path, linear_plugin: Path) -> None:
    words = ["--metric", OURS, "--metric", "linear", "--dataset", "painted[count=12]", "--defense", "none",
             "--defense", "jpeg", "--attack", "random-noise"]  # fmt: skip
    sentence = f"warning: {OURS} is judged on 12 photographs of painted[count=12] that its scale was fitted on"
    planned = CliRunner().invoke(cli, ["plan", *words])
    assert planned.stdout.count(sentence) == 1, planned.output
    result = CliRunner().invoke(cli, ["run", *words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert result.stderr.count(sentence) == 1
    board = pd.read_csv(tmp_path / "run" / "leaderboard" / "summary.csv")
    flagged = {(row["metric"], FLAG in str(row["flags"]).split()) for row in board.to_dict("records")}
    assert flagged == {(OURS, True), ("linear", False)}
    markdown = (tmp_path / "run" / "leaderboard" / "board.md").read_text()
    assert markdown.count(f"Flag `{FLAG}`: {sentence.removeprefix('warning: ')}") == 1
