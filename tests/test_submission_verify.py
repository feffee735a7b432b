"""`submit verify`: what it runs, what follows from what is measured, and breaks whose gain is known."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.cli.main import cli
from robustiqa.bench.images import save_png
from robustiqa.bench.registry import registry
from robustiqa.bench.submission.claims import ROUNDING, refutation, verdict_of
from robustiqa.bench.submission.metadata import MEASURES, DefenseSubmission, file_of, read_submission
from robustiqa.bench.submission.template import write_template
from robustiqa.bench.submission.verification import parse_verification
from robustiqa.bench.submission.verify import load_plugin
from small_runs import FAULTS, tiny

CHEAP = {"metric": "cheap", "dataset": "specks"}
BROKEN = """
import torch
from robustiqa.bench import register_defense
from robustiqa.defenses.base import Purification

@register_defense("own")
class Own(Purification):
    def purify(self, x):
        return {body}
"""


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    """Images of breaks are no business of the tests that go through every attack."""
    registry.load_file(FAULTS)
    yield
    for name in [name for name in registry._loaded["attack"] if name.startswith("break-")]:
        del registry._loaded["attack"][name]


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["submit", "verify", *map(str, words)])


def change(folder: Path, **keys: Any) -> Path:
    """Change keys of a folder's submission.yml."""
    path = folder / "submission.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.yml"
    path.write_text(tiny().model_dump_json(by_alias=True))
    return path


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory, suite: Path) -> tuple[Path, Result]:
    """A submission from the template behind the cheap metric, and the outcome of its first verification."""
    folder = change(write_template("soft-colour", "defense", tmp_path_factory.mktemp("new")), metrics=["cheap"])
    return folder, call(folder, "--suite", suite)


def test_a_template_is_verified(verified: tuple[Path, Result]) -> None:
    folder, result = verified
    assert result.exit_code == 0, result.output
    record = parse_verification(json.loads((folder / "verified" / "verification.json").read_text()), "here")
    assert record.ok
    assert set(record.files) == {"submission.yml", "defense.py", "test_defense.py", "README.md"}
    summary = pd.read_csv(folder / "verified" / "leaderboard" / "summary.csv", keep_default_na=False)
    assert set(summary["defense"]) == {"none", "soft-colour"}
    assert set(MEASURES["summary"]) <= set(summary.columns)
    checks = pd.read_csv(folder / "verified" / "leaderboard" / "checks.csv")
    assert {"output-invalid", "order-broken"} <= set(checks["check"]), "the contract, and the ladder of attacks"
    assert "still those of the template: title" in result.stderr


def test_claims_beside_what_is_measured(verified: tuple[Path, Result], suite: Path) -> None:
    """The lines that are suggested are confirmed; what is too good is not; the run is not done again."""
    folder, first = verified
    lines = [yaml.safe_load(line)[0] for line in first.stdout.splitlines() if line.startswith("  - {table: summary")]
    gain = next(claim for claim in lines if claim["measure"] == "worst_gain_mean")
    attack = {"table": "empirical", "measure": "gain_mean", "attack": "pgd[steps=2]", "norm": "linf", "eps": 4 / 255}
    row = pd.read_csv(folder / "verified" / "leaderboard" / "empirical.csv").query("defense == 'soft-colour'").iloc[0]
    claims = [
        *lines,
        gain | {"value": gain["value"] + 3},
        gain | {"value": -3, "dataset": "photos"},
        CHEAP | attack | {"value": float(row["gain_mean"])},
        CHEAP | {"table": "certified", "measure": "width_mean", "norm": "l2", "eps": 0.05, "kind": "population",
                 "value": 1},
    ]  # fmt: skip
    del claims[lines.index(gain)]
    change(folder, claims=claims)
    result = call(folder, "--suite", suite)
    assert result.exit_code == 0, result.output
    assert "resuming: 14 of 14 cells" in result.stderr
    found = json.loads((folder / "verified" / "verification.json").read_text())["claims"]
    verdicts = ["confirmed"] * (len(lines) - 1) + ["better", "not measured", "confirmed", "not measured"]
    assert [claim["verdict"] for claim in found] == verdicts
    assert found[-2]["measured"] == pytest.approx(row["gain_mean"], rel=1e-5)
    assert (found[-2]["lo"], found[-2]["hi"]) == pytest.approx((row["gain_lo"], row["gain_hi"]), rel=1e-5)
    change(folder, claims=[gain | {"value": gain["value"] - 3}])
    result = call(folder, "--suite", suite, "--json")
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert not record["ok"]
    assert "was claimed" in record["problems"][0]
    assert "would be confirmed" in record["problems"][0]


