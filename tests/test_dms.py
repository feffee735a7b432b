"""dms-iqa: median smoothing with the denoiser that was trained for the metric."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.errors import BadData, Incompatible
from robustiqa.bench.plan import make_plan
from robustiqa.bench.registry import identity_of, registry
from robustiqa.bench.suite import load_suite
from robustiqa.bench.training.loop import save_weights
from robustiqa.defenses import load_defense
from robustiqa.defenses.denoisers import DENOISERS, load_denoiser
from robustiqa.defenses.denoisers.choose import LEVELS, TIGHT, ordinary, trained_for
from robustiqa.defenses.denoisers.nets import LightDenoiser


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return load_dataset("photos").load(0)[None]


@pytest.mark.parametrize(("defense", "kind"), [("dms-iqa", "dms"), ("dms-iqa-tight", "tight")])
def test_the_shipped_denoiser_of_the_metric_and_the_level_is_taken(
    photo: torch.Tensor, defense: str, kind: str
) -> None:
    metric = load_metric("tiny-iqa")
    for sigma in LEVELS:
        auto = load_defense(f"{defense}[sigma={sigma},n=30,m=5]", metric)
        named = load_defense(f"median-smoothing[sigma={sigma},n=30,m=5,denoiser={kind}-tiny-iqa-s{sigma:g}]", metric)
        a, b = (g.certify(photo, [0.01], alpha=0.5) for g in (auto, named))
        assert np.array_equal(a.lo, b.lo)
        assert np.array_equal(a.hi, b.hi)
        assert not a.notes
        ordinary_one = load_defense(f"denoised-median-smoothing[sigma={sigma},n=30,m=5]", metric)
        assert not np.array_equal(ordinary_one.certify(photo, [0.01], alpha=0.5).lo, a.lo)


@pytest.mark.parametrize(("sigma", "name"), [(0.01, "light-s0.06"), (0.1, "light-s0.12"), (0.16, "light-s0.18"),
                                             (1.0, "light-s0.25")])  # fmt: skip
def test_the_ordinary_denoiser_of_the_nearest_level_is_taken(sigma: float, name: str) -> None:
    assert ordinary(sigma) == name


@pytest.mark.parametrize("level", LEVELS)
def test_shipped_files_say_what_they_are(level: float) -> None:
    for name in (f"light-s{level:g}", f"dms-tiny-iqa-s{level:g}", f"tight-tiny-iqa-s{level:g}"):
        assert name in registry.names("denoiser")
        assert DENOISERS[name].stat().st_size < 2e6
        net = load_denoiser(name, 0.1)
        assert getattr(net, "trained_sigma", None) == level
        assert getattr(net, "trained_metric", None) == (None if name.startswith("light") else "tiny-iqa")
        assert f"{level:g}" in registry.get("denoiser", name).summary


@pytest.mark.parametrize(("metric", "sigma"), [("lip-iqa", 0.12), ("tiny-iqa", 0.1), ("tiny-iqa[weights=x]", 0.12)])
def test_without_a_shipped_denoiser_it_says_how_to_train_one(metric: str, sigma: float) -> None:
    with pytest.raises(Incompatible, match=f"robustiqa train denoiser --metric .* --sigma {sigma:g}"):
        trained_for(metric, sigma)
    with pytest.raises(Incompatible, match=r"rank\+spread --image-weight 10 --spread-weight 2 --data"):
        trained_for(metric, sigma, TIGHT)


def test_a_denoiser_of_another_metric_is_told(photo: torch.Tensor, tmp_path: Path) -> None:
    g = load_defense("dms-iqa[n=40,denoiser=dms-tiny-iqa-s0.12]", load_metric("lip-iqa"))
    assert any("trained for the metric 'tiny-iqa'" in note for note in g.certify(photo, [0.01], alpha=0.5).notes)
    path = save_weights(LightDenoiser(8), tmp_path / "own.safetensors", {"kind": "denoiser", "metric": "lip-iqa"})
    g = load_defense(f"dms-iqa[n=40,denoiser={path}]", load_metric("lip-iqa"))
    assert not g.certify(photo, [0.01], alpha=0.5).notes


def test_an_ordinary_denoiser_is_told(photo: torch.Tensor) -> None:
    g = load_defense("dms-iqa[n=40,denoiser=light-s0.12]", load_metric("tiny-iqa"))
    assert any("was not trained for a metric" in note for note in g.certify(photo, [0.01], alpha=0.5).notes)


def test_a_folder_is_no_denoiser(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"expected a \.safetensors file"):
        load_denoiser(str(tmp_path), 0.12)


def test_its_identity_knows_the_weights_of_a_file(tmp_path: Path) -> None:
    path = save_weights(LightDenoiser(8), tmp_path / "own.safetensors", {"kind": "denoiser"})
    before = identity_of("defense", f"dms-iqa[denoiser={path}]")
    with torch.no_grad():
        (changed := LightDenoiser(8)).last.bias.add_(1)  # type: ignore[union-attr]
    save_weights(changed, path, {"kind": "denoiser"})
    assert identity_of("defense", f"dms-iqa[denoiser={path}]") != before
    assert "auto" in identity_of("defense", "dms-iqa")


def test_the_paper_suite_runs_on_what_is_here_and_says_what_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUSTIQA_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # as if it were not installed
    made = make_plan(load_suite("paper"))
    assert {(c.metric, c.dataset.split("[")[0]) for c in made.cells} == {("tiny-iqa", "photos")}
    methods = {c.defense for c in made.cells if c.kind == "certify"}
    assert len(methods) == 16, "four methods at four noise levels"
    absent = {what for what, _ in made.skipped}
    assert {"data set koniq10k[limit=200,split=test]", "data set clive[split=test]", "metric pyiqa:topiq_nr"} <= absent
