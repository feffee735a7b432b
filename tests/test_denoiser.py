"""The shipped denoiser and its training: sizes, gain in PSNR, resume, clear errors."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from robustiqa.bench.errors import BadData, BadParameter, UnknownName
from robustiqa.bench.images import from_uint8
from robustiqa.bench.training.loop import save_weights
from robustiqa.defenses.denoisers import DENOISERS, load_denoiser
from robustiqa.defenses.denoisers.nets import LightDenoiser, _shuffle
from robustiqa.defenses.denoisers.training import DenoiserTrainConfig, train_denoiser
from safetensors.torch import load_file, save_file
from torch import nn

from .test_train_metric import make_release


@pytest.fixture(scope="module")
def denoiser() -> nn.Module:
    return load_denoiser("light-s0.12", 0.12)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10.0 * float(torch.log10((a - b).square().mean()))


@pytest.mark.parametrize("size", [(64, 64), (65, 67), (37, 128), (9, 20), (5, 5), (1, 3)])
def test_any_size(denoiser: nn.Module, size: tuple[int, int]) -> None:
    x = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(0))
    assert denoiser(x).shape == x.shape
    assert torch.isfinite(denoiser(x)).all()


def test_it_is_frozen_small_and_has_a_card(denoiser: nn.Module) -> None:
    assert not denoiser.training
    assert not any(p.requires_grad for p in denoiser.parameters())
    for name, path in DENOISERS.items():
        assert path.stat().st_size <= 1e6
        card = path.with_suffix(".md").read_text()
        assert (
            "robustiqa train diffusion-denoiser" if name == "diffusion-light" else "robustiqa train denoiser"
        ) in card
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card
        assert "/work" not in card


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_it_removes_noise_from_photographs_it_never_saw(denoiser: nn.Module, name: str) -> None:
    photo = getattr(skimage.data, name)()[:256:2, 100:356:2]
    clean = from_uint8(np.ascontiguousarray(photo))[None]
    noisy = clean + 0.12 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert psnr(noisy, clean) == pytest.approx(18.4, abs=0.2)
    assert psnr(denoiser(noisy), clean) > psnr(noisy, clean) + 6.0


def test_an_image_does_not_depend_on_its_batch(denoiser: nn.Module) -> None:
    x = torch.rand((4, 3, 72, 80), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(denoiser(x)[1], denoiser(x[1:2])[0], rtol=0, atol=1e-5)


def test_gradients_reach_the_input(denoiser: nn.Module) -> None:
    x = torch.rand((1, 3, 33, 33), generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(denoiser(x).sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.99


def test_the_shuffle_is_a_permutation() -> None:
    """Each output pixel is one input value: nothing is lost or doubled."""
    x = torch.arange(2 * 12 * 3 * 5, dtype=torch.float32).reshape(2, 12, 3, 5)
    assert sorted(_shuffle(x).flatten().tolist()) == sorted(x.flatten().tolist())
    assert _shuffle(x)[0, :, 0, 0].tolist() == x[0, :3, 0, 0].tolist()


def test_bad_names_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"light-s0\.12"):
        load_denoiser("light-s0.13", 0.12)
    with pytest.raises(BadData, match="do not exist"):
        load_denoiser(str(tmp_path / "none.safetensors"), 0.12)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights")
    with pytest.raises(BadData, match="cannot be read"):
        load_denoiser(str(broken), 0.12)
    save_file({"first.weight": torch.zeros(16, 3, 6, 6)}, broken)
    with pytest.raises(BadData, match="cannot be read"):
        load_denoiser(str(broken), 0.12)


def toy(tmp_path: Path, out: str, **changes: object) -> DenoiserTrainConfig:
    config = DenoiserTrainConfig(
        data_root=str(make_release(tmp_path)),
        out=str(tmp_path / out),
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
    whole = load_file(train_denoiser(toy(tmp_path, "whole"), say=lambda _: None))

    def interrupt(line: str) -> None:
        if line.startswith("denoiser 8/"):
            raise Stop

    with pytest.raises(Stop):
        train_denoiser(toy(tmp_path, "parts"), say=interrupt)
    lines: list[str] = []
    path = train_denoiser(toy(tmp_path, "parts"), say=lines.append)
    assert any("continuing after step 4" in line for line in lines)
    parts = load_file(path)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    rows = (tmp_path / "parts" / "denoiser.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "4", "8", "12"]
    assert load_denoiser(str(path), 0.12)(torch.full((1, 3, 40, 40), 0.3)).shape == (1, 3, 40, 40)
    assert path.with_suffix(".md").is_file()


def test_training_lowers_the_error(tmp_path: Path) -> None:
    config = toy(tmp_path, "out", steps=200, batch=8, checkpoint_every=50, log_every=50)
    train_denoiser(config, say=lambda _: None)
    rows = (tmp_path / "out" / "denoiser.csv").read_text().splitlines()[1:]
    errors = [float(row.split(",")[1]) for row in rows]
    assert errors[-1] < errors[0]
    assert errors[-1] < 0.12**2 * 0.95, "better than leaving the noise in"


def test_impossible_settings_are_named(tmp_path: Path) -> None:
    for change in ({"crop": 33}, {"sigma": 0.0}, {"log_every": 3}):
        with pytest.raises(BadParameter, match="training settings"):
            train_denoiser(toy(tmp_path, "bad", **change))


def test_the_width_is_read_from_the_file(tmp_path: Path) -> None:
    net = LightDenoiser(8)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "w8.safetensors")
    loaded = load_denoiser(str(tmp_path / "w8.safetensors"), 0.12)
    assert isinstance(loaded, LightDenoiser)
    assert loaded.trained_sigma is None, "the file does not say it"


def test_the_noise_level_of_the_training_is_known(tmp_path: Path) -> None:
    assert load_denoiser("light-s0.12", 0.25).trained_sigma == 0.12, "what it was made for, not what it is used for"
    path = train_denoiser(toy(tmp_path, "out", sigma=0.07), say=lambda _: None)
    assert load_denoiser(str(path), 0.25).trained_sigma == 0.07
    odd = tmp_path / "odd.safetensors"
    for sigma in ("much", None):
        save_weights(LightDenoiser(8), odd, {"kind": "denoiser-light", "sigma": sigma})
        with pytest.raises(BadData, match="cannot be read"):
            load_denoiser(str(odd), 0.12)


def test_a_file_is_the_same_bytes_whenever_it_is_saved(tmp_path: Path) -> None:
    net = LightDenoiser(8)
    about = dict.fromkeys("abcdefgh", 1)
    blobs = {save_weights(net, tmp_path / f"{i}.safetensors", about).read_bytes() for i in range(5)}
    assert len(blobs) == 1