def test_verdicts() -> None:
    """Inside the interval, or off it by no more than the tolerance; else the side decides."""
    around = (0.5, 0.48, 0.52)
    assert verdict_of(0.5, *around, 0, "smaller") == "confirmed"
    assert verdict_of(0.52 + ROUNDING, *around, 0, "smaller") == "confirmed"
    assert verdict_of(0.54, *around, 0.03, "smaller") == "confirmed"
    assert verdict_of(0.54, *around, 0, "smaller") == "better", "a gain of .54 was claimed, and it is smaller"
    assert verdict_of(0.46, *around, 0, "smaller") == "not confirmed"
    assert verdict_of(0.54, *around, 0, "larger") == "not confirmed"
    assert verdict_of(0.46, *around, 0, "larger") == "better"
    # SROCC of five photographs: an interval that spans everything confirms no more than what is near.
    assert verdict_of(0.95, 0.47, -0.3, 1.0, 0, "larger") == "not confirmed"
    assert verdict_of(0.5, 0.47, -0.3, 1.0, 0, "larger") == "confirmed"


@pytest.mark.parametrize(("claimed", "around", "tolerance", "better", "bound"), [
    (0.62, (0.4695, -0.3001, 1.0), 0.0, "larger", "at most 0.5245"),  # .05 and .005 above, whatever the interval
    (0.46, (0.5, 0.48004, 0.6), 0.0, "smaller", "at least 0.4751"),  # inwards: 0.475 would not do
    (0.46, (0.5, 0.48, 0.52), 0.01, "smaller", "at least 0.47"),
    (300, (123.4567, 123.45, 123.4649), 0.0, "larger", "at most 123.4699"),
    (-0.9, (-0.5, -0.7, -0.3), 0.0, "smaller", "at least -0.555"),
])  # fmt: skip
def test_what_would_be_confirmed(
    claimed: float, around: tuple[float, float, float], tolerance: float, better: str, bound: str
) -> None:
    """The printed bound is confirmed and, but for its rounding, is the last one that is."""
    assert verdict_of(claimed, *around, tolerance, better) == "not confirmed"
    text = refutation(claimed, *around, tolerance)
    assert f"{claimed:g} was claimed" in text
    assert f": {bound} would be confirmed" in text
    value, outwards = float(bound.split()[-1]), 2e-4 if "most" in bound else -2e-4
    assert verdict_of(value, *around, tolerance, better) == "confirmed"
    assert verdict_of(value + outwards, *around, tolerance, better) == "not confirmed"
    assert ("no more than 0.05 to either side" in text) == (around[0] in (0.4695, -0.5))


@pytest.mark.parametrize(("body", "word"), [
    ("x * 2", "output-invalid"),
    ("x * torch.rand(1)", "irreproducible"),
    ("x / 0 if x.mean() > 0 else 1 / 0", "NaN or infinite"),
    ("undefined", "NameError: name 'undefined' is not defined (defense.py, line 9)"),
])  # fmt: skip
def test_a_broken_contract_stops_before_the_run(tmp_path: Path, suite: Path, body: str, word: str) -> None:
    folder = change(write_template("own", "defense", tmp_path), metrics=["cheap"])
    (folder / "defense.py").write_text(BROKEN.replace("{body}", body))
    result = call(folder, "--suite", suite)
    del registry._loaded["defense"]["own"]
    assert result.exit_code == 1
    assert word in result.output
    assert not (folder / "verified" / "cells").exists()
    assert "Traceback" not in result.output


