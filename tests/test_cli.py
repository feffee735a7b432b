"""The command line as a user meets it: contract of the JSON, and one clear sentence for every bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from copies import copied
from robustiqa.bench.cli.main import cli
from robustiqa.bench.images import load_image, save_png
from robustiqa.bench.metrics import load_metric
from support import KINDS, bad_images

PLUGIN = str(Path(__file__).parent / "plugins" / "linear.py")
COMMANDS = {
    "score": [],
    "certify": ["--defense", "median-smoothing[n=200,m=15]"],
    "attack": ["--attack", "pgd"],
}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def records(*arguments: object) -> list[dict]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_score(photo: Path) -> None:
    (record,) = records("score", photo, "--metric", "linear", "--plugin", PLUGIN)
    expected = float(load_metric("linear")(load_image(photo)[None]))
    assert record == {"image": str(photo), "metric": "linear", "defense": "none", "score": pytest.approx(expected)}
    assert f"{expected:.4f}" in call("score", photo, "--metric", "linear").stdout


def test_certify_reproduces_the_closed_form(photo: Path) -> None:
    """The documented command on a linear plug-in: the bound is eps |w|_2, within its sampling error."""
    (record,) = records(
        "certify", photo, "--metric", "linear", "--plugin", PLUGIN,
        "--defense", "median-smoothing[n=4000]", "--eps", "0.05,0.12",
    )  # fmt: skip
    assert set(record) >= {"image", "metric", "defense", "score", "n", "alpha", "certificates"}
    assert record["n"] == 4000
    metric = load_metric("linear")
    x = load_image(photo)[None]
    w = float(metric.module.weights(x).norm())  # type: ignore[operator]
    assert [(c["kind"], c["eps"]) for c in record["certificates"]] == [
        ("population", 0.05), ("population", 0.12), ("deployed", 0.05), ("deployed", 0.12),
    ]  # fmt: skip
    for c in record["certificates"]:
        assert set(c) == {"eps", "kind", "lo", "hi", "delta", "gaming_delta", "vacuous", "rms", "psnr"}
        assert c["delta"] == pytest.approx(max(c["hi"] - record["score"], record["score"] - c["lo"]))
        assert c["gaming_delta"] == pytest.approx(c["hi"] - record["score"])
        assert c["rms"] == pytest.approx(255 * c["eps"] / np.sqrt(3 * 64 * 64))
        assert c["vacuous"] is False
        exact = float(metric(x))
        assert c["lo"] <= exact - c["eps"] * w <= exact + c["eps"] * w <= c["hi"]
        if c["kind"] == "population":
            assert c["hi"] - exact == pytest.approx(c["eps"] * w, rel=0.3)


def test_certify_without_a_defence_takes_median_smoothing(photo: Path) -> None:
    (record,) = records("certify", photo, "--metric", "linear", "--plugin", PLUGIN, "--eps", "0.05")
    assert record["defense"] == "median-smoothing"


def test_a_grid_of_eps_gives_a_curve_and_names_its_coverage(photo: Path, tmp_path: Path) -> None:
    arguments = ("certify", photo, "--metric", "linear", "--defense", "median-smoothing[n=500]", "--eps", "0:0.12:4")
    (record,) = records(*arguments, "--coverage", "dkw", "--pool", tmp_path / "pool")
    curve = [c for c in record["certificates"] if c["kind"] == "population"]
    assert [c["eps"] for c in curve] == pytest.approx([0, 0.04, 0.08, 0.12])
    assert [c["delta"] for c in curve] == sorted(c["delta"] for c in curve)
    assert record["coverage"] == "dkw"
    assert len(list((tmp_path / "pool").iterdir())) == 1
    (pointwise,) = records(*arguments, "--pool", tmp_path / "pool")
    assert pointwise["coverage"] == "pointwise"
    assert pointwise["certificates"][2]["delta"] < record["certificates"][2]["delta"]


def test_too_few_draws_are_a_note_not_an_error(photo: Path) -> None:
    arguments = ("--metric", "linear", "--defense", "median-smoothing[n=50]", "--eps", "0.5", "--json")
    result = call("certify", photo, *arguments)
    assert result.exit_code == 0
    assert "draws would do" in result.stderr
    assert "draws would do" in json.loads(result.stdout)[0]["notes"][0]


def test_tau_decides_for_both_kinds(photo: Path) -> None:
    arguments = ("certify", photo, "--metric", "linear", "--plugin", PLUGIN, "--eps", "0.05")
    (record,) = records(*arguments, "--tau", 1)
    assert [(d["kind"], d["verdict"]) for d in record["decisions"]] == [
        ("population", "certified"), ("deployed", "certified"),
    ]  # fmt: skip
    assert all(32 < d["draws"] < 300 for d in record["decisions"])
    (small,) = records(*arguments, "--tau", 0.01)
    assert small["decisions"][0]["verdict"] == "refuted"
    assert "verdict" in call(*arguments, "--tau", 1).stdout


def test_width_takes_the_draws_that_it_needs(photo: Path) -> None:
    """On the linear plug-in the exact width is 2 eps |w|_2: twice that can be had with few draws, half of it never."""
    metric = load_metric("linear")
    exact = 0.1 * float(metric.module.weights(load_image(photo)[None]).norm())  # type: ignore[operator]
    arguments = ("certify", photo, "--metric", "linear", "--eps", "0.02,0.05")
    (record,) = records(*arguments, "--width", 2 * exact)
    assert 16 <= record["n"] < 600
    assert record["n"] + record["pilot"] <= 1000
    assert len(record["certificates"]) == 4
    widest = record["certificates"][1]
    assert record["reached"] is (widest["hi"] - widest["lo"] <= 2 * exact)
    assert (record["width"], record["out_of_reach"], record["norm"]) == (2 * exact, False, "l2")
    (never,) = records(*arguments, "--width", exact / 2)
    assert (never["n"], never["out_of_reach"], never["certificates"], never["score"]) == (0, True, [], None)
    assert never["least"] == pytest.approx(exact, rel=0.4)
    assert f"{photo}: a population width of" in never["notes"][0]
    table = call(*arguments, "--width", exact / 2).stdout
    assert "out of reach" in table


def test_unbounded_sides_are_null(photo: Path) -> None:
    (record,) = records("certify", photo, "--metric", "linear", "--defense", "median-smoothing[n=50]", "--eps", "0.5")
    certificate = record["certificates"][0]
    assert (certificate["lo"], certificate["hi"], certificate["delta"]) == (None, None, None)
    assert certificate["vacuous"] is True


@pytest.mark.parametrize(("norm", "eps"), [("l2", "0.5"), ("linf", "4/255")])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_attack_reaches_the_closed_form(photo: Path, tmp_path: Path, norm: str, eps: str, direction: str) -> None:
    (record,) = records(
        "attack", photo, "--metric", "linear", "--plugin", PLUGIN, "--attack", "pgd", "--norm", norm, "--eps", eps,
        "--direction", direction, "--save", tmp_path / "adv",
    )  # fmt: skip
    contract = ("image metric defense attack norm eps direction clean adversarial adversarial_8bit gain linf l2 psnr "
                "ssim forwards backwards seconds path")  # fmt: skip
    assert set(contract.split()) <= set(record)
    x = load_image(photo)[None]
    w = load_metric("linear").module.weights(x).double()  # type: ignore[operator]
    budget = 0.5 if norm == "l2" else 4 / 255
    optimum = budget * float(w.norm() if norm == "l2" else w.abs().sum())
    moved = (record["adversarial"] - record["clean"]) * (1 if direction == "up" else -1)
    assert 0.99 * optimum <= moved <= optimum * (1 + 1e-4)
    assert record["linf" if norm == "linf" else "l2"] <= budget
    # The saved file is what the 8-bit score is about.
    saved = load_image(record["path"])[None]
    assert float(load_metric("linear")(saved)) == pytest.approx(record["adversarial_8bit"], abs=1e-4)


def test_both_directions_have_a_record_and_a_file_each(photo: Path, tmp_path: Path) -> None:
    arguments = ("attack", photo, "--metric", "linear", "--attack", "pgd", "--norm", "l2", "--eps", "0.5")
    found = records(*arguments, "--direction", "both", "--save", tmp_path / "adv")
    assert [r["direction"] for r in found] == ["up", "down"]
    assert len({r["path"] for r in found}) == len(list((tmp_path / "adv").iterdir())) == 2
    for record in found:
        (alone,) = records(*arguments, "--direction", record["direction"])
        for column in ("clean", "adversarial", "gain", "l2", "forwards", "backwards"):
            assert record[column] == pytest.approx(alone[column], rel=1e-4), column
        saved = load_image(record["path"])[None]
        assert float(load_metric("linear")(saved)) == pytest.approx(record["adversarial_8bit"], abs=1e-4)
    header, _, *rows = call(*arguments, "--direction", "both").stdout.splitlines()
    assert "direction" in header
    assert [row.split()[1] for row in rows] == ["up", "down"]
    assert "direction" not in call(*arguments).stdout.splitlines()[0]


ONE_WAY = """
import torch
from robustiqa.bench import register_attack, register_metric
from robustiqa.attacks import load_attack

