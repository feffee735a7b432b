"""Learned purifiers: the denoiser as it is, the sampler against closed forms, gradients through the chain, errors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from robustiqa.bench import Metric, load_metric, register_denoiser
from robustiqa.bench.errors import BadData, BadParameter, UnknownName
from robustiqa.bench.images import from_uint8
from robustiqa.bench.registry import registry
from robustiqa.bench.seeds import Role, Streams
from robustiqa.defenses import load_defense
from robustiqa.defenses.base import Purification, RandomPurification
from robustiqa.defenses.denoisers import DENOISERS, load_denoiser
from robustiqa.defenses.denoisers.diffusion import OneShotDiffusion, linear_alpha_bar, noise_levels
from robustiqa.defenses.learned import diffusion as learned
from robustiqa.defenses.learned.diffusion import DiffusionPurification
from robustiqa.defenses.learned.reverse import moves, spaced
from torch import nn
from torch.nn import functional as F

from .test_denoiser import psnr

DIFFPURE = "diffusion-purification"
TABLE = linear_alpha_bar()
MEAN, SPREAD = 0.1, 0.2
"""Of the data of `GaussianModel`, pixels in [-1,1]."""


class GaussianModel(nn.Module):
    """The best possible noise predictor for pixels that are independent N(MEAN, SPREAD^2), in closed form."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.seen: list[int] = []

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.seen.append(int(t[0]))
        kept = float(TABLE[t[0]])
        noise = math.sqrt(1 - kept) * (z - math.sqrt(kept) * MEAN) / (kept * SPREAD**2 + 1 - kept)
        return torch.cat([noise, 7 + z], 1) if self.channels == 6 else noise


@register_denoiser("gaussian-model")
def gaussian_model(sigma: float) -> nn.Module:
    """A diffusion model that knows its data."""
    return OneShotDiffusion(GaussianModel(), TABLE, sigma)


@register_denoiser("gaussian-model-6")
def gaussian_model_with_variance(sigma: float) -> nn.Module:
    """The same with three more channels."""
    return OneShotDiffusion(GaussianModel(6), TABLE, sigma)


@register_denoiser("brightener")
class Brightener(nn.Module):
    """Leaves [0,1]."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x - 0.5


def streams(x: torch.Tensor, seed: int = 0) -> Streams:
    return Streams.create([str(i) for i in range(len(x))], Role.EVALUATION, seed)


def diffpure(metric: Metric, options: str = "") -> DiffusionPurification:
    g = load_defense(f"{DIFFPURE}[{options}]" if options else DIFFPURE, metric)
    assert isinstance(g, DiffusionPurification)
    return g


def purify(metric: Metric, text: str, x: torch.Tensor) -> torch.Tensor:
    g = load_defense(text, metric)
    assert isinstance(g, Purification | RandomPurification)
    with torch.inference_mode():
        return g.step(x, streams(x))


def gaussian_data(seed: int = 0) -> torch.Tensor:
    """Images in [0,1] whose pixels in [-1,1] are N(MEAN, SPREAD^2): 98,304 of them."""
    noise = torch.randn((8, 3, 64, 64), generator=torch.Generator().manual_seed(seed))
    return (1 + MEAN + SPREAD * noise) / 2


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    crops = [getattr(skimage.data, name)()[:128:2, 100:228:2] for name in ("astronaut", "coffee")]
    return torch.stack([from_uint8(np.ascontiguousarray(crop)) for crop in crops])


def test_denoise_is_the_network_and_a_clamp(linear, photographs) -> None:
    network = load_denoiser("light-s0.12", 0.12)
    expected = network(photographs).clamp(0, 1)
    assert torch.equal(purify(linear, "denoise[sigma=0.12]", photographs), expected)
    assert torch.equal(purify(linear, "denoise[denoiser=light-s0.12]", photographs), expected)
    clamped = purify(linear, "denoise[denoiser=brightener]", photographs)
    assert torch.equal(clamped, (2 * photographs - 0.5).clamp(0, 1))
    assert float(clamped.min()) == 0
    assert float(clamped.max()) == 1


def test_denoise_runs_a_dncnn_of_others(linear, images, tmp_path) -> None:
    """KAIR's layout: convolutions with ReLU between them give the noise, which is subtracted."""
    drawn = torch.Generator().manual_seed(3)
    shapes = [(8, 3, 3, 3), (8, 8, 3, 3), (3, 8, 3, 3)]
    weights = [torch.randn(shape, generator=drawn) / 9 for shape in shapes]
    biases = [torch.randn(shape[0], generator=drawn) / 9 for shape in shapes]
    path = tmp_path / "dncnn_25.pth"
    pairs = zip(weights, biases, strict=True)
    state = {f"model.{2 * i}.{k}": v for i, p in enumerate(pairs) for k, v in zip(("weight", "bias"), p, strict=True)}
    torch.save(state, path)
    h = images
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        h = F.conv2d(F.relu(h) if i else h, weight, bias, padding=1)
    expected = (images - h).clamp(0, 1)
    torch.testing.assert_close(purify(linear, f"denoise[denoiser={path}]", images), expected, rtol=0, atol=1e-5)
    assert load_defense(f"denoise[denoiser={path},sigma=0.098]", linear)
    with pytest.raises(BadParameter, match=r"made for 0\.09804 alone"):
        load_defense(f"denoise[denoiser={path},sigma=0.05]", linear)


