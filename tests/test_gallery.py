"""The page of attacks: from the registry, complete, and honest about what did not run."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from robustiqa.attacks import L2, Linf, load_attack
from robustiqa.bench import load_metric
from robustiqa.bench.cli.main import cli
from robustiqa.bench.docstrings import described, running_text
from robustiqa.bench.registry import registry
from robustiqa.defenses import load_defense
from robustiqa.leaderboard.defense_gallery import write_defenses
from robustiqa.leaderboard.gallery import entries, parameters_of, picture, write_gallery

ROOT = Path(__file__).parents[1]
PLUGIN = '''
from robustiqa.attacks import Attack
from robustiqa.attacks.base import Candidate
from robustiqa.bench.registry import register_attack
import torch

@register_attack("gallery-own")
class Own(Attack):
    """Half the budget | on every value.

    Args:
        share: of the budget.
    """
    norms = ("l2",)

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def candidates(self, objective, x, threat):
        yield Candidate((x + self.share * threat.eps / x[0].numel() ** 0.5).clamp(0, 1))

@register_attack("gallery-broken")
class Broken(Attack):
    """Proposes NaN."""

    def candidates(self, objective, x, threat):
        objective.gradient(x * float("nan"))
        yield Candidate(x)
'''


def test_the_difference_is_shown_around_grey_at_full_contrast() -> None:
    x = torch.full((3, 8, 8), 0.4)
    adversarial = x.clone()
    adversarial[0, 2, 3], adversarial[1, 5, 6] = 0.5, 0.35
    image, factor = picture(x, adversarial)
    assert factor == pytest.approx(5.0)
    assert image.size == (3 * 8 + 2 * 4, 8)
    shown = np.asarray(image)[:, -8:]
    assert shown[2, 3].tolist() == [255, 128, 128]
    assert shown[5, 6].tolist() == [128, 64, 128]
    assert np.all(np.asarray(image)[:, :8] == 102)
    assert picture(x, x)[1] == 1.0, "nothing changed"


def test_an_own_attack_and_a_broken_one_are_on_the_page(linear, images, tmp_path, monkeypatch) -> None:
    (tmp_path / "own.py").write_text(PLUGIN)
    registry.load_file(tmp_path / "own.py")
    monkeypatch.setattr(registry, "names", lambda kind: ["gallery-broken", "gallery-own", "pgd"])
    g = load_defense("none", linear)
    found = list(entries(g, images[:1], [Linf(8 / 255), L2(0.3)]))
    page = write_gallery(found, images[0], tmp_path, g, "noise").read_text()
    assert [entry.name for entry in found] == ["gallery-broken", "gallery-own", "pgd"]
    assert "Did not run here" in page.split("## gallery-broken")[1].split("## gallery-own")[0]
    own = page.split("## gallery-own")[1].split("## pgd")[0]
    assert "| `share` | `0.5` | of the budget. |" in own
    # Half the budget along a constant direction: the gain of the linear metric is known.
    gain = float(0.15 / images[0].numel() ** 0.5 * linear.module.weights(images).sum())
    assert f"l2 0.3: gain {gain:.3f}" in own
    assert Image.open(tmp_path / "attacks" / "gallery-own.jpg").size == (3 * images.shape[3] + 8, images.shape[2])
    assert not (tmp_path / "attacks" / "gallery-broken.jpg").exists()


def test_gains_are_in_units_of_the_declared_range(images, tmp_path, monkeypatch) -> None:
    """`ranged` is the linear metric with a declared range of 2."""
    monkeypatch.setattr(registry, "names", lambda kind: ["pgd"])
    pages = []
    for metric in ("linear", "ranged"):
        g = load_defense("none", load_metric(metric))
        found = list(entries(g, images[:1], [Linf(8 / 255)]))
        pages.append(write_gallery(found, images[0], tmp_path, g, "noise").read_text())
        result = found[0].result
    assert result is not None
    gain, saved = float(result.gain[0]), float(result.gain_8bit[0])
    assert f"gain {gain:.3f} ({saved:.3f} saved" in pages[0]
    assert f"gain {gain / 2:.3f} ({saved / 2:.3f} saved" in pages[1]
    assert "no declared range" in pages[0]
    assert "2 to 4" in pages[1]


def test_docstrings_are_taken_apart() -> None:
    pgd, child = (type(load_attack(name)) for name in ("pgd", "ni-fgsm"))
    assert running_text(pgd).startswith("Projected gradient ascent")
    assert "Args" not in running_text(pgd)
    assert described(pgd, "Args")["restarts"].startswith("the first starts at the image itself")
    assert described(child, "Args")["momentum"].startswith("weight of what was accumulated"), "of the class it extends"


def test_the_page_in_the_documentation_is_complete_and_of_today() -> None:
    """Every attack with its text, defaults and picture; `make gallery` writes it again."""
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    ours = [name for name in registry.names("attack") if registry.get("attack", name).origin == "built-in"]
    for name in ours:
        section = page.split(f"\n## {name}\n")
        assert len(section) == 2, f"{name}: run `make gallery`"
        plugin: Any = registry.get("attack", name)
        assert running_text(plugin.factory) in section[1], f"{name}: run `make gallery`"
        own = section[1].split("\n## ")[0]
        for parameter in inspect.signature(plugin.factory).parameters:
            assert f"| `{parameter}` |" in own, f"{name}: run `make gallery`"
        # Two need the networks of pyiqa, which the machine that made the page did not have.
        pictured = (ROOT / "docs" / "attacks" / f"{name}.jpg").is_file()
        assert pictured or (name in ("zhang-lpips", "zhang-dists") and "Did not run here" in own), name


def test_the_page_of_defences_is_complete_and_of_today() -> None:
    page = (ROOT / "docs" / "defenses.md").read_text(encoding="utf-8")
    for name in registry.names("defense"):
        plugin: Any = registry.get("defense", name)
        if plugin.origin != "built-in":
            continue
        section = page.split(f"\n## {name}\n")
        assert len(section) == 2, f"{name}: run `make gallery`"
        assert running_text(plugin.factory) in section[1], f"{name}: run `make gallery`"
        own = section[1].split("\n## ")[0]
        for parameter, default, _ in parameters_of(plugin):
            assert f"| `{parameter}` | `{default}` |" in own, f"{name}: run `make gallery`"
        strength = plugin.meta["strength"]
        assert strength is None or f"`{strength.parameter}` = " in own, f"{name}: run `make gallery`"
        if f"(defenses/{name}.jpg)" in own:
            assert (ROOT / "docs" / "defenses" / f"{name}.jpg").is_file()
        elif hasattr(plugin.factory, "step"):
            assert "Not shown here" in own, f"{name} has no picture: run `make gallery`"


def test_a_defence_is_shown_as_the_metric_sees_it(linear, images, tmp_path, monkeypatch) -> None:
    registry.load_file(ROOT / "tests" / "plugins" / "broken.py")
    names = ["enlarged", "gaussian-blur", "lipschitz", "median-smoothing", "none"]
    monkeypatch.setattr(registry, "names", lambda kind: names)
    page = write_defenses(linear, images[:1], tmp_path, "noise").read_text()
    parts = {name: page.split(f"\n## {name}\n")[1].split("\n## ")[0] for name in names}
    height, width = images.shape[2:]
    assert f"{2 * width}x{2 * height} px of {width}x{height}" in parts["enlarged"]
    blurred = load_defense("gaussian-blur", linear).purify(images[:1])  # type: ignore[operator]
    psnr = -10 * np.log10(float((blurred - images[:1]).double().square().mean()))
    assert f"PSNR {psnr:.1f} dB" in parts["gaussian-blur"]
    assert "`kernel` = 3, 5, 7, 9, 11" in parts["gaussian-blur"]
    assert "Not shown here" in parts["lipschitz"]
    assert "certified in l2" in parts["median-smoothing"]
    assert "jpg" not in parts["median-smoothing"]
    assert "the image itself" in parts["none"]
    assert Image.open(tmp_path / "defenses" / "gaussian-blur.jpg").size == (3 * width + 8, height)


def test_every_attack_names_its_source() -> None:
    """A year of a paper, or a word on what else it comes from."""
    baselines = {"random-noise", "single-sign", "auto-iqa", "minimal-eps", "quantised-pgd", "transfer"}
    for name in registry.names("attack"):
        plugin = registry.get("attack", name)
        if plugin.origin == "built-in" and name not in baselines and not name.startswith("torchattacks-"):
            text = inspect.getdoc(plugin.factory) or ""
            assert any(f"{decade}" in text for decade in ("199", "200", "201", "202")), name


def test_the_command_writes_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(registry, "names", lambda kind: {"attack": ["fgsm"], "defense": ["jpeg"]}.get(kind, []))
    result = CliRunner().invoke(cli, ["gallery", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "attacks.md").read_text()
    assert "## fgsm" in page
    assert "## jpeg" in (tmp_path / "defenses.md").read_text()
    assert "tiny-iqa" in page
    result = CliRunner().invoke(cli, ["gallery", "--out", str(tmp_path), "--image", "99"])
    assert result.exit_code == 1
    assert "images 0 to 24" in result.output
