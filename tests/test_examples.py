"""The examples: EONSS against plain re-implementations, with the authors' weights where they are here."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from robustiqa.bench import Metric, load_metric
from robustiqa.bench.errors import BadData, BadImage, BadParameter
from robustiqa.bench.images import from_uint8
from robustiqa.bench.registry import registry
from torch import nn

FILE = Path(__file__).parents[1] / "examples" / "eonss.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The plug-in file, loaded as `--plugin` does."""
    registry.load_file(FILE)
    return sys.modules[registry.get("metric", "eonss").factory.__module__]


@pytest.fixture(scope="module")
def net(example: ModuleType) -> nn.Module:
    """The network with random weights; denominators mix channels, and gamma is not symmetric."""
    return randomised(example.EONSS())


def randomised(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith(("beta", "gamma")):
                p.copy_(0.05 + 0.2 * torch.rand(p.shape, generator=generator))
            elif p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
            else:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return net.eval().requires_grad_(False)


def images(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(height + width))


def save(net: nn.Module, path: Path, change: Callable[[dict[str, torch.Tensor]], object] = lambda _: None) -> str:
    """Write weights in the authors' layout, changed if need be."""
    state = {f"module.{key}": value.clone() for key, value in net.state_dict().items()}
    change(state)
    torch.save({"state_dict": state}, path)
    return str(path)


@pytest.mark.parametrize(
    ("height", "width", "starts"),
    [
        (235, 235, [(0, 0)]),
        (362, 363, [(0, 0), (0, 128)]),
        (363, 300, [(0, 0), (128, 0)]),
        (491, 370, [(0, 0), (0, 128), (128, 0), (128, 128), (256, 0), (256, 128)]),
    ],
)
def test_the_patch_grid(
    example: ModuleType, net: nn.Module, height: int, width: int, starts: list[tuple[int, int]]
) -> None:
    x = images(2, height, width)
    naive = []
    for image in x:
        patches = []
        i = 0
        while i + 235 <= height:
            j = 0
            while j + 235 <= width:
                assert (i, j) == starts[len(patches)]
                patches.append(image[:, i : i + 235, j : j + 235])
                j += 128
            i += 128
        assert len(patches) == len(starts)
        naive.append(torch.stack([plain_score(net, patch) for patch in patches]).mean())
    torch.testing.assert_close(net(x), torch.stack(naive), rtol=1e-5, atol=1e-5)
    assert example.corners(height, width) == starts
    patches = example.cut(x, starts)
    assert patches.shape == (2 * len(starts), 3, 235, 235)
    assert torch.equal(patches[-1], x[1, :, starts[-1][0] :, starts[-1][1] :][:, :235, :235])


def plain_score(net: nn.Module, patch: torch.Tensor) -> torch.Tensor:
    """The score of one patch, layer by layer as it is written in the description of the network."""
    w = dict(net.named_parameters())
    y = patch[None]
    for k, (stride, padding, side) in enumerate(((2, 2, 118), (2, 2, 30), (2, 2, 8), (1, 0, 2)), 1):
        y = nn.functional.conv2d(y, w[f"conv{k}.weight"], w[f"conv{k}.bias"], stride, padding)
        assert y.shape[-2:] == (side, side)
        y = nn.functional.max_pool2d(plain_gdn(y, w[f"gdn{k}.beta"], w[f"gdn{k}.gamma"]), 2)
    y = w["st2_fc1.weight"][:, :, 0, 0] @ y[0, :, 0, 0] + w["st2_fc1.bias"]
    y = plain_gdn(y[None, :, None, None], w["st2_gdn1.beta"], w["st2_gdn1.gamma"])[0, :, 0, 0]
    return w["st2_fc2.weight"][0, :, 0, 0] @ y + w["st2_fc2.bias"][0]


def plain_gdn(x: torch.Tensor, beta: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """x / sqrt(beta + gamma^T x^2) over channels."""
    return x / torch.sqrt(beta[:, None, None] + torch.einsum("ij,bihw->bjhw", gamma, x**2))


def test_gdn_is_the_formula(example: ModuleType) -> None:
    gdn = randomised(example.GDN(5)).double()
    x = torch.randn((2, 5, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    beta, gamma = (dict(gdn.named_parameters())[name] for name in ("beta", "gamma"))
    assert not torch.equal(gamma, gamma.t())
    torch.testing.assert_close(gdn(x), plain_gdn(x, beta, gamma))
    one = float(x[1, 2, 0, 3]) / float(beta[2] + sum(gamma[i, 2] * x[1, i, 0, 3] ** 2 for i in range(5))) ** 0.5
    assert float(gdn(x)[1, 2, 0, 3]) == pytest.approx(one, rel=1e-12)


def test_gdn_has_a_gradient_where_a_channel_is_silent(example: ModuleType) -> None:
    """With the smallest offset that a file may have: 1/sqrt(beta) is the slope at zero."""
    gdn = example.GDN(2)
    gdn.beta.data.fill_(example.LEAST_BETA)
    x = torch.zeros((1, 2, 1, 1), requires_grad=True)
    (gradient,) = torch.autograd.grad(gdn(x).sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, example.LEAST_BETA**-0.5))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_flat_image_has_a_score_and_a_gradient(net: nn.Module, level: float) -> None:
    x = torch.full((1, 3, 240, 240), level, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.isfinite(net(x)).all()
    assert torch.isfinite(gradient).all()


def test_gradient_is_that_of_finite_differences(net: nn.Module) -> None:
    net64 = randomised(type(net)()).double()
    x = images(1, 240, 365).double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net64(x).sum(), x)
    assert float(gradient[..., 363:].abs().max()) == 0.0, "no whole patch reaches there"
    assert float((gradient[..., :235, :363] != 0).double().mean()) > 0.99
    for seed in range(4):
        d = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        h = 1e-7  # small enough that hardly a maximum changes its place
        with torch.no_grad():
            slope = float(net64(x + h * d) - net64(x - h * d)) / (2 * h)
        assert float((gradient * d).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_an_image_does_not_depend_on_its_batch(net: nn.Module) -> None:
    x = images(3, 370, 240)
    together = net(x)
    assert together.shape == (3,)
    assert together.dtype == torch.float32
    assert torch.equal(together, net(x)), "deterministic"
    torch.testing.assert_close(together, torch.cat([net(x[i : i + 1]) for i in range(3)]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, net(x.contiguous(memory_format=torch.channels_last)), rtol=1e-5, atol=1e-5)
    assert together.std() > 0


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 7, 1000])
def test_scores_do_not_depend_on_how_many_patches_run_at_once(
    example: ModuleType, net: nn.Module, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    x = images(3, 363, 491)
    usual = net(x)
    monkeypatch.setattr(example, "_AT_ONCE_CPU", at_once)
    torch.testing.assert_close(net(x), usual, rtol=1e-5, atol=1e-5)


def test_the_plugin_reads_the_layout_of_the_authors(net: nn.Module, tmp_path: Path) -> None:
    metric = load_metric(f"eonss[weights={save(net, tmp_path / 'w.pt')}]")
    assert not metric.lower_better
    assert not metric.bounded
    assert not any(p.requires_grad for p in metric.parameters())
    x = images(2, 240, 240)
    assert torch.equal(metric(x), net(x))
    with pytest.raises(BadImage, match="235x235"):
        metric(images(1, 234, 300))


def test_bad_files_are_named(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(BadParameter, match="weights"):
        load_metric("eonss")
    with pytest.raises(BadParameter, match="expected the path"):
        load_metric("eonss[weights=]")
    for name, words in (("none.pt", "do not exist"), ("", "are a folder")):
        with pytest.raises(BadData, match=words):
            load_metric(f"eonss[weights={tmp_path / name}]")
    whole = Path(save(net, path)).read_bytes()
    for content in (b"", b"not weights", b"\x80\x02junk", whole[: len(whole) // 2], whole[:-200]):
        path.write_bytes(content)
        with pytest.raises(BadData, match="cannot be read"):
            load_metric(f"eonss[weights={path}]")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: s.pop("module.gdn1.beta"), "missing: 'gdn1.beta'"),
        (lambda s: s.update(extra=torch.zeros(1)), "unknown: 'extra'"),
        (lambda s: s.update({"module.conv1.bias": torch.zeros(9)}), "expected \\(8,\\)"),
        (lambda s: s["module.gdn2.beta"].fill_(0.0), "denominator"),
        (lambda s: s["module.gdn2.gamma"].fill_(-1.0), "denominator"),
        (lambda s: s["module.conv2.weight"].fill_(float("nan")), "not finite"),
    ],
)
def test_weights_of_another_network_are_refused(
    net: nn.Module, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], word: str
) -> None:
    with pytest.raises(BadData, match=word) as caught:
        load_metric(f"eonss[weights={save(net, tmp_path / 'w.pt', change)}]")
    assert "\n" not in str(caught.value)


def test_a_file_without_the_table_is_refused(tmp_path: Path) -> None:
    for content, words in (
        ({"conv1.weight": torch.zeros(1)}, "missing: 'conv1.bias'"),
        ([1, 2], "state_dict: there is a list"),
        ({"state_dict": 3}, "state_dict: there is entries 'state_dict'"),
    ):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(BadData, match=words):
            load_metric(f"eonss[weights={tmp_path / 'w.pt'}]")


@pytest.fixture(scope="module")
def published(example: ModuleType) -> tuple[Metric, list[np.ndarray]]:
    """The metric with the authors' weights, and photographs (H,W,3) uint8."""
    root = Path(os.environ.get("ROBUSTIQA_DATA", ""))
    weights = root / "weights" / "eonss" / "EONSS_model.pt"
    photographs = sorted((root / "bsds500").glob("*.jpg"))[:12]
    if "ROBUSTIQA_DATA" not in os.environ or not weights.is_file() or not photographs:
        pytest.skip("EONSS's weights or BSDS500 are not here: set ROBUSTIQA_DATA")
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in photographs]
    return load_metric(f"eonss[weights={weights}]"), arrays


def test_published_weights_fall_with_quality(published: tuple[Metric, list[np.ndarray]]) -> None:
    """What the description says: about 23.6 for photographs, 1 for JPEG of quality 5, -4 for noise of sigma 60."""
    metric, photographs = published
    rng = np.random.default_rng(0)
    rows = []
    for photograph in photographs:
        file = io.BytesIO()
        Image.fromarray(photograph).save(file, "JPEG", quality=5)
        noisy = np.clip(photograph + 60 * rng.standard_normal(photograph.shape), 0, 255).astype(np.uint8)
        versions = (photograph, np.asarray(Image.open(file)), noisy)
        rows.append([float(metric(from_uint8(np.ascontiguousarray(v))[None])) for v in versions])
    clean, jpeg, noisy = np.array(rows).T
    assert clean.mean() == pytest.approx(23.6, abs=0.5)
    assert jpeg.mean() == pytest.approx(1.0, abs=2.0)
    assert noisy.mean() == pytest.approx(-4.0, abs=2.0)
    assert (clean > np.maximum(jpeg, noisy) + 10).all()
