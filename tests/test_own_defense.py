"""Mistakes of a user's own defence, and of a user: one sentence each, which names who made it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from robustiqa.bench import load_metric
from robustiqa.bench.cli.main import cli
from robustiqa.bench.cli.single import sentence
from robustiqa.bench.errors import BadImage, BadPlugin, BadScore
from robustiqa.bench.images import save_png
from robustiqa.bench.registry import registry
from robustiqa.bench.suite import load_suite
from robustiqa.defenses import load_defense

PLUGIN = """
from robustiqa.bench import register_defense
from robustiqa.defenses.base import Purification

@register_defense("own-raises")
class Raises(Purification):
    def purify(self, x):
        if float(x.mean()) > 0.5:
            raise RuntimeError("boom")
        return x

@register_defense("own-writes")
class Writes(Purification):
    def purify(self, x):
        x.mul_(0.9)
        return x

@register_defense("own-nan")
class Nan(Purification):
    def purify(self, x):
        return x * float("nan")

@register_defense("own-nothing")
class Nothing:
    pass
"""


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    """These defences are no business of the tests that go through every registered one."""
    yield
    for name in [n for n in registry.names("defense") if n.startswith("own-")]:
        del registry._loaded["defense"][name]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """One that is dark, one that is bright."""
    return [save_png(torch.full((3, 48, 48), level), tmp_path / f"{level}.png") for level in (0.2, 0.8)]


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_an_exception_of_a_defence_is_a_sentence_and_the_other_images_go_on(plugin: Path, photos: list[Path]) -> None:
    result = call("score", *photos, "--metric", "linear", "--defense", "own-raises", "--plugin", plugin, "--json")
    assert result.exit_code == 1
    assert "0.8.png: RuntimeError: boom (own.py, line 9)" in result.stderr
    assert "1 of 2 images failed" in result.stderr
    assert [Path(r["image"]).name for r in json.loads(result.stdout)] == ["0.2.png"]


def test_an_error_without_a_line_of_ones_own_still_has_a_sentence() -> None:
    """As in an installed suite, where every line of the traceback lies in site-packages; or with no traceback."""
    assert sentence(ValueError("odd")) == "ValueError: odd"
    with pytest.raises(ZeroDivisionError) as found:
        exec(compile("1 / 0", "/x/site-packages/lib.py", "exec"))
    traceback = found.value.__traceback__
    error = found.value.with_traceback(traceback.tb_next if traceback else None)
    assert sentence(error) == "ZeroDivisionError: division by zero (lib.py, line 1)"


def test_check_says_in_a_sentence_that_it_cannot_check(plugin: Path) -> None:
    words = ("--metric", "linear", "--images", "2", "--no-ladder", "--plugin", plugin)
    assert call("score", "x.png", "--metric", "linear", "--plugin", plugin).exit_code == 1  # the plug-ins are there now
    raising = 'register_defense("own-always")(type("A", (Purification,), {"purify": lambda self, x: 1 / 0}))'
    plugin.with_name("always.py").write_text(f"{PLUGIN.split('@')[0]}\n{raising}\n")
    result = call("check", "--defense", "own-always", *words, "--plugin", plugin.with_name("always.py"))
    assert result.exit_code == 1
    assert "behind 'own-always' cannot be checked: ZeroDivisionError: division by zero (always.py" in result.stderr
    assert "Traceback" not in result.output
    result = call("check", "--defense", "own-always", "--defense", "none", *words)
    assert result.exit_code == 1
    assert "| none" in result.output, "the others go on"
    assert "failed: own-always" in result.output


def test_a_defence_must_not_write_into_its_images(plugin: Path) -> None:
    call("score", "x.png", "--metric", "linear", "--plugin", plugin)
    g = load_defense("own-writes", load_metric("linear"))
    with pytest.raises(BadPlugin, match=r"'own-writes' writes into the images that it is given: .*x\.clone"):
        g.estimate(torch.full((1, 3, 48, 48), 0.5))
    with torch.inference_mode():  # nothing counts the changes of such tensors
        assert g.estimate(torch.full((1, 3, 48, 48), 0.5)).score.shape == (1,)


def test_nan_names_the_defence_and_how_to_find_out(plugin: Path) -> None:
    call("score", "x.png", "--metric", "linear", "--plugin", plugin)
    g = load_defense("own-nan", load_metric("linear"))
    with pytest.raises(BadScore, match=r"1 of 1 scores of 'linear' behind 'own-nan' are NaN .*--defense none"):
        g.estimate(torch.full((1, 3, 48, 48), 0.5))


@pytest.mark.parametrize(("defense", "left"), [
    ("resize[scale=0.1]", "4x3"), ("random-crop[share=0.1]", "4x3"), ("chain[steps=flip;resize[scale=0.1]]", "4x3"),
])  # fmt: skip
def test_an_image_that_a_defence_makes_too_small_names_both(defense: str, left: str) -> None:
    g = load_defense(defense, load_metric("tiny-iqa"))
    words = rf"what '{defense.split('[')[0]}.* leaves of 40x33 px for the metric 'tiny-iqa' is {left} px: expected"
    with pytest.raises(BadImage, match=words):
        g.estimate(torch.full((1, 3, 33, 40), 0.5))


def test_an_image_that_is_too_small_already_is_told_of_the_metric() -> None:
    for defense in ("none", "flip", "random-flip"):
        with pytest.raises(BadImage, match=r"^an image for the metric 'tiny-iqa' is 40x33 px: expected at least 64x64"):
            load_defense(defense, load_metric("tiny-iqa")).estimate(torch.full((1, 3, 33, 40), 0.5))


def test_a_folder_that_cannot_be_written_is_found_before_the_attack(photos: list[Path]) -> None:
    words = ("--metric", "linear", "--attack", "fgsm", "--save", photos[1] / "x")
    result = call("attack", photos[0], *words)
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    assert "choose another --save" in result.stderr
    assert "Traceback" not in result.output


def test_a_list_with_commas_is_told_about_semicolons(photos: list[Path]) -> None:
    result = call("score", photos[0], "--metric", "linear", "--defense", "chain[steps=jpeg,webp]")
    assert "between the names of a list stands ';', not ','" in result.stderr
    assert ";" not in call("score", photos[0], "--metric", "linear", "--defense", "jpeg[webp]").stderr


def test_a_changed_suite_is_not_described_as_the_original() -> None:
    suite = load_suite("quick")
    assert suite.override((), (), (), ()).description == suite.description
    changed = suite.override((), ("none", "jpeg"), (), ("fgsm",))
    assert changed.description == "Suite 'quick' with other defenses, attacks than its own."


def test_tuning_without_human_scores_is_refused_before_the_first_cell(tmp_path: Path, photos: list[Path]) -> None:
    data = f"folder[root={photos[0].parent}]"
    result = call("tune", "--defense", "jpeg", "--dataset", data, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "has no human scores to measure accuracy by" in result.stderr
    assert not (tmp_path / "out").exists()


def test_training_without_data_names_its_own_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUSTIQA_DATA", raising=False)
    result = call("train", "metric", "--defense", "noise", "--out", tmp_path)
    assert result.exit_code == 1
    assert "--data-root FOLDER" in result.stderr


def test_a_class_that_derives_from_nothing(plugin: Path) -> None:
    """A beginner's first try: what to derive from is said, and nothing is called."""
    registry.load_file(plugin)
    with pytest.raises(BadPlugin, match=r"'own-nothing' is the class Nothing.*derive it from .*Purification"):
        load_defense("own-nothing", load_metric("linear"))