def test_what_is_no_submission_of_this_folder(tmp_path: Path, suite: Path) -> None:
    folder = write_template("other", "defense", tmp_path)
    assert "registers no defence that 'jpeg' names" in call(change(folder, defense="jpeg"), "--suite", suite).stderr
    chained = read_submission(change(folder, defense="chain[steps=jpeg;other]"))
    assert isinstance(chained, DefenseSubmission)
    load_plugin(folder, chained)  # one of the steps is
    assert "is inside the submission" in call(folder, "--out", folder / "results").stderr
    (folder / "link.txt").symlink_to("/etc/passwd")
    assert "is a link" in call(folder).stderr
    assert call(tmp_path / "nothing").exit_code == 1


def test_a_metric_that_is_a_program_is_not_run(tmp_path: Path, suite: Path) -> None:
    """Metadata are read before the program is named: only the plug-in of the folder is the user's wish."""
    folder = write_template("trusting", "defense", tmp_path)
    (folder / "net.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nNet = None\n")
    metric = f"module[file={folder / 'net.py'},class=Net]"
    result = call(change(folder, metrics=[metric]), "--suite", suite)
    assert result.exit_code == 1
    assert "which is a program, and only a suite or a record names it" in result.stderr
    assert not (tmp_path / "ran").exists()


# Breaks ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """A data set of 12 images, 8-bit, mid-range."""
    rng = np.random.default_rng(2)
    (tmp_path / "photos").mkdir()
    for k in range(12):
        pixels = rng.integers(60, 196, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels, "RGB").save(tmp_path / "photos" / f"p{k:02d}.png")
    return f"folder[root={tmp_path / 'photos'}]"


@pytest.fixture
def broken(tmp_path: Path, photos: str) -> Path:
    """A break of the undefended linear metric: every pixel but those of the last two images moves by 3 grey levels."""
    folder = write_template("levels", "break", tmp_path / "new")
    target = {"metric": "linear", "defense": "none", "dataset": photos, "norm": "linf", "eps": 3 / 255}
    dataset = load_dataset(photos)
    for k, item in enumerate(dataset.items[:-2]):
        save_png(dataset.load(k) + 3 / 255 * _signs(dataset.load(k)), folder / "images" / file_of(item.id))
    return change(folder, target=target, gain=_gain(photos))


def _signs(x: torch.Tensor) -> torch.Tensor:
    return load_metric("linear").module.weights(x[None]).sign()  # type: ignore[operator]


def _gain(photos: str) -> float:
    """Ten of twelve images gain 3/255 sum |w|, in units of the spread of the clean scores."""
    images = torch.stack([load_dataset(photos).load(k) for k in range(12)])
    weights = load_metric("linear").module.weights(images).double()  # type: ignore[operator]
    scores = 3.0 + (images.double() * weights).sum((1, 2, 3)).numpy()
    low, high = np.percentile(scores, [1, 99])
    return 10 / 12 * 3 / 255 * float(weights.abs().sum()) / float(high - low)


def test_a_break_gains_what_arithmetic_says(broken: Path, photos: str) -> None:
    result = call(broken)
    assert result.exit_code == 0, result.output
    assert "10 of 12 images have a file" in result.stdout
    record = parse_verification(json.loads((broken / "verified" / "verification.json").read_text()), "here")
    assert record.gain == pytest.approx(_gain(photos), rel=1e-5)
    assert [claim.verdict for claim in record.claims] == ["confirmed"]
    assert [one.gain == 0 for one in record.images] == [False] * 10 + [True] * 2
    assert max(one.linf for one in record.images) == pytest.approx(3 / 255, abs=1e-6)
    assert (broken / "verified" / "leaderboard" / "empirical.csv").exists()


def test_the_attack_of_the_template_reaches_the_optimum(broken: Path, photos: str, capsys: Any) -> None:
    """Of a linear metric it is known: 12/10 of what ten of the twelve images gain."""
    shutil.rmtree(broken / "images")
    runpy.run_path(str(broken / "make_images.py"), run_name="__main__")
    assert len(list((broken / "images").iterdir())) == 12
    assert call(broken).exit_code == 0, "more than was claimed is better"
    record = parse_verification(json.loads((broken / "verified" / "verification.json").read_text()), "here")
    assert 0.95 <= record.gain / (_gain(photos) * 12 / 10) <= 1 + 1e-5