def test_stronger_denoisers_smooth_more(linear, photographs) -> None:
    strength = registry.get("defense", "denoise").meta["strength"]
    likeness = [psnr(purify(linear, text, photographs), photographs) for text in strength.specs("denoise")]
    assert likeness == sorted(likeness, reverse=True)
    assert likeness[-1] < 30 < likeness[0] < 40


def test_denoise_tells_a_network_for_all_levels_which_one(linear, photographs) -> None:
    for level in (0.03, 0.12):
        expected = load_denoiser("diffusion-light", level)(photographs)
        assert torch.equal(purify(linear, f"denoise[denoiser=diffusion-light,sigma={level}]", photographs), expected)


@pytest.mark.parametrize("text", ["denoise", DIFFPURE, f"{DIFFPURE}[sampler=ddim,t=35]"])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 33)])
def test_every_size_keeps_its_shape_and_stays_in_the_box(linear, text, size) -> None:
    x = torch.cat([torch.zeros(1, 3, *size), torch.ones(1, 3, *size)])
    y = purify(linear, text, x)
    assert y.shape == x.shape
    assert float(y.min()) >= 0
    assert float(y.max()) <= 1


@pytest.mark.parametrize("text", ["denoise", DIFFPURE])
def test_an_image_alone_is_the_image_in_a_batch(linear, photographs, text) -> None:
    g = load_defense(text, linear)
    assert isinstance(g, Purification | RandomPurification)
    with torch.inference_mode():
        together = g.step(photographs, streams(photographs))
        alone = g.step(photographs[1:], streams(photographs)[1:])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-6)


