"""One-shot diffusion denoising: the step by hand, the pixel scale, an oracle network, the shipped weights, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.images import from_uint8
from robustiqa.bench.training.loop import initialise
from robustiqa.defenses.denoisers import DENOISERS, load_denoiser
from robustiqa.defenses.denoisers.diffusion import (
    OneShotDiffusion,
    cosine_alpha_bar,
    linear_alpha_bar,
    load_diffusion,
)
from robustiqa.defenses.denoisers.nets import LightEpsilon
from safetensors.torch import load_file, save_file

from .test_denoiser import psnr

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
TABLE = linear_alpha_bar()
SHIPPED = DENOISERS["diffusion-light"]


def zeros(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(z)


def gaussian(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def photograph(name: str) -> torch.Tensor:
    photo = getattr(skimage.data, name)()[:256:2, 100:356:2]
    return from_uint8(np.ascontiguousarray(photo))[None]


def test_the_linear_table_by_hand() -> None:
    assert linear_alpha_bar(3, 0.1, 0.3).tolist() == pytest.approx([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])
    assert TABLE.shape == (1000,)
    assert float(TABLE[0]) == pytest.approx(1 - 1e-4)
    assert float(TABLE[-1]) == pytest.approx(4.04e-5, rel=0.01), "Ho et al. 2020, section 4: about N(0, 1) at the end"


def test_the_cosine_table_by_hand() -> None:
    """cos^2(pi/2 .508/1.008) / cos^2(pi/2 .008/1.008) = .493766 / .999845; the last beta is cut to .999."""
    assert cosine_alpha_bar(2).tolist() == pytest.approx([0.493843, 0.493843e-3], rel=1e-5)
    assert bool((cosine_alpha_bar(1000).diff() < 0).all())


@pytest.mark.parametrize(("sigma", "step"), [(0.12, 70), (0.25, 145), (1e-9, 0)])
def test_the_step_by_hand(sigma: float, step: int) -> None:
    """First t with sum of -log(1 - beta) >= log(1 + 4 sigma^2).

    .12: .05600 lies between .05515 (t = 69) and .05664 (70); .25: .22314 between .22270 (144) and .22569 (145).
    """
    assert OneShotDiffusion(zeros, TABLE, sigma).t == step


@pytest.mark.parametrize("sigma", [0.06, 0.12, 0.3, 2.0])
def test_the_step_is_the_first_that_is_noisy_enough(sigma: float) -> None:
    t = OneShotDiffusion(zeros, TABLE, sigma).t
    kept, before = float(TABLE[t]), float(TABLE[t - 1])
    assert math.sqrt(1 - kept) / math.sqrt(kept) >= 2 * sigma > math.sqrt(1 - before) / math.sqrt(before)


def test_a_level_of_the_table_is_taken_as_it_is() -> None:
    """Table .8, .5, .2: noise .5, 1, 2 for [-1,1], so .25, .5, 1 for [0,1]."""
    table = torch.tensor([0.8, 0.5, 0.2], dtype=torch.float64)
    steps = [OneShotDiffusion(zeros, table, sigma).t for sigma in (0.2, 0.26, 0.5, 0.6)]
    assert steps == [0, 1, 1, 2]


def test_the_true_noise_gives_the_clean_image() -> None:
    """Also of the scale: with pixels taken as [-1,1] already, or sigma not doubled, the state would be another."""
    sigma = math.sqrt((1 - float(TABLE[70])) / float(TABLE[70])) / 2 * (1 - 1e-12)
    clean, noise = torch.rand((2, 3, 9, 7), generator=torch.Generator().manual_seed(1)), gaussian((2, 3, 9, 7))

    def oracle(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.tolist() == [70, 70]
        assert t.dtype == torch.int64
        kept = TABLE[t].float()[:, None, None, None]
        torch.testing.assert_close(z, kept.sqrt() * (2 * clean - 1) + (1 - kept).sqrt() * noise, rtol=0, atol=1e-5)
        return noise

    denoised = OneShotDiffusion(oracle, TABLE, sigma)(clean + sigma * noise)
    torch.testing.assert_close(denoised, clean, rtol=0, atol=1e-5)


def test_a_learned_variance_is_dropped() -> None:
    noisy = gaussian((2, 3, 8, 8))
    six = OneShotDiffusion(lambda z, t: torch.cat([0.1 * z, 7 + z], 1), TABLE, 0.12)(noisy)
    assert torch.equal(six, OneShotDiffusion(lambda z, t: 0.1 * z, TABLE, 0.12)(noisy))


def test_no_noise_is_added_and_nothing_is_clamped_before_the_network() -> None:
    seen: list[torch.Tensor] = []

    def spy(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(z)
        return torch.zeros_like(z)

    noisy = 0.5 + 2 * gaussian((2, 3, 8, 8))
    denoiser = OneShotDiffusion(spy, TABLE, 0.25)
    outputs = [denoiser(noisy), denoiser(noisy)]
    assert torch.equal(*seen)
    torch.testing.assert_close(seen[0], math.sqrt(float(TABLE[145])) * (2 * noisy - 1))
    torch.testing.assert_close(outputs, [noisy.clamp(0, 1)] * 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "table",
    [
        torch.full((2, 2), 0.5),
        torch.zeros(0),
        torch.tensor([0.9, 0.9]),
        torch.tensor([0.2, 0.9]),
        torch.tensor([1.0, 0.5]),
        torch.tensor([0.9, 0.0]),
        torch.tensor([0.9, float("nan"), 0.1]),
    ],
)
def test_impossible_tables_are_named(table: torch.Tensor) -> None:
    with pytest.raises(BadParameter, match="alpha-bar table"):
        OneShotDiffusion(zeros, table, 0.12)


@pytest.mark.parametrize("sigma", [0.0, -0.1, float("nan")])
def test_a_sigma_that_is_not_positive_is_named(sigma: float) -> None:
    with pytest.raises(BadParameter, match="expected a positive number"):
        OneShotDiffusion(zeros, TABLE, sigma)


def test_a_sigma_beyond_the_table_is_named() -> None:
    with pytest.raises(BadParameter, match="noisiest of the 2 steps"):
        OneShotDiffusion(zeros, torch.tensor([0.9, 0.8]), 0.26)
    assert OneShotDiffusion(zeros, torch.tensor([0.9, 0.8]), 0.2499).t == 1


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda z, t: z[:, :2], "returned shape"),
        (lambda z, t: torch.cat([z, z[:, :1]], 1), "returned shape"),
        (lambda z, t: z[..., 1:], "returned shape"),
        (lambda z, t: z[:1], "returned shape"),
        (lambda z, t: z.clone().fill_(float("nan")), "not finite"),
        (lambda z, t: torch.cat([z[..., 1:], z[..., :1] / 0], 3), "not finite"),
    ],
)
def test_a_network_that_does_not_fit_is_named(network: Network, words: str) -> None:
    with pytest.raises(BadParameter, match=words):
        OneShotDiffusion(network, TABLE, 0.12)(gaussian((2, 3, 8, 8)))


@pytest.mark.parametrize("make", [lambda: linear_alpha_bar(0), lambda: linear_alpha_bar(10, 0.2, 0.1)])
def test_impossible_linear_schedules_are_named(make: Callable[[], torch.Tensor]) -> None:
    with pytest.raises(BadParameter, match="linear schedule"):
        make()


def test_impossible_cosine_schedules_are_named() -> None:
    with pytest.raises(BadParameter, match="cosine schedule"):
        cosine_alpha_bar(0)


@pytest.mark.parametrize(("sigma", "gain"), [(0.06, 4.5), (0.12, 7.5), (0.25, 10.5)])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_it_removes_noise_from_photographs_it_never_saw(name: str, sigma: float, gain: float) -> None:
    clean = photograph(name)
    noisy = clean + sigma * gaussian((1, 3, 128, 128))
    assert psnr(load_denoiser("diffusion-light", sigma)(noisy), clean) > psnr(noisy, clean) + gain


def test_it_keeps_up_with_the_denoiser_for_one_level() -> None:
    clean = photograph("astronaut")
    noisy = clean + 0.12 * gaussian((1, 3, 128, 128))
    own, light = (load_denoiser(name, 0.12)(noisy).clamp(0, 1) for name in ("diffusion-light", "light-s0.12"))
    assert psnr(own, clean) > psnr(light, clean) - 0.1


def test_the_shipped_denoiser_is_frozen_and_adapts() -> None:
    denoiser = load_denoiser("diffusion-light", 0.25)
    assert isinstance(denoiser, OneShotDiffusion)
    assert not denoiser.training
    assert not any(p.requires_grad for p in denoiser.parameters())
    assert (denoiser.t, denoiser.trained_sigma) == (145, None)


@pytest.mark.parametrize("size", [(64, 64), (37, 67), (9, 20), (1, 3)])
def test_any_size_and_batch(size: tuple[int, int]) -> None:
    denoiser = load_denoiser("diffusion-light", 0.12)
    x = 0.5 + 0.3 * gaussian((3, 3, *size))
    assert denoiser(x).shape == x.shape
    torch.testing.assert_close(denoiser(x)[1], denoiser(x[1:2])[0], rtol=0, atol=1e-5)


def test_gradients_reach_the_input() -> None:
    x = (0.5 + 0.05 * gaussian((1, 3, 33, 33))).requires_grad_(True)
    (gradient,) = torch.autograd.grad(load_denoiser("diffusion-light", 0.06)(x).sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.99


def test_the_network_takes_another_step_for_each_image() -> None:
    net = LightEpsilon(TABLE, 8).eval()
    initialise(net, 0)
    z, t = gaussian((3, 3, 16, 16)), torch.tensor([20, 70, 150])
    together = net(z, t)
    for i in range(3):
        torch.testing.assert_close(together[i], net(z[i : i + 1], t[i : i + 1])[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(net(z[:1], t[:1]), net(z[:1], t[1:2]))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"do not exist.*train diffusion-denoiser"):
        load_diffusion(tmp_path / "none.safetensors", 0.12)
    path = tmp_path / "broken.safetensors"
    path.write_bytes(SHIPPED.read_bytes()[:1000])
    with pytest.raises(BadData, match="cannot be read"):
        load_diffusion(path, 0.12)
    with pytest.raises(BadData, match="of kind 'denoiser', expected 'diffusion-light'"):
        load_diffusion(DENOISERS["light-s0.12"], 0.12)
    save_file({"x": torch.zeros(1)}, path, {"robustiqa": '{"kind": "other"}'})
    with pytest.raises(BadData, match="unknown kind 'other'"):
        load_denoiser(str(path), 0.12)
    state = load_file(SHIPPED)
    changes = (
        {"alpha_bar": state["alpha_bar"].flip(0)},
        {"first.weight": torch.zeros(8, 3, 6, 6)},
        {"more": torch.zeros(1)},
    )
    for change in changes:
        save_file({**state, **change}, path, {"robustiqa": '{"kind": "diffusion-light"}'})
        with pytest.raises(BadData, match="cannot be read"):
            load_denoiser(str(path), 0.12)
    for header in ("[]", "{"):
        save_file(state, path, {"robustiqa": header})
        with pytest.raises(BadData, match="cannot be read"):
            load_denoiser(str(path), 0.12)
    with pytest.raises(BadParameter, match="noisiest of the 1000 steps"):
        load_denoiser("diffusion-light", 1e4)
