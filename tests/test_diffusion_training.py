"""Training of the one-shot diffusion denoiser: resume, what it starts from, clear errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from robustiqa.bench.errors import BadParameter
from robustiqa.defenses.denoisers import load_denoiser
from robustiqa.defenses.denoisers.diffusion import linear_alpha_bar
from robustiqa.defenses.denoisers.diffusion_training import DiffusionTrainConfig, train_diffusion_denoiser
from safetensors import safe_open
from safetensors.torch import load_file

from .test_diffusion import gaussian
from .test_train_metric import make_release

TABLE = linear_alpha_bar()


def toy(tmp_path: Path, out: str, **changes: object) -> DiffusionTrainConfig:
    config = DiffusionTrainConfig(
        data_root=str(make_release(tmp_path)),
        out=str(tmp_path / out),
        start="",
        width=8,
        crop=32,
        batch=4,
        steps=12,
        checkpoint_every=4,
        log_every=4,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


class Stop(Exception):
    """Stands in for a kill."""


def test_a_resumed_training_gives_the_same_weights(tmp_path: Path) -> None:
    whole = load_file(train_diffusion_denoiser(toy(tmp_path, "whole"), say=lambda _: None))

    def interrupt(line: str) -> None:
        if line.startswith("diffusion 8/"):
            raise Stop

    with pytest.raises(Stop):
        train_diffusion_denoiser(toy(tmp_path, "parts"), say=interrupt)
    lines: list[str] = []
    path = train_diffusion_denoiser(toy(tmp_path, "parts"), say=lines.append)
    assert any("continuing after step 4" in line for line in lines)
    parts = load_file(path)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["robustiqa"]) == {"kind": "diffusion-light", "low": 0.03, "high": 0.3}
    assert torch.equal(parts["alpha_bar"], TABLE), "the table is no weight: nothing may move it"
    assert load_denoiser(str(path), 0.2)(torch.full((1, 3, 40, 40), 0.3)).shape == (1, 3, 40, 40)
    assert path.with_suffix(".md").is_file()


def test_training_starts_as_the_denoiser_it_is_given(tmp_path: Path) -> None:
    """With a learning rate of next to nothing the result is that denoiser, at every noise level."""
    config = toy(tmp_path, "warm", start="light-s0.12", width=16, steps=1, lr=1e-12)
    x = 0.5 + 0.1 * gaussian((1, 3, 40, 40))
    path = str(train_diffusion_denoiser(config, say=lambda _: None))
    expected = load_denoiser("light-s0.12", 0.12)(x).clamp(0, 1)
    for sigma in (0.05, 0.12, 0.3):
        torch.testing.assert_close(load_denoiser(path, sigma)(x), expected, rtol=0, atol=1e-5)


def test_impossible_settings_are_named(tmp_path: Path) -> None:
    for change in ({"crop": 33}, {"log_every": 3}, {"low": 0.3, "high": 0.2}):
        with pytest.raises(BadParameter, match="training settings"):
            train_diffusion_denoiser(toy(tmp_path, "bad", **change), say=lambda _: None)
    for start in ("light-s0.12", "diffusion-light"):
        with pytest.raises(BadParameter, match="expected a light denoiser of width 8"):
            train_diffusion_denoiser(toy(tmp_path, "bad", start=start), say=lambda _: None)