def variance_of(sampler: str, table: torch.Tensor, steps: list[int]) -> float:
    """Variance after the reverse process, from Ho et al. (eq. 7) and Song et al. (eq. 12), pixel by pixel.

    Everything is linear in the state here: x0 = gain z + constant, gain = sqrt(a) S^2 / (a S^2 + 1 - a).
    """
    kept = [float(table[t]) for t in steps]
    variance = kept[0] * SPREAD**2 + 1 - kept[0]
    for a, b in zip(kept, [*kept[1:], 1.0], strict=True):
        gain = math.sqrt(a) * SPREAD**2 / (a * SPREAD**2 + 1 - a)
        if sampler == "ddpm":
            alpha = a / b
            slope = math.sqrt(b) * (1 - alpha) / (1 - a) * gain + math.sqrt(alpha) * (1 - b) / (1 - a)
            variance = slope**2 * variance + (1 - b) / (1 - a) * (1 - alpha)
        else:
            slope = math.sqrt(b) * gain + math.sqrt(1 - b) * (1 - math.sqrt(a) * gain) / math.sqrt(1 - a)
            variance = slope**2 * variance
    return variance


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("count", [1, 2, 7, 150])
def test_samples_have_the_mean_of_the_data_and_the_variance_of_the_textbook(linear, sampler, count) -> None:
    """From t = 150 (abar .79) with the exact network, whose data has mean MEAN.

    Of n = 98,304 pixels the mean is known to SPREAD / sqrt(n) and the variance to sqrt(2 / n), .45 %.
    """
    y = purify(linear, f"{DIFFPURE}[denoiser=gaussian-model,t=150,steps={count},sampler={sampler}]", gaussian_data())
    pixels = 2 * y.double() - 1
    assert float(pixels.mean()) == pytest.approx(MEAN, abs=4 * SPREAD / math.sqrt(pixels.numel()))
    assert float(pixels.var()) == pytest.approx(variance_of(sampler, TABLE, spaced(0, 149, count)), rel=0.02)
    if count == 150:  # what is missing is the discretisation's: see below
        assert float(pixels.var()) == pytest.approx(SPREAD**2, rel=0.05)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_many_steps_return_the_variance_of_the_data(sampler: str) -> None:
    """The moves, put through the closed form: the error vanishes with more steps, and with a finer table."""
    off = []
    for finer, count in ((1, 1), (1, 10), (1, 150), (20, 3000)):
        table = linear_alpha_bar(1000 * finer, 1e-4 / finer, 0.02 / finer)
        steps = spaced(0, 150 * finer - 1, count)
        variance = float(table[steps[0]]) * SPREAD**2 + 1 - float(table[steps[0]])
        for move in moves(table, steps, float(sampler == "ddpm")):
            a = float(table[move.t])
            gain = math.sqrt(a) * SPREAD**2 / (a * SPREAD**2 + 1 - a)
            variance = (move.of_clean * gain + move.of_state) ** 2 * variance + move.spread**2
        assert variance == pytest.approx(variance_of(sampler, table, steps))
        off.append(abs(variance / SPREAD**2 - 1))
    assert off == sorted(off, reverse=True)
    assert off[-1] < 0.003


def test_ddpm_moves_are_those_of_ho_et_al() -> None:
    """Posterior mean sqrt(b) beta / (1 - a) x0 + sqrt(alpha) (1 - b) / (1 - a) z, variance (1 - b) / (1 - a) beta."""
    a, b = float(TABLE[50]), float(TABLE[49])
    beta = float(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[50])
    move = moves(TABLE, [50, 49], 1.0)[0]
    assert move.of_clean == pytest.approx(math.sqrt(b) * beta / (1 - a))
    assert move.of_state == pytest.approx(math.sqrt(1 - beta) * (1 - b) / (1 - a))
    assert move.spread == pytest.approx(math.sqrt((1 - b) / (1 - a) * beta))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_last_move_is_the_estimate_of_the_clean_image(eta: float) -> None:
    assert moves(TABLE, [9, 3], eta)[-1][1:] == (1.0, 0.0, 0.0)


def test_spaced_steps_by_hand() -> None:
    assert spaced(14, 34, 5) == [34, 29, 24, 19, 14]
    assert spaced(14, 34, 1) == [34]
    assert spaced(14, 16, 10) == [16, 15, 14]
    assert spaced(14, 14, 3) == [14]
    assert spaced(0, 7, 3) == [7, 4, 0]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_one_step_is_one_shot_denoising_of_one_draw(linear, photographs, sampler) -> None:
    y = purify(linear, f"{DIFFPURE}[steps=1,t=71,sampler={sampler}]", photographs)
    level = float(noise_levels(linear_alpha_bar())[70]) * (1 - 1e-12)
    noisy = photographs + level * streams(photographs).normal(photographs, 1)[0]
    torch.testing.assert_close(y, load_denoiser("diffusion-light", level)(noisy), rtol=0, atol=1e-5)


def test_steps_go_from_t_to_the_least_noisy_trained_one(linear, images) -> None:
    g = diffpure(linear)
    levels = noise_levels(linear_alpha_bar())
    assert [move.t for move in g.moves] == [19, 17, 15]
    assert levels[14] < 0.03 <= levels[15]
    seen = diffpure(linear, "denoiser=gaussian-model,t=9,steps=3")
    seen(images)
    network = seen.model.network
    assert isinstance(network, GaussianModel)
    assert network.seen[-3:] == [8, 4, 0], "a model that declares no range has all steps"


@pytest.mark.parametrize(("sampler", "drawn"), [("ddpm", 4), ("ddim", 1)])
def test_draws_are_taken_from_the_streams_and_no_more(linear, images, sampler, drawn) -> None:
    rng, twin = streams(images), streams(images)
    diffpure(linear, f"steps=4,sampler={sampler}").draw(images, rng)
    assert torch.equal(rng.normal(images, 1), twin.normal(images, drawn + 1)[-1:])