@register_metric("breaks-above")
class BreaksAbove(torch.nn.Module):
    def forward(self, x):
        score = x.mean((1, 2, 3))
        return torch.where(score > 0.55, torch.nan, score)

@register_attack("plain-object")
class Plain:
    "An attack without the base class: all that the bench needs is a call."
    spec = "plain-object"
    def skip(self, g, threat):
        return None
    def __call__(self, g, x, threat, direction="up", seed=0, *, clean=None):
        return load_attack("fgsm")(g, x, threat, direction, seed, clean=clean)
"""


@pytest.mark.usefixtures("plugins_of_this_test")
@pytest.mark.parametrize("attack", ["fgsm", "plain-object"])
def test_an_error_in_one_direction_leaves_the_other(photo: Path, tmp_path: Path, attack: str) -> None:
    plugin = tmp_path / "one_way.py"
    plugin.write_text(ONE_WAY)
    result = call(
        "attack", photo, "--metric", "breaks-above", "--plugin", plugin, "--attack", attack, "--norm", "linf",
        "--eps", "0.2", "--direction", "both", "--json",
    )  # fmt: skip
    assert result.exit_code == 1
    (record,) = json.loads(result.stdout)
    assert record["direction"] == "down"
    assert "1 of 1 scores" in result.stderr
    assert "1 of 1 image failed" in result.stderr


def test_same_seed_same_numbers_other_seed_other_numbers(photo: Path) -> None:
    arguments = ("score", photo, "--metric", "linear", "--defense", "median-smoothing[m=15]")
    first, again = (records(*arguments)[0]["score"] for _ in range(2))
    other = records(*arguments, "--seed", 1)[0]["score"]
    assert first == again != other


@pytest.mark.parametrize("command", list(COMMANDS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_image_costs_itself_only(photo: Path, tmp_path: Path, command: str, kind: str) -> None:
    (tmp_path / "bad").mkdir()
    bad, word = bad_images(tmp_path / "bad")[kind]
    result = call(command, bad, photo, "--metric", "linear", *COMMANDS[command], "--json")
    assert result.exit_code == 1
    assert word in result.stderr
    assert "Traceback" not in result.output
    assert "1 of 2 images failed" in result.stderr
    assert [r["image"] for r in json.loads(result.stdout)] == [str(photo)]


@pytest.mark.parametrize("command", list(COMMANDS))
@pytest.mark.parametrize(("arguments", "words"), [
    (["--metric", "tiny-iqq"], "did you mean 'tiny-iqa'"),
    (["--metric", "linear[scal=1]"], "did you mean 'scale'"),
    (["--metric", "linear[scale=x]"], "scale must be a finite number"),
    (["--metric", "linear["], "cannot read plug-in string"),
    (["--metric", "linear", "--defense", "jpg"], "did you mean 'jpeg'"),
    (["--metric", "linear", "--defense", "median-smoothing[sigma=-1]"], "sigma"),
    (["--metric", "linear", "--device", "warp"], "device 'warp'"),
    (["--metric", "linear", "--device", "meta"], "device 'meta' cannot be used here"),
    (["--metric", "linear", "--plugin", "absent.py"], "does not exist"),
    (["--metric", "linear", "--plugin", "."], "'.' is a folder: give a file"),
    (["--metric", "torchscript[path=.]"], "'.' is a folder: give a file"),
    (["--metric", f"module[file={PLUGIN},class=Linear,weights=.]"], "'.' are a folder: give a file"),
    (["--metric", "bright-nan"], "NaN"),
    (["--metric", "two-outputs"], "one score each"),
    (["--metric", "liar"], "declared bounded in [0, 1] and gives a score of 3."),
    (["--metric", "half-liar"], "declared bounded in [4, inf] and gives a score of 3."),
])  # fmt: skip
def test_bad_arguments_get_one_sentence(tmp_path: Path, command: str, arguments: list[str], words: str) -> None:

    bright = save_png(torch.full((3, 64, 64), 0.9), tmp_path / "bright.png")
    defense = [] if "--defense" in arguments else COMMANDS[command]
    attack = COMMANDS[command] if command == "attack" else []
    result = call(command, bright, *arguments, *(defense or attack))
    assert result.exit_code == 1
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert result.stderr.count("\n") <= 2


@pytest.mark.parametrize(("arguments", "words"), [
    (["attack", "--attack", "pgdd"], "did you mean 'pgd'"),
    (["attack", "--attack", "torchattacks-pgd", "--norm", "l2"], "works in linf"),
    (["attack", "--attack", "pgd", "--eps", "-1"], "expected a number >= 0"),
    (["attack", "--attack", "pgd", "--eps", "x"], "expected a number >= 0"),
    (["attack", "--attack", "pgd", "--eps", "4"], "did you mean 4/255"),
    (["attack", "--attack", "pgd", "--eps", "1e400"], "expected a number >= 0"),
    (["attack", "--attack", "pgd", "--eps", "1/0"], "expected a number >= 0"),
    (["attack", "--attack", "pgd[steps=0]"], "positive"),
    (["certify", "--eps", "0.1", "--defense", "jpeg"], "no certificate"),
    (["certify", "--eps", "0:0.1:1"], "start:stop:count"),
    (["certify", "--eps", "0.1", "--tau", "-1"], "tau"),
    (["certify", "--eps", "0.1,0.2", "--tau", "1"], "one --eps"),
    (["certify", "--eps", "0.1", "--alpha", "1"], "0 < alpha < 1"),
    (["certify", "--eps", "0.1", "--defense", "mean-smoothing"], "low=0,high=100"),
    (["certify", "--eps", "0.1", "--defense", "lipschitz"], "lip-iqa"),
    (["certify", "--eps", "0.1", "--defense", "interval-bounds"], "ibp-iqa"),
    (["certify", "--eps", "0.1", "--defense", "score-bins[low=0]"], "low=0,high=100"),
    (["certify", "--eps", "0.1", "--tau", "1", "--defense", "center-smoothing"], "early-stopped"),
    (["certify", "--eps", "0.1", "--tau", "1", "--width", "1"], "--width"),
    (["certify", "--eps", "0.1", "--width", "0"], "width"),
    (["certify", "--eps", "0.1", "--width", "1", "--defense", "median-smoothing[n=50]"], "100 an image"),
    (["certify", "--eps", "0.1", "--width", "1", "--defense", "center-smoothing"], "width follows from the number"),
    (["certify", "--eps", "0.1", "--width", "1", "--defense", "jpeg"], "no certificate"),
    (["certify", "--defense", "median-smoothing", "--alpha", "2"], "alpha"),
    (["certify", "--defense", "median-smoothing", "--eps", ""], "at least one budget"),
])  # fmt: skip
def test_bad_attack_and_certify_arguments(photo: Path, arguments: list[str], words: str) -> None:
    result = call(arguments[0], photo, "--metric", "linear", *arguments[1:])
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_images_smaller_than_the_metric_accepts(tmp_path: Path) -> None:
    from robustiqa.bench.images import save_png

    small = save_png(torch.full((3, 40, 40), 0.5), tmp_path / "small.png")
    result = call("score", small, "--metric", "tiny-iqa")
    assert result.exit_code == 1
    assert "40x40 px: expected at least 64x64" in result.stderr


def test_list_names_everything_and_survives_broken_plugins() -> None:
    text = call("list").stdout
    for word in ("tiny-iqa", "photos", "median-smoothing", "eot-pgd", "quick", "sigma=0.12"):
        assert word in text
    kinds = {r["kind"] for r in json.loads(call("list", "--json").stdout)}
    assert kinds == {"metric", "dataset", "defense", "denoiser", "attack", "suite"}
    assert "pgd" not in call("list", "metrics").stdout


def test_help_of_every_command() -> None:
    for command in ("list", "score", "certify", "attack", "plan", "run", "collect", "train"):
        result = call(command, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.output


def test_unknown_command_suggests_the_nearest() -> None:
    result = call("scor")
    assert result.exit_code == 1
    assert "did you mean 'score'" in result.stderr


def test_collect_of_a_folder_that_is_no_run(tmp_path: Path) -> None:
    result = call("collect", tmp_path)
    assert result.exit_code == 1
    assert "robustiqa run" in result.stderr


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    """A folder without ground truth, a defence without certificate."""
    save_png(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)), tmp_path / "images" / "a.png")
    suite = tmp_path / "suite.yml"
    suite.write_text(
        f"schema: 1\nname: own\nmetrics: [linear]\ndatasets: ['folder[root={tmp_path / 'images'}]']\n"
        "defenses: [none]\nattacks: [{attack: fgsm, linf: [4/255]}]\n"
    )
    assert call("run", "--suite", suite, "--out", tmp_path / "run").exit_code == 0
    result = call("compare", tmp_path / "run")
    assert result.exit_code == 1
    assert "nothing to compare" in result.output


def test_collect_of_a_run_with_plug_ins(tmp_path: Path) -> None:
    """A new process knows nothing of the plug-ins that the run had."""
    plugin = Path(__file__).parent / "plugins" / "linear.py"
    suite = tmp_path / "suite.yml"
    suite.write_text(
        "schema: 1\nname: own\nmetrics: [linear]\ndatasets: ['photos[subset=references]']\ndefenses: [none]\n"
        "attacks: [{attack: fgsm, linf: [4/255]}]\n"
    )
    with copied(["run", "--suite", str(suite), "--out", str(tmp_path / "run"), "--plugin", str(plugin)]) as process:
        assert process.wait() == 0, process.said
    program = [sys.executable, "-m", "robustiqa.bench.cli", "collect", str(tmp_path / "run"), "--plugin", str(plugin)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fgsm" in (tmp_path / "run" / "leaderboard" / "empirical.csv").read_text()
