"""Denoising networks and their files: sizes, gain in PSNR, what a file says, clear errors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from robustiqa.bench.errors import BadData, BadParameter, UnknownName
from robustiqa.bench.images import from_uint8
from robustiqa.bench.training.loop import initialise, save_weights
from robustiqa.defenses.denoisers import DENOISERS, load_denoiser
from robustiqa.defenses.denoisers.nets import DnCNN, LightDenoiser, _shuffle
from safetensors.torch import save_file
from torch import nn


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


def test_the_width_is_read_from_the_file(tmp_path: Path) -> None:
    net = LightDenoiser(8)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "w8.safetensors")
    loaded = load_denoiser(str(tmp_path / "w8.safetensors"), 0.12)
    assert isinstance(loaded, LightDenoiser)
    assert loaded.trained_sigma is None, "the file does not say it"


def test_the_noise_level_of_the_training_is_known(tmp_path: Path) -> None:
    assert load_denoiser("light-s0.12", 0.25).trained_sigma == 0.12, "what it was made for, not what it is used for"
    odd = tmp_path / "odd.safetensors"
    for sigma in ("much", None):
        save_weights(LightDenoiser(8), odd, {"kind": "denoiser", "sigma": sigma})
        with pytest.raises(BadData, match="cannot be read"):
            load_denoiser(str(odd), 0.12)
    save_weights(LightDenoiser(8), odd, {"kind": "denoiser", "sigma": 0.2, "low": 0.1})
    several = load_denoiser(str(odd), 0.12)
    assert several.trained_sigma is None
    assert several.trained_range == (0.1, 0.2)


NETS = {
    "unet": lambda told: LightDenoiser(8, told),
    "dncnn": lambda told: DnCNN(3, 8, told),
}


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("name", list(NETS))
def test_every_network_comes_back_from_its_file(name: str, told: bool, tmp_path: Path) -> None:
    net = NETS[name](told)
    initialise(net, 0)
    path = save_weights(net, tmp_path / "net.safetensors", {"kind": "denoiser", "net": name, "sigma": 0.1})
    loaded = load_denoiser(str(path), 0.1)
    assert type(loaded) is type(net)
    x = torch.rand((3, 3, 21, 34), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(x), net(x, torch.full((3,), 0.1)), rtol=0, atol=1e-6)
    # Unscaled random weights give values of order 10: rounding differs with the batch.
    torch.testing.assert_close(loaded(x)[1:2], loaded(x[1:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(NETS))
def test_only_a_conditioned_network_depends_on_the_level(name: str) -> None:
    x = torch.rand((2, 3, 24, 24), generator=torch.Generator().manual_seed(0))
    for told in (False, True):
        net = NETS[name](told)
        initialise(net, 0)
        low, high = net(x, torch.tensor([0.05, 0.05])), net(x, torch.tensor([0.05, 0.25]))
        assert torch.allclose(low[0], high[0], atol=1e-6)
        assert torch.allclose(low[1], high[1], atol=1e-6) is not told
    with pytest.raises(BadParameter, match="told the noise level"):
        NETS[name](True)(x)


def test_dncnn_is_the_stack_of_the_paper() -> None:
    """17 convolutions of 64 channels with a residual: 556,000 weights without batch norm, a field of 35 pixels."""
    net = DnCNN()
    assert sum(p.numel() for p in net.parameters()) == 3 * 64 * 9 + 64 + 15 * (64 * 64 * 9 + 64) + 64 * 3 * 9 + 3
    torch.nn.init.zeros_(net.last.weight)
    torch.nn.init.zeros_(net.last.bias)  # type: ignore[arg-type]
    x = torch.rand((1, 3, 40, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(net(x), x), "a network that sees no noise changes nothing"
    net = DnCNN(4, 4)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(net(x)[0, :, 20, 20].sum(), x)
    seen = torch.nonzero(gradient.abs().sum((0, 1)))
    assert (seen.min(0).values >= 20 - 4).all()
    assert (seen.max(0).values <= 20 + 4).all()
    with pytest.raises(BadParameter, match="at least 2"):
        DnCNN(1)


def test_a_file_is_the_same_bytes_whenever_it_is_saved(tmp_path: Path) -> None:
    net = LightDenoiser(8)
    about = dict.fromkeys("abcdefgh", 1)
    blobs = {save_weights(net, tmp_path / f"{i}.safetensors", about).read_bytes() for i in range(5)}
    assert len(blobs) == 1