def test_a_gain_that_is_not_there_is_not_confirmed(broken: Path, photos: str) -> None:
    result = call(change(broken, gain=_gain(photos) * 3))
    assert result.exit_code == 1
    assert "was claimed" in result.stderr


@pytest.mark.parametrize(("listed", "ok"), [(1e-3, True), (1e3, False)])
def test_a_break_beats_what_the_board_lists(broken: Path, photos: str, tmp_path: Path, listed: float, ok: bool) -> None:
    row = {"metric": "linear", "defense": "none", "dataset": photos, "norm": "linf", "eps": 3 / 255, "direction": "up"}
    board = pd.DataFrame([row | {"adaptive_gain_mean": listed, "naive_gain_mean": np.nan}])
    board.to_csv(tmp_path / "threats.csv", index=False)
    result = call(broken, "--board", tmp_path)
    assert result.exit_code == (0 if ok else 1), result.output
    assert ("does not beat the listed 1000" in result.stderr) != ok
    board.assign(eps=0.5).to_csv(tmp_path / "threats.csv", index=False)
    assert "lists no gain of 'none'" in call(broken, "--board", tmp_path).stderr


def test_images_that_break_a_rule(broken: Path, photos: str) -> None:
    clean = load_dataset(photos).load(0)
    file = broken / "images" / file_of(load_dataset(photos).items[0].id)
    pixels = (clean.permute(1, 2, 0) * 255).round().byte().numpy()

    def message(image: Image.Image | bytes, kind: str = "PNG", **options: Any) -> str:
        file.write_bytes(image) if isinstance(image, bytes) else image.save(file, kind, **options)
        result = call(broken)
        assert result.exit_code == 1
        assert "Traceback" not in result.output
        return result.stderr

    far = pixels.copy()
    far[5, 5, 1] += 4
    assert "is 0.0156863 away from the clean one in linf, as it is saved: the budget is 0.0117647" in message(
        Image.fromarray(far)
    )
    assert "16x16 px: expected 20x24" in message(Image.fromarray(pixels[:16, :16]))
    turned = Image.Exif()
    turned[0x0112] = 6  # by 90 degrees, whatever the header says
    assert "24x20 px: expected 20x24" in message(Image.fromarray(pixels), exif=turned)
    assert "is no PNG file" in message(Image.fromarray(pixels), "BMP")
    assert "alpha" in message(Image.fromarray(pixels).convert("RGBA"))
    assert "grey" in message(Image.fromarray(pixels).convert("L"))
    assert "corrupt" in message(file.read_bytes()[:40])
    file.rename(file.with_name("p99.png"))
    assert "did you mean" in call(broken).stderr
    (broken / "images" / "p99.png").unlink()
    (broken / "images" / "p98.png").symlink_to("/etc/passwd")
    assert "is a link" in call(broken).stderr


def test_a_break_of_a_randomised_defence_is_scored_on_draws_of_its_own(broken: Path, photos: str) -> None:
    """The draws follow from the content of the images: other images, other draws."""
    target = read_submission(broken).model_dump()["target"]
    change(broken, target=target | {"defense": "random-noise[sigma=0.05]"})

    def seed() -> int:
        call(broken)
        return json.loads((broken / "verified" / "run.json").read_text())["suite"]["seed"]

    first = seed()
    assert first == seed() != 0
    (broken / "images" / file_of(load_dataset(photos).items[0].id)).unlink()
    assert seed() != first


def test_options_that_make_no_sense(broken: Path, verified: tuple[Path, Result]) -> None:
    assert "leave out --suite" in call(broken, "--suite", "quick").stderr
    assert "leave out --executor" in call(broken, "--executor", "local").stderr
    assert "this submission is a defence" in call(verified[0], "--board", broken).stderr