def test_deployed_score_is_the_mean_over_draws_of_its_own(linear, images) -> None:
    g = diffpure(linear, "m=3")
    rng = streams(images)
    with torch.inference_mode():
        draws = torch.stack([linear(g.draw(images, rng)) for _ in range(3)])
    estimate = g.estimate(images, streams(images))
    np.testing.assert_allclose(estimate.score, draws.double().mean(0).numpy(), rtol=1e-6)
    assert not torch.equal(draws[0], draws[1])
    assert not np.array_equal(estimate.score, g.estimate(images, streams(images, 1)).score)
    assert g.cost == 3


def test_a_learned_variance_is_dropped(linear, images) -> None:
    three, six = (f"{DIFFPURE}[denoiser=gaussian-model{kind},t=50]" for kind in ("", "-6"))
    assert torch.equal(purify(linear, three, images), purify(linear, six, images))


def slope_error(g: Purification | RandomPurification, x: torch.Tensor) -> float:
    """Relative difference of gradient and central difference along a random direction, with common draws."""
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    x = x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(g.surrogate(x, streams(x)).sum(), x)
    with torch.no_grad():
        ahead, behind = (g.surrogate(x + h * along, streams(x)).sum() for h in (1e-6, -1e-6))
    promised = float((gradient * along).sum())
    return abs(float(ahead - behind) / 2e-6 - promised) / abs(promised)


