"""S-CNN with our head: against the network written out, with the authors' weights where they are here."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from robustiqa.bench import load_dataset, load_metric
from robustiqa.bench.cli.main import cli
from robustiqa.bench.errors import BadData, BadImage, BadParameter
from robustiqa.bench.measures import srocc
from robustiqa.bench.registry import registry
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The plug-in file, loaded as `--plugin` does."""
    return registry.load_file(EXAMPLES / "scnn.py")


@pytest.fixture(scope="module")
def net(example: ModuleType) -> nn.Module:
    """The network with random weights and statistics that matter."""
    generator = torch.Generator().manual_seed(3)
    net = example.SCNN()
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.is_floating_point():
            scale = value[0].numel() ** -0.5 if value.ndim > 1 else 0.3
            value.copy_(scale * torch.randn(value.shape, generator=generator) + (value.ndim == 1))
    return net.eval().requires_grad_(False)


@pytest.fixture
def weights(net: nn.Module, tmp_path: Path) -> Path:
    """A file in the authors' layout: names behind `module.`, no counters of batch norms."""
    state = {f"module.{k}": v for k, v in net.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "scnn.pkl", _use_new_zipfile_serialization=False)
    return tmp_path / "scnn.pkl"


def images(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(height + width))


def plain(net: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Statistics and logits, layer by layer as the paper's table and the description of the weights have them."""
    w = net.state_dict()

    def block(y: torch.Tensor, name: str, stride: int, padding: int) -> torch.Tensor:
        group, number = name.split(".")
        y = F.conv2d(y, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding)
        mean, var, gain, shift = (
            w[f"{group}.{int(number) + 1}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (gain * (y - mean) / (var + 1e-5).sqrt() + shift).clamp_min(0)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    y = (x - mean[:, None, None]) / std[:, None, None]
    for k, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 2)):
        y = block(y, f"features.{3 * k}", stride, 1)
    means = y.mean((2, 3))
    spread = ((y - means[:, :, None, None]).square().mean((2, 3)) + 1e-4).sqrt()
    z = block(block(means[:, :, None, None], "projection.0", 1, 0), "projection.3", 1, 0).flatten(1)
    return torch.cat([means, spread, z], 1), z @ w["classifier.weight"].T + w["classifier.bias"]


def test_the_network_is_its_description(net: nn.Module) -> None:
    assert sum(p.numel() for p in net.parameters()) == 640_983
    x = images(2, 50, 66)
    statistics, logits = plain(net, x)
    torch.testing.assert_close(net.statistics(x), statistics, rtol=1e-4, atol=1e-4)  # type: ignore[operator]
    torch.testing.assert_close(net(x), logits, rtol=1e-4, atol=1e-3)


def test_the_score_is_linear_in_the_statistics(net: nn.Module, weights: Path) -> None:
    metric = load_metric(f"scnn[weights={weights}]")
    x, head = images(3, 40, 56), load_file(EXAMPLES / "scnn_head.safetensors")
    expected = plain(net, x)[0] @ head["weight"][0] + head["bias"]
    torch.testing.assert_close(metric(x), expected, rtol=1e-4, atol=1e-2)
    assert not metric.lower_better
    torch.testing.assert_close(metric(x), torch.cat([metric(i[None]) for i in x]), rtol=1e-4, atol=1e-2)
    with pytest.raises(BadImage, match="32x32"):
        metric(images(1, 31, 50))


def test_gradient_is_that_of_finite_differences(net: nn.Module, weights: Path) -> None:
    metric = load_metric(f"scnn[weights={weights}]").double()
    x = images(1, 40, 48).double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(metric(x).sum(), x)
    assert float((gradient != 0).double().mean()) > 0.99
    for seed in range(3):
        d = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            slope = float(metric(x + 1e-7 * d) - metric(x - 1e-7 * d)) / 2e-7
        assert float((gradient * d).sum()) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_a_flat_image_has_a_gradient(weights: Path) -> None:
    x = torch.full((1, 3, 40, 40), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(load_metric(f"scnn[weights={weights}]")(x).sum(), x)
    assert torch.isfinite(gradient).all()


def test_bad_files_are_named(
    example: ModuleType, net: nn.Module, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadParameter, match="weights"):
        load_metric("scnn")
    with pytest.raises(BadParameter, match=r"expected the path of scnn\.pkl"):
        load_metric("scnn[weights=]")
    with pytest.raises(BadData, match="do not exist"):
        load_metric("scnn[weights=none.pkl]")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pkl")
    with pytest.raises(BadData, match="are not those of SCNN"):
        load_metric(f"scnn[weights={tmp_path / 'other.pkl'}]")
    save_file({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    with pytest.raises(BadData, match=r"'weight' is \(1, 3\), expected \(1, 512\)"):
        load_metric(f"scnn[weights={weights},head={tmp_path / 'head.safetensors'}]")
    monkeypatch.setattr(example, "HEAD", tmp_path / "head.safetensors")
    with pytest.raises(BadData, match=r"not the one that belongs to scnn\.py"):
        load_metric(f"scnn[weights={weights}]")


def test_the_head_is_the_one_that_the_plugin_and_its_card_name(example: ModuleType) -> None:
    digest = hashlib.sha256((EXAMPLES / "scnn_head.safetensors").read_bytes()).hexdigest()
    assert digest == example.HEAD_SHA256
    assert digest in (EXAMPLES / "scnn_head.md").read_text()


def test_ridge_is_least_squares_with_rows_added() -> None:
    """Ridge regression on centred columns is plain least squares on sqrt(strength) I below them."""
    fit = registry.load_file(EXAMPLES / "fit_scnn_head.py")
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, [1, 20, 0.1], (40, 3)), rng.normal(50, 10, 40)
    z = (x - x.mean(0)) / (x.std(0) + 1e-6)
    rows, values = np.vstack([z, 5**0.5 * np.eye(3)]), np.concatenate([y - y.mean(), np.zeros(3)])
    expected = z @ np.linalg.lstsq(rows, values, rcond=None)[0] + y.mean()
    w, b = fit.ridge(x, y, 5.0)
    assert x @ w + b == pytest.approx(expected)


# With the authors' weights


@pytest.fixture(scope="module")
def published(example: ModuleType) -> tuple[str, Path]:
    """The metric with the authors' weights, as plug-in string, and the folder of real data."""
    root = Path(os.environ.get("ROBUSTIQA_DATA", ""))
    path = root / "weights" / "dbcnn_scnn" / "scnn.pkl"
    if "ROBUSTIQA_DATA" not in os.environ or not path.is_file() or not (root / "clive").is_dir():
        pytest.skip("S-CNN's weights or CLIVE are not here: set ROBUSTIQA_DATA")
    return f"scnn[weights={path}]", root


@pytest.mark.slow
def test_published_weights_order_photographs_as_people_do(published: tuple[str, Path]) -> None:
    """Half of the test split; the card has the figure for all of it: .717."""
    text, root = published
    data = load_dataset(f"clive[root={root / 'clive'},split=test,limit=65]")
    metric = load_metric(text)
    with torch.no_grad():
        scores = np.array([float(metric(data.load(i)[None])) for i in range(len(data))])
    assert srocc(scores, np.array([item.truth for item in data.items], dtype=float)) > 0.6


def test_published_weights_tell_noise_from_the_photograph(published: tuple[str, Path]) -> None:
    """S-CNN's own task, through the whole network: more noise, more of the same class."""
    text, root = published
    metric = load_metric(text)
    x = load_dataset(f"clive[root={root / 'clive'},split=val,limit=1]").load(0)[None]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    classes = [metric.module.net((x + s * noise).clamp(0, 1)).argmax(1).item() for s in (0.0, 0.2, 0.4)]  # type: ignore[operator, union-attr]
    assert classes[0] not in classes[1:]


def test_published_weights_through_the_command_line(published: tuple[str, Path], photo: Path) -> None:
    text, _ = published
    base = [str(photo), "--plugin", str(EXAMPLES / "scnn.py"), "--metric", text]
    for command in (
        ["score"],
        ["attack", "--attack", "fgsm"],
        ["certify", "--defense", "median-smoothing[n=60,m=5]", "--eps", "0.01"],
    ):
        result = CliRunner().invoke(cli, [command[0], *base, *command[1:]])
        assert result.exit_code == 0, result.output
