"""DnCNN weights in KAIR's layout against a plain re-implementation, and with the published file where it is here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from robustiqa.bench.errors import BadData, BadParameter
from robustiqa.bench.images import load_image
from robustiqa.defenses.denoisers import load_denoiser
from robustiqa.defenses.denoisers.kair import KairDnCNN, level_of_name, load_kair
from torch import nn

State = dict[str, torch.Tensor]


def weights(channels: int = 1, layers: int = 4, width: int = 6, kernel: int = 3) -> State:
    """Random tensors in KAIR's layout: the index counts the ReLUs as well."""
    generator = torch.Generator().manual_seed(channels)
    sizes = [channels, *[width] * (layers - 1), channels]
    state: State = {}
    for i in range(layers):
        shape = (sizes[i + 1], sizes[i], kernel, kernel)
        state[f"model.{2 * i}.weight"] = torch.randn(shape, generator=generator) / (sizes[i] * kernel**2) ** 0.5
        state[f"model.{2 * i}.bias"] = 0.1 * torch.randn(sizes[i + 1], generator=generator)
    return state


def save(folder: Path, content: object, name: str = "dncnn_25.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def plain(state: State) -> Callable[[torch.Tensor], torch.Tensor]:
    """The noise that the network predicts, for images with as many channels as it has."""
    parts: list[nn.Module] = []
    for i in range(len(state) // 2):
        w, b = state[f"model.{2 * i}.weight"], state[f"model.{2 * i}.bias"]
        conv = nn.Conv2d(w.shape[1], w.shape[0], w.shape[2], padding=w.shape[2] // 2)
        conv.load_state_dict({"weight": w, "bias": b})
        parts += [nn.ReLU(), conv] if i else [conv]
    return nn.Sequential(*parts).requires_grad_(False)


def noisy(*size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.rand((2, 3, *size), generator=generator) + 0.1 * torch.randn((2, 3, *size), generator=generator)


@pytest.mark.parametrize(("channels", "kernel"), [(1, 3), (3, 3), (3, 5)])
@pytest.mark.parametrize("size", [(32, 32), (9, 20), (1, 3)])
def test_it_is_the_plain_network(tmp_path: Path, channels: int, kernel: int, size: tuple[int, int]) -> None:
    state = weights(channels, kernel=kernel)
    x = noisy(*size)
    net = load_kair(save(tmp_path, state), 25 / 255)
    noise = plain(state)
    if channels == 3:
        expected = x - noise(x)
    else:
        expected = torch.cat([x[:, c : c + 1] - noise(x[:, c : c + 1]) for c in range(3)], dim=1)
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)
    assert net.channels == channels


@pytest.mark.parametrize("channels", [1, 3])
def test_another_level_is_scaled_to_that_of_the_training(tmp_path: Path, channels: int) -> None:
    path = save(tmp_path, weights(channels))
    x, s = noisy(16, 24), 0.12 * 255 / 25
    scaled, own = load_kair(path, 0.12), load_kair(path, 25 / 255)
    assert (scaled.scale, own.scale) == (pytest.approx(s), pytest.approx(1.0))
    torch.testing.assert_close(scaled(x), s * own(x / s), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(scaled(x), own(x), atol=1e-3)
    assert scaled.made_for == pytest.approx(25 / 255)
    assert scaled.trained_sigma is None, "it adapts: no note that it was made for another level"
    weaker = load_kair(path, 0.05)
    assert weaker.scale == 1.0, "values beyond 1 would do more harm than the wrong level"
    assert weaker.trained_sigma == weaker.made_for


def test_without_a_level_in_the_name_it_is_applied_as_it_is(tmp_path: Path) -> None:
    state, x = weights(3), noisy(16, 24)
    net = load_kair(save(tmp_path, state, "dncnn_color_blind.pth"), 0.3)
    torch.testing.assert_close(net(x), x - plain(state)(x), rtol=1e-5, atol=1e-5)
    assert net.made_for is None
    assert net.trained_sigma is None


@pytest.mark.parametrize(
    ("name", "level"),
    [("dncnn_15", 15), ("dncnn-50", 50), ("a_255", 255), ("dncnn3", None), ("dncnn_gray_blind", None), ("x_0", None),
     ("step_1000", None), ("25", None), ("dncnn_25_v2", None)],
)  # fmt: skip
def test_the_level_stands_at_the_end_of_the_name(name: str, level: int | None) -> None:
    assert level_of_name(Path("model_7") / f"{name}.pth") == (None if level is None else level / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_frozen_and_each_image_on_its_own(tmp_path: Path, channels: int) -> None:
    net = load_denoiser(str(save(tmp_path, weights(channels, layers=3, width=5))), 0.12)
    assert isinstance(net, KairDnCNN)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    x = noisy(20, 18).requires_grad_(True)
    torch.testing.assert_close(net(x)[1:], net(x[1:]), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    assert (gradient != 0).float().mean() > 0.99


def renamed(state: State, old: str, new: str) -> State:
    return {new if key == old else key: value for key, value in state.items()}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (weights(layers=1), "1 layers"),
        (weights(channels=2), "2 channels to 2"),
        (weights() | {"model.6.weight": torch.zeros(3, 6, 3, 3), "model.6.bias": torch.zeros(3)}, "1 channels to 3"),
        (weights(kernel=4), "layer 0"),
        (weights() | {"model.2.weight": torch.zeros(6, 5, 3, 3)}, "layer 1"),
        (weights() | {"model.2.bias": torch.zeros(5)}, "layer 1"),
        (weights() | {"model.0.weight": torch.zeros(6)}, "layer 0"),
        (renamed(weights(), "model.2.bias", "model.3.running_mean"), "'model.2.bias' is missing"),
        ({k: v for k, v in weights().items() if k != "model.0.bias"}, "missing|unknown"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, content: object, word: str) -> None:
    with pytest.raises(BadData, match=word) as caught:
        load_kair(save(tmp_path, content), 0.1)
    assert "dncnn_25.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ([1, 2], "no table of tensors .* a list"),
        ({}, "no table of tensors"),
        ({"a": weights(), "b": weights()}, "several networks"),
        (weights() | {"model.4.bias": torch.full((6,), torch.nan)}, "'model.4.bias' holds values that are not finite"),
        (weights() | {"model.4.bias": torch.zeros(6).to_sparse()}, "'model.4.bias' is sparse"),
        (weights() | {"model.4.bias": torch.zeros(6, dtype=torch.int64)}, "'model.4.bias' is torch.int64"),
    ],
)
def test_the_file_is_read_as_other_weights_are(tmp_path: Path, content: object, word: str) -> None:
    with pytest.raises(BadData, match=word) as caught:
        load_kair(save(tmp_path, content), 0.1)
    assert "\n" not in str(caught.value)


def test_a_table_inside_a_checkpoint_is_found(tmp_path: Path) -> None:
    state, x = weights(), noisy(16, 24)
    nets = [load_kair(save(tmp_path, content), 0.1) for content in (state, {"epoch": 3, "params": state})]
    assert torch.equal(nets[0](x), nets[1](x))


def test_bad_files_and_levels_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="do not exist"):
        load_denoiser(str(tmp_path / "none.pth"), 0.1)
    path = save(tmp_path, weights())
    for sigma in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BadParameter, match="sigma"):
            load_kair(path, sigma)
    whole = path.read_bytes()
    for content in (b"", b"not weights", b"\x80\x02junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(BadData, match="cannot be read"):
            load_kair(path, 0.1)


@pytest.fixture(scope="module")
def published() -> tuple[Path, list[torch.Tensor]]:
    """KAIR's file, and photographs (1,3,H,W)."""
    root = Path(os.environ.get("ROBUSTIQA_DATA", ""))
    path = root / "weights" / "kair_dncnn" / "dncnn_25.pth"
    photographs = sorted((root / "bsds500").glob("*.jpg"))[::125]
    if "ROBUSTIQA_DATA" not in os.environ or not path.is_file() or not photographs:
        pytest.skip("KAIR's DnCNN or BSDS500 are not here: set ROBUSTIQA_DATA")
    return path, [load_image(photograph)[None, :, :128, :128] for photograph in photographs]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10.0 * float(torch.log10((a - b).square().mean()))


def gains(nets: list[nn.Module], photographs: list[torch.Tensor], sigma: float) -> np.ndarray:
    """PSNR (photographs, 1 + nets) in dB of the noisy photographs, and of what each network makes of them."""
    rows = []
    for clean in photographs:
        x = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            rows.append([psnr(y, clean) for y in (x, *(net(x) for net in nets))])
    return np.array(rows)


def test_published_weights_remove_the_noise_of_their_level(published: tuple[Path, list[torch.Tensor]]) -> None:
    path, photographs = published
    before, after = gains([load_kair(path, 25 / 255)], photographs, 25 / 255).mean(0)
    assert before == pytest.approx(20.2, abs=0.1)
    assert 28.5 < after < 32.0


def test_scaling_helps_at_another_level(published: tuple[Path, list[torch.Tensor]]) -> None:
    path, photographs = published
    _, scaled, as_it_is = gains([load_kair(path, 0.12), load_kair(path, 25 / 255)], photographs, 0.12).T
    assert (scaled > as_it_is + 1.0).all()