@pytest.mark.parametrize("text", ["denoise", DIFFPURE, f"{DIFFPURE}[steps=9,t=40]", f"{DIFFPURE}[sampler=ddim]"])
def test_gradients_through_all_steps_are_those_of_finite_differences(text) -> None:
    """In double precision; nine steps are more than a gradient keeps in memory."""
    g = load_defense(text, load_metric("linear")).double()
    assert isinstance(g, Purification | RandomPurification)
    assert g.smooth
    x = 0.3 + 0.4 * torch.rand((2, 3, 8, 16), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert slope_error(g, x) < 1e-3


def test_recomputed_steps_give_the_same_gradient(linear, photographs, monkeypatch) -> None:
    g, found, evaluations = diffpure(linear, "t=35"), [], []
    g.model.network.register_forward_hook(lambda *_: evaluations.append(1))  # pyright: ignore
    for most, expected in ((8, 3), (2, 6)):
        monkeypatch.setattr(learned, "MOST_KEPT", most)
        evaluations.clear()
        x = photographs.clone().requires_grad_(True)
        found.append(torch.autograd.grad(g.surrogate(x, streams(x)).sum(), x)[0])
        assert len(evaluations) == expected
    assert torch.equal(*found)


def test_surrogates_have_the_deployed_values(linear, photographs) -> None:
    g = diffpure(linear, "t=35")
    views = g.surrogates()
    assert views[0] is g
    assert [view.smooth for view in views] == [True, False, False]
    assert {view.spec for view in views} == {g.spec}
    with torch.inference_mode():
        value = g.draw(photographs, streams(photographs))
    gradients = []
    for view in views:
        x = photographs.clone().requires_grad_(True)
        seen = view.draw_surrogate(x, streams(x))
        assert torch.equal(seen, value)
        gradients.append(torch.autograd.grad(seen.square().sum(), x)[0])
    assert torch.equal(gradients[2], 2 * value)
    assert not torch.allclose(gradients[0], gradients[1])


def test_one_step_has_no_jump_beside_itself(linear, photographs) -> None:
    jump = diffpure(linear, "steps=1,surrogate=one-shot")
    assert jump.smooth
    assert [view.smooth for view in jump.surrogates()] == [True, False]
    identity = diffpure(linear, "steps=1,surrogate=identity")
    assert [view.smooth for view in identity.surrogates()] == [False, True]


def gained(text: str, x: torch.Tensor) -> tuple[float, float]:
    """Exact score, mean over 8 draws that the search has not seen: gain of five sign steps, and of noise as large."""
    g = load_defense(text, load_metric("tiny-iqa"))
    eps, rng = 4 / 255, streams(x, 1)
    found = x.clone()
    for _ in range(5):
        leaf = found.requires_grad_(True)
        (gradient,) = torch.autograd.grad(g.surrogate(leaf, rng, 1).sum(), leaf)
        found = (leaf.detach() + eps / 2 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    noise = (x + eps * streams(x, 2).uniform(x).sign()).clamp(0, 1)
    with torch.inference_mode():
        clean, attacked, shaken = (float(g.surrogate(image, streams(x), 8).mean()) for image in (x, found, noise))
    return attacked - clean, shaken - clean


@pytest.mark.parametrize("text", [
    "denoise",
    DIFFPURE,
    f"{DIFFPURE}[surrogate=one-shot]",
    f"{DIFFPURE}[surrogate=identity]",
])  # fmt: skip
def test_following_each_gradient_raises_the_exact_score(photographs, text) -> None:
    attacked, shaken = gained(text, photographs)
    assert attacked > 5 * abs(shaken) + 1


def test_every_preset_is_within_the_shipped_model(linear) -> None:
    strength = registry.get("defense", DIFFPURE).meta["strength"]
    levels = noise_levels(linear_alpha_bar())
    steps = [diffpure(linear, f"t={t}").moves[0].t for t in strength.presets]
    assert [f"{float(levels[t]):.2g}" for t in steps] == ["0.038", "0.062", "0.086", "0.13", "0.17"]


@pytest.mark.parametrize(("text", "words"), [
    ("denoise[sigma=0.0]", r"denoise\[sigma=0\.0\]: expected a noise level > 0"),
    ("denoise[sigma=0.5]", r"denoise\[sigma=0\.5\]: denoiser 'light-s0\.25' is made for 0\.25 alone"),
    ("denoise[denoiser=light-s0.06,sigma=0.12]", r"made for 0\.06 alone"),
    ("denoise[denoiser=diffusion-light,sigma=0.01]", r"trained for 0\.03 to 0\.3"),
    (f"{DIFFPURE}[t=0]", r"\[t=0\]: expected 16 to 171, the steps that 'diffusion-light' has"),
    (f"{DIFFPURE}[t=5]", r"\[t=5\]: expected 16 to 171"),
    (f"{DIFFPURE}[t=172]", r"\[t=172\]: expected 16 to 171"),
    (f"{DIFFPURE}[t=1001,denoiser=gaussian-model]", r"\[t=1001\]: expected 1 to 1000"),
    (f"{DIFFPURE}[steps=0]", r"\[steps=0\]: expected at least 1"),
    (f"{DIFFPURE}[sampler=euler]", r"\[sampler=euler\]: expected ddpm or ddim"),
    (f"{DIFFPURE}[surrogate=bpda]", r"\[surrogate=bpda\]: expected full or one-shot or identity"),
    (f"{DIFFPURE}[m=0]", "m=0: expected 1 to 10000 draws"),
    (f"{DIFFPURE}[denoiser=light-s0.06]", "is a LightDenoiser: expected a diffusion model, such as diffusion-light"),
    (f"{DIFFPURE}[denoiser=brightener]", "is a Brightener: expected a diffusion model"),
    (f"{DIFFPURE}[denoiser={DENOISERS['light-s0.06']}]", "is a LightDenoiser: expected a diffusion model"),
])  # fmt: skip
def test_bad_parameters_are_named(linear, text, words) -> None:
    with pytest.raises(BadParameter, match=words):
        load_defense(text, linear)


@pytest.mark.parametrize("name", ["denoise", DIFFPURE])
def test_bad_weights_are_named(linear, tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownName, match="denoiser"):
        load_defense(f"{name}[denoiser=absent]", linear)
    for file in ("absent.pth", "absent.safetensors"):
        with pytest.raises(BadData, match="do not exist"):
            load_defense(f"{name}[denoiser={tmp_path / file}]", linear)


def test_weights_of_a_diffusion_model_are_taken_from_a_file(linear, photographs) -> None:
    file = DENOISERS["diffusion-light"]
    assert torch.equal(
        purify(linear, f"{DIFFPURE}[denoiser={file}]", photographs), purify(linear, DIFFPURE, photographs)
    )
    with pytest.raises(BadParameter, match="expected 16 to 171"):
        load_defense(f"{DIFFPURE}[denoiser={file},t=5]", linear)
